"""The checksum of what somebody wrote as Parquet: the same whatever the order of rows, files and columns.

``python -m travelcard.bench.check PATTERN`` prints the number of rows and the checksum. It runs as a process of its
own, so that nobody checks its own work.
"""

from __future__ import annotations

import glob
import hashlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_NULL = np.uint64(0xA0761D6478BD642F)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def mixed(words: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of a word changes half the bits of the result."""
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ words >> np.uint64(31))


def words_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A 64-bit word a value: numbers as they are, times as whole seconds, text by its bytes, lists by their items."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = column.type
    if pa.types.is_list(kind):
        items = words_of(column.flatten())
        ends = np.concatenate([[0], np.cumsum(pc.fill_null(column.value_lengths(), 0).to_numpy())]).astype(np.int64)
        place = np.arange(len(items)) - np.repeat(ends[:-1], np.diff(ends))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed(items + place.astype(np.uint64) * _STEP))])
        return np.asarray(sums[ends[1:]] - sums[ends[:-1]])
    if pa.types.is_struct(kind):
        return _rows(len(column), [column.field(i) for i in range(kind.num_fields)])
    if pa.types.is_timestamp(kind):
        unit = _UNITS[kind.unit]
        times = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
        if (times % unit).any():
            raise ValueError("a time that is no whole second")
        words = (times // unit).view(np.uint64)
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        words = pc.fill_null(column.cast(pa.int64()), 0).to_numpy().view(np.uint64)
    else:
        encoded = pc.dictionary_encode(column.cast(pa.string()))
        digests = [hashlib.blake2b((t or "").encode(), digest_size=8).digest() for t in encoded.dictionary.to_pylist()]
        known = np.frombuffer(b"".join(digests) or bytes(8), np.uint64)
        words = known[pc.fill_null(encoded.indices, 0).to_numpy()]
    return np.where(column.is_null().to_numpy(zero_copy_only=False), _NULL, words) if column.null_count else words


def _rows(n: int, columns: list[pa.Array]) -> np.ndarray:
    rows = np.zeros(n, np.uint64)
    for column in columns:
        rows = mixed(rows * _STEP + words_of(column))
    return rows


def checksum(table: pa.Table | pa.RecordBatch) -> int:
    """The sum over the rows of a hash of each, modulo 2^64."""
    return int(_rows(len(table), [table.column(name) for name in sorted(table.schema.names)]).sum())


def main(pattern: str) -> None:
    rows = total = 0
    for path in sorted(glob.glob(pattern, recursive=True)):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1 << 20):
                rows += len(batch)
                total += checksum(batch)
    print(rows, f"{total % (1 << 64):016x}")


if __name__ == "__main__":
    main(sys.argv[1])
