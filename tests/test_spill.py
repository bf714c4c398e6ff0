"""Pings that wait on disk come back as they were, past the system's cache or through it, in whole blocks or not."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest

from travelcard.buckets import LEAST, Arena, gather, ranked, together
from travelcard.errors import InputError
from travelcard.ingest import QUARTERS, Numbers
from travelcard.kernel import Packing, Room
from travelcard.locations import sieve
from travelcard.scatter import LANES
from travelcard.spill import BLOCK, Spill

DAY = sieve(date(2022, 3, 14), cells=None, places=None, tz="UTC")
PLACES = 200
FOLDERS = [folder for folder in ("/var/tmp", "/dev/shm") if os.path.isdir(folder)]  # on a disk; in memory


def numbers(seed: int, *, wide: bool, text: bool) -> Numbers:
    """Ten thousand pings in some order of time: of one bucket, they end with a chunk."""
    rng, rows = np.random.default_rng(seed), 20 * LEAST
    ids = rng.integers(0, 300, rows) + (rng.integers(0, 2, rows) << 50 if wide else 0)
    who = pa.array([f"{i}号" for i in ids.tolist()]) if text else ids
    times = DAY.start + np.sort(rng.integers(0, 80_000, rows)) + rng.integers(0, 60, rows)
    return Numbers(who, times, rng.integers(0, 2 * PLACES, rows).astype(np.int32), 1, False)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("chunk", [LEAST, 4096])
@pytest.mark.parametrize("regions", [1, 3])
@pytest.mark.parametrize("buckets", [1, 4])
@pytest.mark.parametrize(("wide", "text"), [(False, False), (True, False), (False, True)])
def test_pings_that_waited_on_disk_come_back_as_they_were(folder, chunk, regions, buckets, wide, text, monkeypatch):
    monkeypatch.setattr("travelcard.buckets.OPEN_CHUNKS", buckets * chunk)
    monkeypatch.setattr("travelcard.buckets.REGIONS", regions)
    monkeypatch.setattr("travelcard.buckets.IN_REGION", 1)
    quarters = np.zeros((LANES, QUARTERS), np.int64)

    def arena(memory: int, share: float = 1) -> Arena:
        return Arena(buckets, memory, 1 << 20, None if wide else Packing.of(PLACES), PLACES, Path(home), share)

    def gathered(arenas: list[Arena]) -> list:
        names, ranks = ranked(arenas)
        made = [gather(arenas, names, ranks, bucket, Room()) for bucket in range(buckets)]
        return [(np.sort(together(pings, Room())).tolist(), known and known.to_pylist()) for pings, known in made]

    with (
        TemporaryDirectory(dir=folder) as home,
        arena(1 << 14) as one,
        arena(1 << 14, 0.5) as two,
        arena(1 << 24) as all_,
    ):
        for piece in range(16):
            part = numbers(piece, wide=wide, text=text)
            assert not len((one, two)[piece % 2].put_numbers(part, DAY, piece, quarters))
            all_.put_numbers(part, DAY, piece, quarters)
        assert all_.spilled == 0
        assert min(one.spilled, two.spilled) > (1 << 17)
        assert one.spilled % BLOCK == 0
        sent = [one.sent(bucket) for bucket in range(buckets)]
        assert sum(len(part.words) for part in sent) == 160 * LEAST * (1 + wide)
        assert gathered([one, two]) == gathered([all_])
        assert all(file._file.closed for file in one._files + two._files)  # before the day is done


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_gone_from_the_disk_is_refused_in_one_line(folder, monkeypatch):
    monkeypatch.setattr("travelcard.buckets.OPEN_CHUNKS", 4 * LEAST)
    with (
        TemporaryDirectory(dir=folder) as home,
        Arena(4, 1 << 14, 1 << 20, Packing.of(PLACES), PLACES, Path(home)) as arena,
    ):
        arena.put_numbers(numbers(1, wide=False, text=False), DAY, 0, np.zeros((LANES, QUARTERS), np.int64))
        os.truncate(arena._files[1]._file.fileno(), BLOCK)
        with pytest.raises(InputError, match="that wait there cannot be read again"):
            [gather([arena], None, [], bucket, Room()) for bucket in range(4)]


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no way past its cache")
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_cache_is_passed_by_wherever_the_file_system_can(folder):
    with tempfile.TemporaryFile(dir=folder, buffering=0) as own:
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_DIRECT)
        try:
            able = os.pwrite(own.fileno(), mmap.mmap(-1, BLOCK), 0) == BLOCK  # whose pages begin where blocks do
        except OSError:
            able = False
    with TemporaryDirectory(dir=folder) as home:
        spill = Spill(Path(home))
        assert bool(fcntl.fcntl(spill._file, fcntl.F_GETFL) & os.O_DIRECT) == able
        spill.close()
