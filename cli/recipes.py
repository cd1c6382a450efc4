"""``episodes recipes [NAME]``: the recipes that come with the package, and what each gave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cli.recipe import Recipe


@click.command("recipes")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option(
    "--markdown", is_flag=True, help="Tables of what was measured, one a data set, as the documentation has them."
)
def command(name: str | None, as_json: bool, markdown: bool) -> None:
    """List the recipes that come with the package: data, method, published and measured numbers; or print one as TOML.

    Size paper is the published schedule, cpu one that two cores finish in minutes. Use one with
    `episodes train METHOD STORE -o RUN --recipe NAME`; start one of your own with `episodes recipes NAME > own.toml`.
    """
    from cli import shipped
    from cli.recipe import find

    if name is not None and not (as_json or markdown):
        click.echo(shipped.text(name), nl=False)
        return
    found = [find(one) for one in ((name,) if name is not None else shipped.names())]
    if as_json:
        click.echo(json.dumps(about(found[0]) if name is not None else {"recipes": [about(one) for one in found]}))
        return
    click.echo(tables(found) if markdown else "\n\n".join(described(one) for one in found))


def described(recipe: Recipe) -> str:
    """A few lines: what it is for, what it gave, on what."""
    kind = f" ({recipe.size})" if recipe.size else ""
    lines = [f"{recipe.name}{kind}: {recipe.method} on {recipe.data or 'any data'}, {recipe.train.steps:,} steps"]
    lines += [f"  {result}" for result in recipe.result]
    return "\n".join([*lines, f"  {f'ran: {recipe.ran}' if recipe.ran else 'not run'}"])


def tables(recipes: Sequence[Recipe]) -> str:
    """What was measured, as Markdown: a table a data set, the rows of a recipe together."""
    by_data: dict[str, list[str]] = {}
    for recipe in recipes:
        measured = [result for result in recipe.result if result.measured is not None]
        for i, result in enumerate(measured):
            run = "the same run" if i else f"`{recipe.name}`, {recipe.ran}"
            by_data.setdefault(recipe.data, []).append(f"| {result.kind} | {result.number} | {result.beside} | {run} |")
    head = "| setting | measured | published | recipe, time |\n|---|---|---|---|"
    return "\n\n".join(f"## {data}\n\n{head}\n" + "\n".join(rows) for data, rows in sorted(by_data.items()))


def about(recipe: Recipe) -> dict[str, Any]:
    """The same as plain values."""
    from episodes.config import to_table

    head = {name: getattr(recipe, name) for name in ("name", "about", "size", "data", "method")}
    results = [to_table(result) for result in recipe.result]
    return {**head, "steps": recipe.train.steps, "result": results, "ran": to_table(recipe.ran) if recipe.ran else None}
