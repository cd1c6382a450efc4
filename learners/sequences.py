"""The order in which sequence models read a support: another in each episode, and nothing of the labels is in it."""

from __future__ import annotations

from torch import Tensor


def support_order(rows_BS: Tensor) -> Tensor:
    """A permutation of each episode's rows, [B, S] int64: a pure function of the set of their numbers."""
    hashes_BS = mixed(rows_BS)
    salt_B1 = mixed(hashes_BS.sum(1, keepdim=True))
    return mixed(hashes_BS ^ salt_B1).argsort(dim=1, stable=True)


def mixed(words: Tensor) -> Tensor:
    """int64 -> int64, one to one: the output function of SplitMix64 (Steele, Lea, Flood 2014), on the words' device."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ _shifted(words, shift)) * (factor - 2**64)  # the same product modulo 2^64, and an int64
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in."""
    shifted: Tensor = (words >> bits) & (2 ** (64 - bits) - 1)
    return shifted
