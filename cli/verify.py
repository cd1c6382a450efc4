"""``episodes verify PATH``: every fault of a store or of episode shards, and what mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._places import any_store, path_or_url
from cli._progress import bar
from episodes.errors import ConfigError, EpisodesError, ShardCorrupt, StateMismatch, StoreCorrupt

if TYPE_CHECKING:
    from episodes.made import StorePlace
    from episodes.remote.place import Place
    from episodes.stream.series import SampledEpisodes
    from episodes.verify import Findings


@click.command("verify")
@click.argument("path", type=path_or_url)
@click.option("--store", type=any_store, help="Of episode shards: the store they were compiled from.")
@click.option("--repair", is_flag=True, help="Make damaged episode shards again; needs --store.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(path: Place, store: StorePlace | None, repair: bool, as_json: bool) -> None:
    """Look at every byte and every plan of PATH, a store or episode shards; print each fault and what mends it.

    Exit code 0: nothing is wrong, or all was mended. 2: faults, one a line on standard output.

    \b
    episodes verify omniglot.store
    episodes verify test.shards --store omniglot.store --repair
    """
    import episodes
    from episodes.verify import kind_of, verify

    if not isinstance(path, Path):
        raise ConfigError(
            f"path: folders of this machine are verified, got {path} (`episodes inspect URL --verify` reads a store)"
        )
    kind = kind_of(path)
    if store is not None and kind == "store":
        raise ConfigError("store: --store goes with episode shards; a store is verified by itself")
    if repair and store is None and kind != "store":
        raise ConfigError("repair: shards are made again from the store they were compiled from; give it with --store")
    opened = None if store is None else episodes.open(store)
    series = None if opened is None else _series(path, opened, needed=repair)
    with bar("verify", "MiB") as progress:
        found = verify(path, store=opened, series=series, progress=lambda a, b: progress(a / 2**20, b / 2**20))
    if not as_json:
        _show(found)
    mended = found.shards if repair and series is not None else ()
    if mended and series is not None:
        _repair(path, series, mended)
    if as_json:
        click.echo(json.dumps(_table(found) | {"mended": list(mended)}, ensure_ascii=False))
    elif mended:
        click.echo(f"made again: {', '.join(f'shard {number}' for number in mended)}")
    left = [fault for fault in found.faults if fault.shard not in mended]
    if left:
        error = StoreCorrupt if kind == "store" else ShardCorrupt
        raise error(
            f"{path} has {len(left)} fault{'s' if len(left) > 1 else ''}{' that repair cannot mend' if repair else ''}"
        )


def _series(path: Path, store: Any, *, needed: bool) -> SampledEpisodes | None:
    """The episodes that shards were compiled from, by the recipe in their manifest; None where it has none that works."""
    from cli.episode_table import EpisodeTable
    from episodes.config import from_table
    from episodes.shards.manifest import MANIFEST, ShardManifest

    try:
        manifest = ShardManifest.from_json((path / MANIFEST).read_bytes(), str(path / MANIFEST))
    except (FileNotFoundError, ShardCorrupt):
        return None  # a fault, which is found in its turn
    try:
        if manifest.about.get("store") != store.fingerprint:
            raise StateMismatch(
                f"{path} was compiled from store {manifest.about.get('store')}; this is {store.fingerprint}"
            )
        if (recipe := manifest.about.get("recipe")) is None:
            raise ConfigError(
                "repair: the manifest does not say how its episodes were made, for they were compiled from Python; use "
                "episodes.verify.repair.repair"
            )
        series = from_table(EpisodeTable, recipe, "recipe").series(store)
        if series.fingerprint != manifest.fingerprint:
            raise StateMismatch(
                f"{path} holds episodes {manifest.fingerprint}; this software makes {series.fingerprint} of its recipe"
            )
    except EpisodesError:
        if needed:
            raise
        return None
    return series


def _repair(path: Path, series: SampledEpisodes, numbers: tuple[int, ...]) -> None:
    from episodes.verify.repair import repair

    with bar("repair", "shards") as progress:
        repair(path, series, numbers, progress)


def _table(found: Findings) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "kind": found.kind,
        "faults": [{"where": one.where, "what": one.what, "mend": one.mend} for one in found.faults],
        "notes": list(found.notes),
        "checked": dict(found.checked),
    }


def _show(found: Findings) -> None:
    for fault in found.faults:
        click.echo(fault)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if not found.faults:
        looked = ", ".join(f"{num:,} {name}" for name, num in found.checked.items())
        click.echo(f"{found.path}: {found.kind} without fault ({looked})")
