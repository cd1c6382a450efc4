"""``episodes copy SOURCE URL``: a finished store or set of episode shards, uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli._places import path_or_url
from cli._progress import bar
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.remote.place import Place


@click.command("copy")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("url", type=path_or_url)
@click.option("--overwrite", is_flag=True, help="Replace what is there, or start an unfinished upload over.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished upload.")
def command(source: Path, url: Place, overwrite: bool, resume: bool) -> None:
    """Upload SOURCE, a finished store or set of episode shards, to URL.

    Each file is compared with its hash on the way, and the manifest goes last: until then nothing is there.

    \b
    episodes copy test.shards s3://bucket/test.shards
    """
    from episodes.remote.publish import publish

    if isinstance(url, Path):
        raise ConfigError(f"url: expected one such as s3://bucket/name, got the path {url} (any program copies folders)")
    with bar("upload", "MiB") as progress:
        publish(
            source,
            url,
            overwrite=overwrite,
            resume=resume,
            progress=lambda done, total: progress(done / 2**20, total / 2**20),
        )
    click.echo(url)
