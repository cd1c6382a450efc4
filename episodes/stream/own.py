"""A user's own function of the values of an episode: any Python or NumPy, after the compiled transforms.

    def blur(fields, generator): ...
    episodes.sample(store, "train", spec, then=blur)

It is called once for each part of an episode with ``(fields, generator)``: name -> [n, ...], and a NumPy generator that is
keyed by (seed, index, part), so that the result is the same in every worker. It returns the fields of as many rows, in
arrays of any type and shape. It holds the interpreter lock, so it costs what it costs; more workers do not help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.episode import EpisodeBlock
from episodes.errors import SpecError
from episodes.rng import OWN

Own = Callable[[Mapping[str, NDArray[Any]], np.random.Generator], Mapping[str, NDArray[Any]]]


def name_of(then: Own) -> str:
    """What stands for the function in a fingerprint: its attribute ``fingerprint``, or its module and name.

    Raises:
        SpecError: it has neither, as an instance or a partial.
    """
    if (given := getattr(then, "fingerprint", None)) is not None:
        return str(given)
    name = getattr(then, "__qualname__", None)
    if name is None:
        raise SpecError(
            f"then={then!r} has no name that tells it from others; give it an attribute `fingerprint` with a text that "
            "changes when its result does"
        )
    return f"{then.__module__}.{name}"


def apply(then: Own, block: EpisodeBlock, key: tuple[int, int]) -> EpisodeBlock:
    """`block` with the values that `then` makes of its own.

    Raises:
        SpecError: another number of rows comes back, or values of different shapes that cannot lie in one array.
    """
    made: list[Mapping[str, NDArray[Any]]] = []
    for part, line in enumerate(block.offsets[:3].tolist()):
        for b, index in enumerate(block.indices):
            place = slice(line[b], line[b + 1])
            if place.start == place.stop:
                continue
            counter = np.array([0, part, OWN, index], np.uint64)
            generator = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64), counter=counter))
            values = then({name: array[place] for name, array in block.fields.items()}, generator)
            for name, array in values.items():
                if len(array) != place.stop - place.start:
                    raise SpecError(
                        f"episode {index}: {name_of(then)} made {len(array)} rows of field '{name}' out of "
                        f"{place.stop - place.start}; give as many back"
                    )
            made.append(values)
    try:
        fields = {name: np.concatenate([values[name] for values in made]) for name in made[0]} if made else {}
    except (ValueError, KeyError) as error:
        raise SpecError(f"{name_of(then)} made fields that differ from part to part: {error}") from error
    return replace(block, fields=fields)
