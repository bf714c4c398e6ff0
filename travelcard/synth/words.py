"""Random words that depend on nothing but what they are asked for (splitmix64)."""

from __future__ import annotations

import numpy as np

from travelcard.compiled import compiled

__all__ = ["GOLDEN", "M1", "M2", "base_of", "below", "mix", "unit", "words"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
M1, M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@compiled
def mix(base, n):
    """splitmix64: word `n` of the stream `base`; a bijection of n."""
    z = base + np.uint64(n) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * M1
    z = (z ^ (z >> np.uint64(27))) * M2
    return z ^ (z >> np.uint64(31))


@compiled
def unit(w):
    """A word as a number from 0 to below 1."""
    return np.float64(w >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def below(w, n):
    """A word as a whole number from 0 to below `n`."""
    return np.int64(((w >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


def words(base: np.uint64, n: np.ndarray) -> np.ndarray:
    """`mix` for an array."""
    z = base + n.astype(np.uint64) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * M1
    z = (z ^ (z >> np.uint64(27))) * M2
    return np.asarray(z ^ (z >> np.uint64(31)))


def base_of(seed: int) -> np.uint64:
    """The stream of a country."""
    return np.uint64(words(np.uint64(0x7472_6176), np.array([seed & (2**63 - 1)]))[0])
