"""``episodes bench STORE``: how fast episodes come, beside other ways to the same samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import build, episode_options, from_dataclass
from cli._places import any_store
from cli._progress import bar
from episodes.bench import Settings
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.made import StorePlace


def _workers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected numbers with commas between them, got '{value}'") from None


@click.command("bench")
@click.argument("store", type=any_store)
@episode_options()
@click.option(
    "--workers", default="0,1,2", show_default=True, callback=_workers, help="Threads and worker processes to try."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Rates as a picture, .png.")
@click.option("--overwrite", is_flag=True, help="Replace the picture if it exists.")
def command(
    store: StorePlace, workers: tuple[int, ...], as_json: bool, output: Path | None, overwrite: bool, **values: Any
) -> None:
    """Measure how fast episodes of STORE come: streams, one at a time and in blocks, with and without threads.

    Beside them, in turns and in the same run: the bare gather kernel, np.take and a plain memcpy of the same bytes, a NumPy
    loop over an array in memory, and torch's DataLoader over single images with an episodic batch sampler.
    """
    import episodes
    from cli.episode_flags import episode_table
    from episodes.bench import bench, report

    if output is not None and (output.suffix.lower() != ".png" or (output.exists() and not overwrite)):
        raise ConfigError(f"output: {output} must end with .png and not exist, or give --overwrite")
    settings = build(Settings, values | {"workers": workers})
    series = episode_table(values).series(episodes.open(store))
    with bar("bench", "rounds") as progress:
        result = {"store": store.name, **bench(series, settings, progress)}
    click.echo(json.dumps(result) if as_json else f"{store.name}: {report.text(result)}")
    if output is not None:
        rates = {name: one["images_per_s"] for name, one in result["cases"].items()}
        report.picture(f"{store.name}: images a second; {report.described(result['about'])}", rates, "images/s").save(
            output
        )
        click.echo(output, err=True)


command.params.extend(from_dataclass(Settings, frozenset({"workers"})))
