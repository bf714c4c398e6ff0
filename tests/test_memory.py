"""Memory for the pings of a run, made ahead or not."""

from __future__ import annotations

import numpy as np

from travelcard.memory import Ahead, arena_share, workers


def test_memory_made_ahead_is_long_enough_and_nobody_elses():
    ahead = Ahead(100_000_000, 1 << 30)
    lengths = [1_000, 10_000_000, 1 << 26, *[5] * (workers() + 1)]  # also more, and more often, than was made
    taken = [ahead.words(n) for n in lengths]
    assert [len(words) for words in taken] == lengths
    for i, words in enumerate(taken):
        words[:1_000] = words[-1_000:] = i
    assert all((words[:1_000] == i).all() and (words[-1_000:] == i).all() for i, words in enumerate(taken))
    assert all(words.dtype == np.uint64 for words in taken)


def test_no_more_is_made_ahead_than_a_run_may_hold():
    for files, memory in ((10**10, 1 << 10), (10**10, 1 << 30), (0, 4 << 30), (100, 4 << 30)):
        ahead = Ahead(files, memory)
        assert ahead._made <= min(arena_share(memory), files)
