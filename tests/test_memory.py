"""Memory for the pings of a run, made ahead or not."""

from __future__ import annotations

from datetime import date

import numpy as np

from travelcard.files import bytes_of
from travelcard.memory import Ahead, arena_share, given_back, pages, workers


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


def test_memory_that_is_given_back_is_empty_and_can_be_written_again():
    array = pages(1 << 20, np.uint64)
    array[:] = 7
    given_back(array)
    assert not array.any()
    array[:] = 3
    assert (array == 3).all()


def test_memory_is_made_for_the_files_of_a_day(tmp_path):
    for day, length in (("2022-03-14", 10), ("2022-03-15", 300)):
        for name in ("a.parquet", "b.parquet", "c.txt"):
            (tmp_path / day).mkdir(exist_ok=True)
            (tmp_path / day / name).write_bytes(bytes(length))
    assert bytes_of(tmp_path / "{day}" / "*.parquet", date(2022, 3, 14)) == 20
    assert bytes_of(str(tmp_path / "**" / "*.parquet")) == 620
    assert bytes_of(tmp_path / "{day}" / "*.parquet", date(2022, 3, 16)) == 0  # of which reading them complains
    assert bytes_of("s3://nobody/{day}/*.parquet", date(2022, 3, 14)) == 0  # nobody is asked
