"""``episodes train METHOD STORE -o RUN``: store -> trained meta-learner in a run directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import MIX, PluginGroup, episode_parameters, from_dataclass, given, paragraphs
from cli._places import path_or_url
from cli._progress import bar
from cli._stores import each_series, joined, opened
from episodes import plugins
from episodes.errors import ConfigError, EpisodesError, SpecError

if TYPE_CHECKING:
    from cli.recipe import Recipe
    from episodes.remote.place import Place
    from episodes.stream.series import SampledEpisodes
    from learners.report import Report

FLAGS = (
    click.Option(["-o", "--output"], type=click.Path(path_type=Path), required=True, help="Run directory to make."),
    click.Option(["--recipe"], help="Name of a shipped recipe, or a TOML file; flags override it."),
    click.Option(["--resume"], is_flag=True, help="Go on with the run in --output, with the settings it has."),
    click.Option(["--overwrite"], is_flag=True, help="Replace the run in --output."),
)
TEST_FLAGS = (
    click.Option(["--test-ways"], metavar="COUNT", help="Classes of a validation and test episode.  [default: 5]"),
    click.Option(["--test-shots"], metavar="COUNT", help="Their support rows per class.  [default: 1]"),
    click.Option(["--test-queries"], metavar="COUNT", help="Their query rows per class.  [default: 15]"),
)


def _command(name: str) -> click.Command:
    from learners.trainer import TrainConfig

    module = plugins.find(plugins.METHODS, name)
    about = module.__doc__ or ""
    return click.Command(
        name,
        params=[
            click.Argument(["store"], type=path_or_url),
            *FLAGS,
            *episode_parameters(seed="Seed of the episodes and of the initial weights."),
            MIX,
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
    help="Train a meta-learner on the episodes of a store.\n\n"
    "The test split is not touched: `episodes evaluate RUN` reads it.\n\n"
    "Under torchrun the processes share the episodes of each step, and the numbers are those of one process.\n\n"
    "`episodes train METHOD --help` tells what a method takes.",
    subcommand_metavar="METHOD STORE -o RUN [OPTIONS]",
)


def run(method: str, values: dict[str, Any]) -> None:
    """Train `method`; `values` are the command's parameters."""
    output, store = values.pop("output"), values.pop("store")
    resume, overwrite = values.pop("resume"), values.pop("overwrite")
    recipe = resumed(output, method, values) if resume else resolved(method, values)
    report = train(recipe, store, output, resume=resume, overwrite=overwrite)
    from learners import metrics, ranks

    if ranks.rank() == 0:
        if about := metrics.summary(output):
            share = f"{100 * about['data_share']:.2f} % of it waiting for data"
            click.echo(f"training: {about['steps']} steps in {about['seconds']:.1f} s, {share}")
        click.echo(f"validation: {report}")
        click.echo(f"run: {output} (test it with `episodes evaluate {output}`)")
    ranks.close()


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


def resolved(method: str, values: dict[str, Any]) -> Recipe:
    """A recipe from --recipe and the flags that override it."""
    from cli.recipe import EpisodeTable, Recipe, episode_table, find
    from episodes.config import from_table, to_table
    from learners.trainer import TrainConfig

    name = values.pop("recipe")
    recipe = find(name) if name else Recipe(method=method)
    if recipe.method != method:
        raise ConfigError(f"method: recipe '{recipe.name}' is for '{recipe.method}', not '{method}'")
    flags = given(values)
    options = plugins.find(plugins.METHODS, method).Options
    learner = {**recipe.learner, **{f.name: flags[f.name] for f in fields(options) if f.name in flags}}
    test = {name: flags[f"test_{name}"] for name in ("ways", "shots", "queries") if f"test_{name}" in flags}
    listing = flags.get("split", "").rpartition("/")[0]  # --split vinyals/train also moves val and test to that list

    episode = episode_table(flags, recipe.episode)

    def tested(old: EpisodeTable) -> EpisodeTable:
        split = f"{listing}/{old.split.rpartition('/')[2]}" if listing else old.split
        table = episode_table({**test, "split": split, "mix": flags.get("mix")}, old)
        # Images reach the learner in one form, whether it trains or not; what is random is of training alone.
        return (
            replace(table, transform=None, transforms=tuple(episode.delivery().values())) if "transform" in flags else table
        )

    return replace(
        recipe,
        learner=to_table(from_table(options, learner, "learner")),
        episode=episode,
        validate=tested(recipe.validate),
        evaluate=tuple(tested(one) for one in recipe.evaluate),
        train=from_table(
            TrainConfig,
            {**to_table(recipe.train), **{f.name: flags[f.name] for f in fields(TrainConfig) if f.name in flags}},
        ),
    )


def train(recipe: Recipe, store: Place, output: Path, *, resume: bool = False, overwrite: bool = False) -> Report:
    """Train as `recipe` says; everything that can be refused is refused before `output` is made."""
    import torch

    from episodes.config import from_table
    from episodes.stream.stream import Stream
    from learners import ranks
    from learners.report import evaluate
    from learners.trainer import Trainer

    if output.exists() and not (resume or overwrite):
        raise ConfigError(f"output: {output} exists; give --overwrite to replace it, --resume to go on with it")
    if output.exists() and not (output / "recipe.toml").exists():
        raise ConfigError(f"output: {output} exists and is not a run; it is not replaced (choose another name)")
    stores = opened(store, recipe.episode, recipe.validate)
    sources = each_series(recipe.episode, store, stores)
    training = joined(recipe.episode, sources)
    validation = joined(recipe.validate, each_series(recipe.validate, store, stores))
    module = plugins.find(plugins.METHODS, recipe.method)
    torch.manual_seed(recipe.train.seed)
    learner = module.make(from_table(module.Options, recipe.learner, "learner"), training.fields)
    for table in (recipe.episode, recipe.validate, *recipe.evaluate):
        learner.require(table.spec())
    for one in sources.values():
        _check_unseen(recipe, one)
    names = {name for one in sources.values() for name in one.classes.names}
    trainer = Trainer(learner, recipe.method, recipe.train, output)
    if not resume:
        about = _about(sources, {path.stem: path for path in stores})
        ranks.first(lambda: _make_run(output, recipe, about, overwrite=overwrite))

    def validate(module: torch.nn.Module) -> Report:
        return evaluate(
            module,  # type: ignore[arg-type]
            validation,
            method=recipe.method,
            device=trainer.fabric.device,
            trained_on=names,
            audited=1,
        )

    with (
        bar("train", "steps") if ranks.rank() == 0 else nullcontext(_silent) as progress,
        Stream(training, workers=trainer.workers) as stream,
    ):
        return trainer.fit(stream, validate, resume=resume, progress=progress)


def _silent(step: int, steps: int, note: str) -> None:
    """No progress bar: that of rank 0 is enough."""


def _check_unseen(recipe: Recipe, training: SampledEpisodes) -> None:
    """Refuse to train on a class of a store that the recipe's evaluation calls unseen."""
    for table in recipe.evaluate:
        try:
            tested = training.store.split(table.split)
        except SpecError:
            continue  # a store without that split can be trained on; `evaluate` will name what is missing
        shared = set(tested.names) & set(training.classes.names)
        if shared:
            raise SpecError(
                f"class '{min(shared)}' is in training split '{training.classes.split}' and in test split "
                f"'{tested.split}' ({len(shared)} such classes); train on another split"
            )


def _about(sources: Mapping[str, SampledEpisodes], paths: Mapping[str, Place]) -> dict[str, Any]:
    """What a run is trained on: of the command's store, and of each where there are several."""
    each = [
        {
            "store": str(paths[name].resolve()),
            "fingerprint": one.store.fingerprint,
            "split": one.classes.split,
            "classes": list(one.classes.names),
        }
        for name, one in sources.items()
    ]
    if len(each) == 1:
        return each[0]
    names = list(dict.fromkeys(name for one in sources.values() for name in one.classes.names))
    return {**each[0], "classes": names, "sources": each}


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
