"""A user's own function of the values of an episode: any Python or NumPy, after the compiled transforms.

    def blur(fields, generator): ...
    episodes.sample(store, "train", spec, then=blur)

It is called once for each part of an episode with ``(fields, generator)``: name -> [n, ...], and a NumPy generator that is
keyed by (seed, index, part), so that the result is the same in every worker. It returns the fields of as many rows, in
arrays of any type and shape, the same for all parts of an episode. It holds the interpreter lock, so it costs what it
costs; more workers do not help.
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


def apply(then: Own, block: EpisodeBlock, key: tuple[int, int]) -> EpisodeBlock | None:
    """`block` with the values that `then` makes of its own.

    None where those of some episodes have other types or shapes than those of others: they cannot lie in one array.

    Raises:
        SpecError: another number of rows comes back, or parts of an episode have other fields, types or shapes.
    """
    made: list[Mapping[str, NDArray[Any]]] = []
    of: dict[int, Any] = {}  # index -> what its first part has
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
            found = {name: (array.dtype, array.shape[1:]) for name, array in values.items()}
            if found != of.setdefault(index, found):
                raise SpecError(
                    f"episode {index}: {name_of(then)} made {_told(found)} of a part and {_told(of[index])} of another; "
                    "give every part the same fields, types and shapes"
                )
            made.append(values)
    first, *others = of.values() if of else ({},)
    if any(other != first for other in others):
        return None
    return replace(block, fields={name: np.concatenate([values[name] for values in made]) for name in first})


def _told(fields: Mapping[str, tuple[Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"'{name}' {dtype} {shape}" for name, (dtype, shape) in fields.items()) or "nothing"
