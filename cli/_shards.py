"""Episode shards in place of a store: recognised by their manifest, opened, described as a recipe describes episodes."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeGuard

from episodes.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cli.episode_table import EpisodeTable
    from episodes.made import StorePlace
    from episodes.remote.place import Place
    from episodes.shards.read import EpisodeShards


def are_shards(path: StorePlace) -> TypeGuard[Place]:
    """Whether episode shards are at `path`, and not a store."""
    from episodes.made import Made
    from episodes.shards.manifest import KIND, MANIFEST

    if isinstance(path, Made):
        return False
    try:
        return bool(json.loads((path / MANIFEST).read_bytes()).get("kind") == KIND)
    except (OSError, ValueError, AttributeError):  # whoever opens it says what is wrong
        return False


def opened_shards(path: Place, store: StorePlace | None) -> EpisodeShards:
    """The shards at `path`; `store`: what payload ``rows`` was compiled from.

    Raises:
        StoreError: there are none, or payload ``rows`` came without its store.
        StateMismatch: they were compiled from another store.
    """
    import episodes
    from episodes.shards.manifest import MANIFEST, ShardManifest

    if store is not None and are_shards(path) and not are_shards(store):
        manifest = ShardManifest.from_json((path / MANIFEST).read_bytes(), str(path / MANIFEST))
        if manifest.payload == "rows":
            return episodes.open_shards(path, episodes.open(store))
    return episodes.open_shards(path)


def described(shards: EpisodeShards) -> EpisodeTable:
    """The episodes as a table of a recipe: what was compiled, as far as the manifest says it."""
    from cli.episode_table import EpisodeTable
    from episodes.config import from_table

    about = shards.manifest.about
    table: Mapping[str, Any] = about.get("recipe") or {
        "split": about["split"],
        "rotations": about["rotations"],
        "sampler": about["sampler"]["name"],
        "seed": about["seed"],
        "transforms": [*about.get("delivery", {}).values()],
        **about["spec"],
    }
    return from_table(EpisodeTable, {**table, "episodes": shards.length})


def refuse_episode_options(path: Place, values: Mapping[str, Any], allowed: frozenset[str] = frozenset()) -> None:
    """Refuse options that would change episodes which are compiled already.

    Raises:
        ConfigError: one was given.
    """
    from cli._options import given
    from cli.episode_table import EpisodeTable

    known = {f.name for f in fields(EpisodeTable)} | {"episode_file", "mix"}
    if wrong := sorted((given(values).keys() & known) - allowed):
        flag = wrong[0].replace("_", "-")
        raise ConfigError(f"{wrong[0]}: the episodes of {path} are compiled already; leave --{flag} out")
