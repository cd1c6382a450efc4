"""Count: how many - a number, a range, a distribution, or one number per class; written the same short way everywhere.

=========================  ===========================================  ==========================
``5``                      always 5                                     -
``5..50``                  uniform over 5..50, both ends included       once per episode
``{1: 0.5, 5: 0.5}``       these values with these weights              once per episode
``[1, 2, 5]``              one number per label, in order of labels     -
``[1, 2, 5] permuted``     the same numbers, dealt to labels            per episode
``1..5 per class``         range or weights, drawn for every class      once per class
``linear(20, 10)``         imbalanced, largest 20, ratio 10; also ``long-tail(20, 10)`` and ``step(20, 10, 0.5)``
``all``                    every row that is left (queries only)        -
``total(240)``             as many as make the episode 240 rows (queries only); ways divide 240
``variable``               as the sampler draws it (see ``meta-dataset``)
=========================  ===========================================  ==========================

Source: the counts of Vinyals, Snell, Triantafillou, Bertinetto and their released codes; imbalanced forms as in
class-imbalanced few-shot learning.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Union

import numpy as np

from episodes.errors import SpecError

Kind = Literal["range", "weights", "list", "linear", "long-tail", "step", "all", "total", "variable"]
CountLike = Union["Count", int, str, Sequence[int], Mapping[Any, float]]

_CALL: Final = re.compile(r"(linear|long-tail|step|total)\((.*)\)")


@dataclass(frozen=True, slots=True)
class Count:
    """See the module's docstring. Make one with `Count.of`."""

    kind: Kind
    low: int
    """Smallest value; of ``all``, ``total`` and ``variable`` 0."""
    high: int
    """Largest value: what `EpisodeSpec.require` makes room for."""
    values: tuple[int, ...] = ()
    """Weights: the values. List: the number of each label."""
    weights: tuple[float, ...] = ()
    """Weights: their probabilities, summing to 1. Imbalanced forms: (largest, ratio[, fraction]). Total: (rows,)."""
    per_class: bool = False
    permuted: bool = False

    @classmethod
    def of(cls, value: CountLike, name: str = "count") -> Count:
        """The count that a number, text, list or table stands for.

        Raises:
            SpecError: it stands for none; the message begins with `name` and the value.
        """
        if isinstance(value, Count):
            return value
        if isinstance(value, str):
            if value.strip().isdigit():
                raise SpecError(f"{name}={value!r} is text; write the number {value.strip()}")
            return _parse(value.strip(), name)
        if isinstance(value, Mapping):
            return _weights(value, name)
        if isinstance(value, (list, tuple, np.ndarray)):
            return _listed(list(value), name, permuted=False)
        number = _whole(value, name, value)
        return cls("range", number, number)

    @classmethod
    def parse(cls, text: str, name: str = "count") -> Count:
        """The count that a text stands for, where numbers come as text, too: on a command line.

        Raises:
            SpecError: it stands for none.
        """
        return _parse(text.strip(), name)

    @property
    def fixed(self) -> bool:
        """One number, the same in every episode and for every class."""
        return self.kind == "range" and self.low == self.high

    def __eq__(self, other: object) -> bool:
        """Equal counts; a fixed count also equals its number: ``spec.ways == 5``."""
        if isinstance(other, int) and not isinstance(other, bool):
            return self.fixed and self.low == other
        if not isinstance(other, Count):
            return NotImplemented
        return self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self.low) if self.fixed else hash(self._parts())

    def _parts(self) -> tuple[object, ...]:
        return self.kind, self.low, self.high, self.values, self.weights, self.per_class, self.permuted

    def of_ways(self, ways: int) -> tuple[int, ...]:
        """The numbers of an episode of `ways` classes in order of labels: lists and imbalanced forms (sampling 2.3)."""
        if self.kind == "list":
            return self.values
        largest, ratio, *fraction = self.weights
        if self.kind == "step":
            full = math.ceil(fraction[0] * ways)
            return tuple(int(largest) if j < full else max(1, math.floor(largest / ratio)) for j in range(ways))
        places = [j / (ways - 1) if ways > 1 else 0.0 for j in range(ways)]
        if self.kind == "linear":
            return tuple(math.floor(largest - (largest - largest / ratio) * place + 0.5 + 1e-9) for place in places)
        return tuple(max(1, math.floor(largest * ratio**-place + 1e-9)) for place in places)

    @property
    def dealt(self) -> bool:
        """A different number for each class of an episode, by list or closed form."""
        return self.kind in ("list", "linear", "long-tail", "step")

    def __str__(self) -> str:
        """The short form; ``Count.of(str(count)) == count``."""
        if self.kind == "range":
            text = str(self.low) if self.low == self.high else f"{self.low}..{self.high}"
        elif self.kind == "weights":
            text = "{" + ", ".join(f"{v}: {w:.17g}" for v, w in zip(self.values, self.weights, strict=True)) + "}"
        elif self.kind == "list":
            text = f"[{', '.join(map(str, self.values))}]" + (" permuted" if self.permuted else "")
        elif self.weights:
            text = f"{self.kind}({', '.join(f'{w:g}' for w in self.weights)})"
        else:
            text = self.kind
        return text + (" per class" if self.per_class else "")

    def plain(self) -> int | str:
        """A number if it is one, else the short form; what JSON and TOML hold."""
        return self.low if self.fixed else str(self)


def _parse(text: str, name: str) -> Count:
    body = text.removesuffix("per class").strip()
    if body != text:
        inner = _parse(body, name)
        if inner.kind not in ("range", "weights"):
            raise SpecError(f"{name}='{text}': per class goes with a range or weights, as 1..5 per class")
        return Count(inner.kind, inner.low, inner.high, inner.values, inner.weights, per_class=not inner.fixed)
    if text in ("all", "variable"):
        return Count(text, 0, 0)  # type: ignore[arg-type]  # one of the two, which are kinds
    if call := _CALL.fullmatch(text):
        return _closed_form(call[1], call[2], name, text)
    if text.startswith("[") and text.removesuffix("permuted").rstrip().endswith("]"):
        inside = text.removesuffix("permuted").strip()[1:-1]
        numbers = [_whole(part, name, text) for part in inside.split(",") if part.strip()]
        return _listed(numbers, name, permuted=text.endswith("permuted"))
    if text.startswith("{") and text.endswith("}"):
        pairs = [part.partition(":") for part in text[1:-1].split(",") if part.strip()]
        return _weights({value.strip(): weight for value, _, weight in pairs}, name)
    low, dots, high = text.partition("..")
    first = _whole(low, name, text)
    last = _whole(high, name, text) if dots else first
    if first > last:
        raise SpecError(f"{name}='{text}': the range ends before it begins ({first} > {last}); write {last}..{first}")
    return Count("range", first, last)


def _whole(value: Any, name: str, shown: Any) -> int:
    """`value` as a number of 0 or more; text is read, True and 2.5 are none."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = int(value.strip()) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        raise SpecError(
            f"{name}={shown!r} is not a count; write a whole number as 5, a range as 5..50, weights as {{1: 0.5, 5: 0.5}}, "
            "a list as [1, 2, 5], or all"
        ) from None
    if number < 0:
        raise SpecError(f"{name}={shown} is too small; it must be {int(name == 'ways')} or more")
    if number >= 2**31:
        raise SpecError(f"{name}={shown} is too large; a count is below 2**31")
    return number


def _listed(numbers: Sequence[Any], name: str, *, permuted: bool) -> Count:
    values = tuple(_whole(number, name, list(numbers)) for number in numbers)
    if not values:
        raise SpecError(f"{name}=[] is an empty list; give one number per class")
    return Count("list", min(values), max(values), values, permuted=permuted)


def _weights(table: Mapping[Any, Any], name: str) -> Count:
    shown = dict(table)
    if not table:
        raise SpecError(f"{name}={{}} has no values; give weights as {{1: 0.5, 5: 0.5}}")
    pairs = sorted((_whole(value, name, shown), _number(weight, name, shown)) for value, weight in table.items())
    total = math.fsum(weight for _, weight in pairs)
    if not total > 0:
        raise SpecError(f"{name}={shown}: all weights are 0; give one that is not")
    scale = 1.0 if abs(total - 1) < 1e-12 else total  # weights that add up stay as written, so text round-trips
    kept = [(value, weight / scale) for value, weight in pairs if weight > 0]
    return Count("weights", kept[0][0], kept[-1][0], tuple(v for v, _ in kept), tuple(w for _, w in kept))


def _number(value: Any, name: str, shown: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or number < 0:
        raise SpecError(f"{name}={shown}: the weight {value!r} is not a number of 0 or more")
    return number


def _closed_form(kind: str, inside: str, name: str, text: str) -> Count:
    numbers = [_number(part, name, text) for part in inside.split(",")]
    wanted = {"linear": 2, "long-tail": 2, "step": 3, "total": 1}[kind]
    if len(numbers) != wanted:
        raise SpecError(f"{name}='{text}': {kind} takes {wanted} numbers, got {len(numbers)}")
    if kind == "total":
        return Count("total", 0, 0, weights=(float(_whole(inside, name, text)),))
    largest, ratio = _whole(inside.partition(",")[0], name, text), numbers[1]
    if largest < 1 or ratio < 1:
        raise SpecError(f"{name}='{text}': the largest count must be 1 or more and the ratio 1 or more")
    if kind == "step" and not 0 < numbers[2] < 1:
        raise SpecError(f"{name}='{text}': the fraction of classes with the largest count must be between 0 and 1")
    smallest = max(0 if kind == "linear" else 1, math.floor(largest / ratio))
    return Count(kind, smallest, largest, weights=tuple(numbers), permuted=True)  # type: ignore[arg-type]
