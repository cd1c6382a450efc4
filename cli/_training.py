"""What a recipe trains and validates on: episodes of stores or of shards, and what the run says of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from cli._shards import are_shards, opened_shards
from cli._stores import each_series, joined, opened
from episodes.errors import SpecError

if TYPE_CHECKING:
    from cli.recipe import Recipe
    from episodes.made import StorePlace
    from episodes.protocols import SampleStore
    from episodes.stream.series import SampledEpisodes
    from learners.origin import Episodes


def both(recipe: Recipe, store: StorePlace, validate_on: StorePlace | None) -> tuple[Episodes, Episodes, dict[str, Any]]:
    """(training episodes, validation episodes, what the run is trained on)."""
    if validate_on is None:
        stores = opened(store, recipe.episode, recipe.validate)
        sources = each_series(recipe.episode, store, stores)
        validation = joined(recipe.validate, each_series(recipe.validate, store, stores))
        for one in sources.values():
            _check_unseen(recipe, one.store, one.classes.split, one.classes.names)
        return joined(recipe.episode, sources), validation, _about(sources, {path.stem: path for path in stores})
    assert are_shards(store)
    shards = opened_shards(store, validate_on)
    told, needed = shards.manifest.about, recipe.train.steps * recipe.train.meta_batch
    if needed > shards.length:
        raise SpecError(
            f"{store} holds {shards.length} episodes; {recipe.train.steps} steps of {recipe.train.meta_batch} take "
            f"{needed} (compile more with --count, or lower --steps)"
        )
    about = {"shards": str(store.resolve()), "content": shards.manifest.content, "fingerprint": told["store"]}
    about |= {"split": told["split"], "classes": told["class_names"]}
    if are_shards(validate_on):
        return shards, opened_shards(validate_on, validate_on), about
    stores = opened(validate_on, recipe.validate)
    _check_unseen(recipe, stores[validate_on], told["split"], told["class_names"])
    tested = joined(recipe.validate, each_series(recipe.validate, validate_on, stores))
    return shards, tested, {"store": str(validate_on.resolve()), **about}


def _check_unseen(recipe: Recipe, store: SampleStore, split: str, names: Collection[str]) -> None:
    """Refuse to train on a class of a store that the recipe's evaluation calls unseen."""
    for table in recipe.evaluate:
        try:
            tested = store.split(table.split)
        except SpecError:
            continue  # a store without that split can be trained on; `evaluate` will name what is missing
        shared = set(tested.names) & set(names)
        if shared:
            raise SpecError(
                f"class '{min(shared)}' is in training split '{split}' and in test split "
                f"'{tested.split}' ({len(shared)} such classes); train on another split"
            )


def _about(sources: Mapping[str, SampledEpisodes], paths: Mapping[str, StorePlace]) -> dict[str, Any]:
    """What a run is trained on: of the command's store, and of each where there are several."""
    each = [
        {
            "store": str(paths[name].resolve()),
            "fingerprint": one.store.fingerprint,
            "split": one.classes.split,
            "classes": list(one.classes.names),
            "turns": one.classes.variants.tolist(),
            "numbers": one.classes.ids.tolist(),
        }
        for name, one in sources.items()
    ]
    if len(each) == 1:
        return each[0]
    names = list(dict.fromkeys(name for one in sources.values() for name in one.classes.names))
    first = {name: each[0][name] for name in ("store", "fingerprint", "split")}
    return {**first, "classes": names, "sources": each}
