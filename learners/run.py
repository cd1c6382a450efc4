"""Trained: the learner of a run with its best parameters, and what its inputs are, read from the run's directory."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

import episodes
from episodes import plugins
from episodes.config import from_table
from episodes.errors import CheckpointError, ConfigError
from episodes.made import StorePlace, store_place
from episodes.protocols import FieldSpec
from episodes.store.mapped import MappedStore
from episodes.transforms import Transform, delivery
from learners import checkpoint
from learners.pictures import PictureForm, form_of
from learners.protocol import Inputs, MetaLearner
from learners.trainer import BEST

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from episodes.store.made import MadeStore


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A meta-learner, and everything that another process needs to make it again."""

    learner: MetaLearner
    """In evaluation mode."""
    method: str
    options: Mapping[str, Any]
    """Of the method, those that differ from its defaults."""
    inputs: Inputs
    image: str = "image"
    """Field that holds the input."""
    form: PictureForm | None = None
    """How pictures become rows of that field; None: it holds none."""
    delivery: Transform | None = None
    """How rows reach the learner; None: as they are stored."""
    recipe: str = ""
    """The run's ``recipe.toml``."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """The run's ``data.json``: what it was trained on."""

    @property
    def module(self) -> nn.Module:
        """The learner as the module that it is."""
        return cast(nn.Module, self.learner)


def open_run(run: Path, *, store: StorePlace | None = None, fit: str | None = None, invert: bool | None = None) -> Trained:
    """The learner of a run.

    Args:
        run: directory that ``episodes train`` made.
        store: where its inputs are described; None: the store that it was trained on.
        fit: of pictures, in place of what the store's reader did.
        invert: likewise.

    Raises:
        ConfigError: no run; the store it was trained on is not known.
        CheckpointError: its parameters cannot be read, or do not fit the store.
    """
    if not (run / "recipe.toml").exists():
        raise ConfigError(f"run: {run} is not a run directory (it has no recipe.toml)")
    text = (run / "recipe.toml").read_text(encoding="utf-8")
    table, about = tomllib.loads(text), json.loads((run / "data.json").read_text(encoding="utf-8"))
    if store is None and "store" not in about:
        raise ConfigError(f"store: {run} was trained on episode shards; give --store with one of such images")
    opened = episodes.open(store or store_place(about["store"]))
    delivered = _delivery(table.get("episode", {}))
    method, options = table["method"], table.get("learner", {})
    fields = {name: delivered[name].output(spec) if name in delivered else spec for name, spec in opened.fields.items()}
    known = {name: FieldSpec(str(values.dtype), values.shape[1:]) for name, values in opened.class_fields.items()}
    inputs = Inputs(fields=fields, class_fields=known, classes=classes_of(about))
    learner = restored(method, options, inputs, checkpoint.load(run / BEST, method)["learner"], str(run / BEST))
    name = _field(learner, options)
    return Trained(
        learner=learner,
        method=method,
        options=options,
        inputs=inputs,
        image=name,
        form=_form(opened, name, delivered.get(name), fit, invert),
        delivery=delivered.get(name),
        recipe=text,
        about=about,
    )


def classes_of(about: Mapping[str, Any]) -> Sequence[tuple[int, int]] | None:
    """The classes of meta-training, as of `Inputs`, from a run's ``data.json``."""
    return tuple(zip(about["numbers"], about["turns"], strict=True)) if "numbers" in about else None


def restored(method: str, options: Mapping[str, Any], inputs: Inputs, state: Mapping[str, Any], where: str) -> MetaLearner:
    """The learner of this method with the parameters `state`, in evaluation mode.

    Raises:
        CheckpointError: they do not fit; `where` names them.
        ConfigError: options that the method does not take.
        PluginNotFound: no such method.
    """
    module: Any = plugins.find(plugins.METHODS, method)
    learner = module.make(from_table(module.Options, options, "learner"), inputs)
    try:
        learner.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the parameters in {where} do not fit this store or recipe ({reason})") from error
    return cast(MetaLearner, learner.eval())


def _delivery(table: Mapping[str, Any]) -> dict[str, Transform]:
    """That of training, which is that of all settings (the recipe's reader refuses others)."""
    given = [*table.get("transforms", ()), *([table["transform"]] if "transform" in table else ())]
    return delivery(from_table(Transform, one, "episode.transform") for one in given)


def _field(learner: MetaLearner, options: Mapping[str, Any]) -> str:
    """Name of the field that holds the input: as the learner has found it, or as the options say."""
    from learners.embedding import Embedding
    from learners.fast import FastLearner

    found = [one.field for one in cast(nn.Module, learner).modules() if isinstance(one, Embedding | FastLearner)]
    return found[0] if found else str(options.get("image", "image"))


def _form(
    store: MappedStore | MadeStore, name: str, delivered: Transform | None, fit: str | None, invert: bool | None
) -> PictureForm | None:
    if not isinstance(store, MappedStore):
        return None  # no reader made pictures of files into its rows
    spec = store.fields[name]
    if delivered is not None and delivered.stored == "hwc":
        spec = FieldSpec(spec.dtype, (spec.shape[2], *spec.shape[:2]))
    return form_of(store.manifest.reader, spec, fit=fit, invert=invert)
