"""Lake's twenty published one-shot runs, found again in a store of Omniglot.

``all_runs.zip`` holds, for each run, 20 training images of one drawer, 20 test images of another and the pairs that
belong together. Its images are drawings of the evaluation set, so each is looked up by its pixels.

Source: Lake, Salakhutdinov, Tenenbaum 2015. Score: errors over the 400 trials.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from episodes.episode import EpisodePlan
from episodes.errors import ReaderError
from episodes.plans import plan_of
from episodes.readers._images import decode
from episodes.readers._tree import Tree, open_tree
from episodes.store.mapped import MappedStore

RUNS = 20


def published_runs(source: Path, store: MappedStore) -> list[EpisodePlan]:
    """The plans of the twenty runs: 20 ways, 1 shot, 1 query; run 1 is episode 0.

    Args:
        source: ``all_runs.zip``, or the folder extracted from it.
        store: Omniglot, as `episodes ingest omniglot` makes it, of any size.

    Raises:
        ReaderError: the runs are not there, or an image of theirs is not in the store.
        SpecError: the store has no split ``lake/test``.
    """
    tree = open_tree(source)
    classes = store.split("lake/test")
    size = store.fields["image"].shape[-1]
    rows = np.concatenate([classes.rows(p) for p in range(len(classes))])
    owner = np.repeat(np.arange(len(classes)), classes.counts)
    images = store.read(rows)["image"]
    place = {image.tobytes(): n for n, image in enumerate(images)}

    def find(path: str) -> int:
        name = PurePosixPath(path)
        image = 255 - decode(tree.read(name), f"{source}:{name}", mode="grey", size=size, fit="squash")
        if image.tobytes() not in place:
            raise ReaderError(f"{source}: {name} is no drawing of the store; is it Omniglot, of one channel?")
        return place[image.tobytes()]

    plans = []
    for run in range(1, RUNS + 1):
        pairs = [tuple(map(find, pair)) for pair in _pairs(tree, run)]
        wrong = [pair for pair in pairs if owner[pair[0]] != owner[pair[1]]]
        if wrong:
            raise ReaderError(
                f"{source}: run {run} pairs drawings of two classes; the store's images are not telling enough"
            )
        support, query = ([rows[[pair[k]]] for pair in pairs] for k in (1, 0))
        positions = np.array([owner[pair[1]] for pair in pairs], np.int64)
        plans.append(plan_of(classes, run - 1, positions, support, query))
    return plans


def _pairs(tree: Tree, run: int) -> list[tuple[str, str]]:
    """(test image, training image) of a run, ordered by training image."""
    found = [path for path in tree.files if path.parts[-2:] == (f"run{run:02d}", "class_labels.txt")]
    if not found:
        raise ReaderError(f"{tree.source} has no run{run:02d}/class_labels.txt; give Omniglot's all_runs.zip")
    base = found[0].parent.parent
    lines = [line.split() for line in tree.read(found[0]).decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines or any(len(line) != 2 for line in lines):
        raise ReaderError(f"{tree.source}: {found[0]} is not a list of test and training images")
    return sorted(((str(base / a), str(base / b)) for a, b in lines), key=lambda pair: pair[1])
