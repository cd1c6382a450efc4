"""``episodes train METHOD STORE -o RUN``: store -> trained meta-learner in a run directory."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import MIX, PluginGroup, episode_parameters, from_dataclass, given, paragraphs
from cli._places import any_store
from cli._progress import bar
from cli._shards import are_shards, described, opened_shards, refuse_episode_options
from cli._training import both
from episodes import plugins
from episodes.errors import ConfigError, EpisodesError

if TYPE_CHECKING:
    from cli.episode_table import EpisodeTable
    from cli.recipe import Recipe
    from episodes.made import StorePlace
    from learners.report import Report

FLAGS = (
    click.Option(["-o", "--output"], type=click.Path(path_type=Path), required=True, help="Run directory to make."),
    click.Option(["--recipe"], help="Name of a shipped recipe, or a TOML file; flags override it."),
    click.Option(["--resume"], is_flag=True, help="Go on with the run in --output, with the settings it has."),
    click.Option(["--overwrite"], is_flag=True, help="Replace the run in --output."),
)
VALIDATE_ON = click.Option(
    ["--validate-on"], type=any_store, help="For training on episode shards: store or shards of the validation episodes."
)
TEST_FLAGS = (
    click.Option(["--test-ways"], metavar="COUNT", help="Classes of a validation and test episode.  [default: 5]"),
    click.Option(["--test-shots"], metavar="COUNT", help="Their support rows per class.  [default: 1]"),
    click.Option(["--test-queries"], metavar="COUNT", help="Their query rows per class.  [default: 15]"),
)


def _command(name: str) -> click.Command:
    from learners.settings import TrainConfig

    module = plugins.find(plugins.METHODS, name)
    about = module.__doc__ or ""
    return click.Command(
        name,
        params=[
            click.Argument(["store"], type=any_store),
            *FLAGS,
            *episode_parameters(seed="Seed of the episodes and of the initial weights."),
            MIX,
            VALIDATE_ON,
            *TEST_FLAGS,
            *from_dataclass(module.Options),
            *from_dataclass(TrainConfig, skip=frozenset({"seed"})),
        ],
        callback=lambda **values: run(name, values),
        help=paragraphs(about),
        short_help=about.partition("\n")[0],
    )


command = PluginGroup(
    "train",
    kind=plugins.METHODS,
    command=_command,
    help="Train a meta-learner on the episodes of a store, or on episode shards with --validate-on.\n\n"
    "The test split is not touched: `episodes evaluate RUN` reads it.\n\n"
    "Under torchrun the processes share the episodes of each step, and the numbers are those of one process.\n\n"
    "`episodes train METHOD --help` tells what a method takes.",
    subcommand_metavar="METHOD STORE -o RUN [OPTIONS]",
)


def run(method: str, values: dict[str, Any]) -> None:
    """Train `method`; `values` are the command's parameters."""
    output, store = values.pop("output"), values.pop("store")
    resume, overwrite, validate_on = values.pop("resume"), values.pop("overwrite"), values.pop("validate_on")
    compiled = _compiled(store, validate_on, values)
    recipe = resumed(output, method, values) if resume else resolved(method, values, compiled)
    report = train(recipe, store, output, validate_on=validate_on, resume=resume, overwrite=overwrite)
    from learners import metrics, ranks

    if ranks.rank() == 0:
        if about := metrics.summary(output):
            share = f"{100 * about['data_share']:.2f} % of it waiting for data"
            click.echo(f"training: {about['steps']} steps in {about['seconds']:.1f} s, {share}")
        click.echo(f"validation: {report}")
        click.echo(f"run: {output} (test it with `episodes evaluate {output}`)")
    ranks.close()


def _compiled(store: StorePlace, validate_on: StorePlace | None, values: dict[str, Any]) -> tuple[EpisodeTable, ...]:
    """Training and validation episodes as tables, as far as they are compiled already."""
    if not are_shards(store):
        if validate_on is not None:
            raise ConfigError(f"validate_on: {store} is a store, which has validation episodes; leave --validate-on out")
        return ()
    if validate_on is None:
        raise ConfigError(f"validate_on: {store} are episode shards; give --validate-on with a store, or shards")
    refuse_episode_options(store, values, frozenset({"seed"}))
    both = (store, validate_on) if are_shards(validate_on) else (store,)
    return tuple(described(opened_shards(one, validate_on)) for one in both)


def resumed(output: Path, method: str, values: dict[str, Any]) -> Recipe:
    """The recipe of the run in `output`; settings may not be given again."""
    from cli.recipe import read

    if extra := given(values):
        raise ConfigError(f"{', '.join(sorted(extra))}: --resume goes on with the settings of {output}; leave these out")
    if not (output / "recipe.toml").exists():
        raise ConfigError(f"output: no run at {output} to resume")
    recipe = read(output / "recipe.toml")
    if recipe.method != method:
        raise ConfigError(f"method: the run in {output} trains '{recipe.method}', not '{method}'")
    return recipe


def resolved(method: str, values: dict[str, Any], compiled: tuple[EpisodeTable, ...] = ()) -> Recipe:
    """A recipe from --recipe and the flags that override it; `compiled`: training and validation episodes of shards."""
    from cli.episode_flags import episode_table
    from cli.recipe import Recipe, find
    from episodes.config import from_table, to_table
    from learners.settings import TrainConfig

    name = values.pop("recipe")
    recipe = find(name) if name else Recipe(method=method)
    if recipe.method != method:
        raise ConfigError(f"method: recipe '{recipe.name}' is for '{recipe.method}', not '{method}'")
    flags = given(values)
    options = plugins.find(plugins.METHODS, method).Options
    learner = {**recipe.learner, **{f.name: flags[f.name] for f in fields(options) if f.name in flags}}
    test = {name: flags[f"test_{name}"] for name in ("ways", "shots", "queries") if f"test_{name}" in flags}
    listing = flags.get("split", "").rpartition("/")[0]  # --split vinyals/train also moves val and test to that list

    episode = compiled[0] if compiled else episode_table(flags, recipe.episode)

    def tested(old: EpisodeTable) -> EpisodeTable:
        split = f"{listing}/{old.split.rpartition('/')[2]}" if listing else old.split
        table = episode_table({**test, "split": split, "mix": flags.get("mix")}, old)
        # Images reach the learner in one form, whether it trains or not; what is random is of training alone.
        return (
            replace(table, transform=None, transforms=tuple(episode.delivery().values()))
            if "transform" in flags or compiled
            else table
        )

    return replace(
        recipe,
        learner=to_table(from_table(options, learner, "learner")),
        episode=episode,
        validate=compiled[1] if len(compiled) > 1 else tested(recipe.validate),
        evaluate=tuple(tested(one) for one in recipe.evaluate),
        train=from_table(
            TrainConfig,
            {**to_table(recipe.train), **{f.name: flags[f.name] for f in fields(TrainConfig) if f.name in flags}},
        ),
    )


def train(
    recipe: Recipe,
    store: StorePlace,
    output: Path,
    *,
    validate_on: StorePlace | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Report:
    """Train as `recipe` says; everything that can be refused is refused before `output` is made.

    Args:
        recipe: settings.
        store: a store, or episode shards.
        output: run directory.
        validate_on: of shards, the store or shards of the validation episodes.
        resume: go on with the run there.
        overwrite: replace it.
    """
    import torch

    from episodes.config import from_table
    from learners import ranks
    from learners.origin import inputs_of
    from learners.report import evaluate
    from learners.trainer import Trainer
    from learners.untrained import require_something_to_train

    if output.exists() and not (resume or overwrite):
        raise ConfigError(f"output: {output} exists; give --overwrite to replace it, --resume to go on with it")
    if output.exists() and not (output / "recipe.toml").exists():
        raise ConfigError(f"output: {output} exists and is not a run; it is not replaced (choose another name)")
    training, validation, about = both(recipe, store, validate_on)
    module = plugins.find(plugins.METHODS, recipe.method)
    torch.manual_seed(recipe.train.seed)
    learner = module.make(from_table(module.Options, recipe.learner, "learner"), inputs_of(training))
    require_something_to_train(learner, recipe.method)
    getattr(learner, "require_training", learner.require)(recipe.episode.spec())
    for table in (recipe.validate, *recipe.evaluate):
        learner.require(table.spec())
    names = set(about["classes"])
    trainer = Trainer(learner, recipe.method, recipe.train, output)
    if not resume:
        ranks.first(lambda: _make_run(output, recipe, about, overwrite=overwrite))

    def validate(module: torch.nn.Module) -> Report:
        return evaluate(
            module,  # type: ignore[arg-type]
            validation,
            method=recipe.method,
            device=trainer.fabric.device,
            trained_on=names,
            audited=1,
            charted=0,
        )

    with (
        bar("train", "steps") if ranks.rank() == 0 else nullcontext(_silent) as progress,
        trainer.stream(training) as stream,
    ):
        return trainer.fit(stream, validate, resume=resume, progress=progress)


def _silent(step: int, steps: int, note: str) -> None:
    """No progress bar: that of rank 0 is enough."""


def _make_run(output: Path, recipe: Recipe, data: dict[str, Any], *, overwrite: bool) -> None:
    from cli.recipe import DATA

    try:
        if overwrite and output.exists():
            shutil.rmtree(output)
        output.mkdir(parents=True, exist_ok=True)
        (output / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
        (output / DATA).write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")
    except OSError as error:
        raise EpisodesError(f"cannot write run {output}: {error.strerror}") from error
