"""Sequences: the order in which models read a support, another in each episode and with nothing of the labels in it."""

from __future__ import annotations

from torch import Tensor

from episodes.spec import EpisodeSpec


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


def longest_support(spec: EpisodeSpec) -> int:
    """Most rows of a support of this spec; 0 where its sampler decides them (``variable``)."""
    if spec.shots.dealt:  # a number for each class of the episode
        return max(sum(spec.shots.of_ways(ways)) for ways in range(spec.ways.low, spec.ways.high + 1))
    return spec.ways.high * spec.shots.high
