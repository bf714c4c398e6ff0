"""The floor: Parquet files decoded as fast as we know how, and nothing done with them.

``python -m travelcard.bench.floor polars|pyarrow PATTERN [COLUMN ...]``; all columns unless some are named.
"""

from __future__ import annotations

import glob
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from travelcard.bench.measure import cores

READERS = ("polars", "pyarrow")


def main(reader: str, pattern: str, *columns: str) -> None:
    wanted = list(columns) or None
    paths = sorted(glob.glob(pattern, recursive=True))
    if reader == "polars":
        # as the commands of travelcard run, here and below: without it the pages of every file are faulted in anew
        os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1")
        import polars as pl

        def rows(path: str) -> int:
            return len(pl.read_parquet(path, columns=wanted, glob=False, hive_partitioning=False))

    else:
        os.environ.setdefault("MIMALLOC_ALLOW_THP", "0")
        import pyarrow.parquet as pq

        def rows(path: str) -> int:
            with pq.ParquetFile(path) as file:
                groups = range(file.metadata.num_row_groups)
                return sum(len(file.read_row_group(g, columns=wanted, use_threads=False)) for g in groups)

    with ThreadPoolExecutor(cores()) as pool:
        print(sum(pool.map(rows, paths)))


if __name__ == "__main__":
    main(*sys.argv[1:])
