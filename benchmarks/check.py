"""The checksum of stays or cards that somebody wrote: the same whatever the order of rows, files and engine.

Run by itself, so that no engine checks its own work: ``python -m benchmarks.check FILE_OR_PATTERN`` prints one line,
the number of rows and the checksum.
"""

from __future__ import annotations

import glob
import hashlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COLUMNS = ("subscriber", "place", "arrive", "depart", "pings", "inner")


def mixed(words: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of a word changes half the bits of the result."""
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words ^ words >> np.uint64(31)


def words_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """One 64-bit word a value: numbers as they are, times as whole seconds, text by a hash of its bytes."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if column.null_count:
        raise ValueError("a null among the stays")
    if pa.types.is_timestamp(column.type):
        unit = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
        times = column.cast(pa.int64()).to_numpy()
        if (times % unit).any():
            raise ValueError("a time that is no whole second")
        return (times // unit).view(np.uint64)
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).to_numpy().view(np.uint64)
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column.cast(pa.string()))
    digests = [hashlib.blake2b(str(text).encode(), digest_size=8).digest() for text in column.dictionary.to_pylist()]
    return np.frombuffer(b"".join(digests), np.uint64)[column.indices.to_numpy()]


def checksum(table: pa.Table | pa.RecordBatch) -> int:
    """The sum over the rows of a hash of each, modulo 2^64."""
    rows = np.zeros(len(table), np.uint64)
    for name in table.schema.names:
        rows = mixed(rows * np.uint64(0x9E3779B97F4A7C15) + words_of(table.column(name)))
    return int(rows.sum())  # wraps round


def main(pattern: str) -> None:
    rows = total = 0
    for path in sorted(glob.glob(pattern, recursive=True)):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1 << 20, columns=list(COLUMNS)):
                rows += len(batch)
                total += checksum(batch.select(list(COLUMNS)))
    print(f"{rows} {total % (1 << 64):016x}")


if __name__ == "__main__":
    main(sys.argv[1])
