"""The same night on Apache Spark: what `batch` does on this machine's threads, in tasks on a cluster (DESIGN 1).

The driver plans and publishes; no row passes through it. Every executor needs travelcard installed, and sees the pings
and the store under the same paths.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from travelcard.buckets import Arena, Sent, received
from travelcard.cards import cards as cards_of_visits
from travelcard.engine import CardsOfBucket, Hand, Made, Night, Progress, packing_of, write_rejects, write_stays
from travelcard.errors import InputError, MissingExtra, TravelcardError, hidden
from travelcard.files import remote
from travelcard.ingest import Counts
from travelcard.inventory import mark, seen, silent
from travelcard.kernel import Packing, Room
from travelcard.locations import Sieve
from travelcard.policy import Policy
from travelcard.risk import Risk
from travelcard.schema import CARDS, REJECTS, STAYS
from travelcard.sources import Piece, Reading, of_file, pieces_of
from travelcard.stays import stays as stays_of
from travelcard.store import Store, Written
from travelcard.window import visits

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Cluster", "cards", "session", "stays"]

ROWS = 8_000_000  # of the input that a task reads at most, unless a row group is larger
SHARE = 512 << 20  # bytes of pings that a task holds; the others wait on the executor's disk

SETTINGS = {  # of our own sessions
    "spark.ui.showConsoleProgress": "false",
    # What is shuffled are packed words: lz4 makes 8.1 bytes a ping into 7.6, and takes a tenth of the night.
    "spark.shuffle.compress": "false",
    "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    "spark.buffer.size": "1048576",
    # TCP between Spark and its Python waits 40 ms in every task for an acknowledgement; Spark before 4.1 has no other.
    "spark.python.unix.domain.socket.enabled": "true",
}


def session(master: str | None = None) -> SparkSession:
    """A Spark session of our own: at a master, or wherever spark-submit or the environment says.

    Raises
    ------
    MissingExtra
        PySpark is not installed.
    """
    try:
        from pyspark.sql import SparkSession  # noqa: PLC0415  an extra
    except ImportError as error:
        raise MissingExtra("--engine spark needs pyspark and Java 17: pip install 'travelcard[spark]'") from error
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # on executors too, unless told otherwise
    builder = SparkSession.builder.appName("travelcard").config(map=SETTINGS)
    made = (builder if master is None else builder.master(master)).getOrCreate()
    made.sparkContext.setLogLevel("ERROR")
    return made


@dataclass(frozen=True, slots=True)
class _Day:
    """What every task of a day knows."""

    store: Store
    day: date
    reading: Reading
    wanted: Sieve
    packing: Packing | None
    folder: str  # in which the driver works: what its files are named from


@dataclass(frozen=True, slots=True)
class _Read:
    """What a task that read tells beside its pings."""

    counts: Counts
    rejects: list[pa.Table]
    seen: np.ndarray
    spilled: int
    refused: str | None = None


class Cluster:
    """Spark's executors, as the engine of a night.

    Examples
    --------
    >>> import travelcard as tc
    >>> tc.spark.Cluster  # tc.run(store, ..., engine=tc.spark.Cluster(session))
    <class 'travelcard.spark.Cluster'>
    """

    def __init__(self, session: SparkSession) -> None:
        self._context = session.sparkContext

    def stays(self, night: Night) -> Made:
        """The first half: read, sifted and scattered by pieces of the input, reduced by buckets."""
        store, wanted = night.store, night.wanted
        store.create(night.subscribers)  # the executors write into it
        buckets = store.layout.buckets
        packing = packing_of(night.pieces, len(wanted.codes))
        shared = self._context.broadcast(_Day(store, night.day, night.reading, wanted, packing, os.getcwd()))
        groups = _grouped(night, self._context.defaultParallelism)
        blobs = self._context.parallelize(groups, len(groups)).flatMap(partial(_scattered, shared))
        by_bucket = blobs.partitionBy(buckets + 1, int)
        told = _collected(by_bucket.mapPartitionsWithIndex(partial(_reduced, shared)))
        files = [written for what, written, _, _ in told if what == "bucket" and written is not None]
        ((_, read, rejects, _),) = [one for one in told if one[0] == "read"]
        shared.destroy()
        try:
            if read.refused is not None:
                raise InputError(read.refused)
            night.refuse(read.counts)
        except TravelcardError:
            store.discard(STAYS, files)
            store.discard(REJECTS, rejects)
            raise
        mark(wanted.cells, read.seen)
        people, merged = (sum(one[at] for one in told if one[0] == "bucket") for at in (2, 3))
        return Made(read.counts, files, rejects, people, merged, read.spilled, silent(wanted.cells))

    def cards(self, task: CardsOfBucket, progress: Progress) -> Iterator[tuple[Written | None, Counter[str]]]:
        """The second half: a task for each bucket."""
        buckets = task.store.layout.buckets
        shared = self._context.broadcast(task)
        yield from _collected(self._context.parallelize(range(buckets), buckets).map(partial(_carded, shared)))
        shared.destroy()
        progress("cards", buckets, buckets)


def _collected(rdd: Any) -> list[Any]:
    """What the tasks returned; or in one line what the last one of a job that failed said."""
    from py4j.protocol import Py4JJavaError  # noqa: PLC0415  an extra

    try:
        return list(rdd.collect())
    except Py4JJavaError as error:
        text = str(error.java_exception.getMessage())
        said = re.findall(r"^([\w.]+(?:Error|Exception)\b.*)$", text, re.MULTILINE)
        raise InputError(f"Spark gave up: {hidden((said or text.splitlines())[-1])}") from error


def _grouped(night: Night, parallelism: int) -> list[list[tuple[int, str, int]]]:
    """The pieces of the input in tasks: (number among all, file as it was named, number in the file)."""
    seen_of: Counter[str] = Counter()
    groups: list[list[tuple[int, str, int]]] = []
    rows = sum(piece.rows for piece in night.pieces)
    most, held = min(ROWS, rows // (2 * parallelism) + 1), 0
    for number, piece in enumerate(night.pieces):
        if not (remote(piece.file) or os.path.exists(piece.file)):
            raise InputError("on a cluster pings are files, which every executor sees under the same path")
        if not groups or held + piece.rows > most:
            groups.append([])
            held = 0
        groups[-1].append((number, piece.file, seen_of[piece.file]))
        seen_of[piece.file] += 1
        held += piece.rows
    return groups


def _scattered(shared: Any, group: list[tuple[int, str, int]]) -> Iterator[tuple[int, Any]]:
    """Read some pieces: the pings of each bucket, and behind the last bucket what else is to be told."""
    day: _Day = shared.value
    buckets = day.store.layout.buckets
    pieces: dict[str, list[Piece]] = {}
    try:
        for _, file, _ in group:
            if file not in pieces:
                path = file if remote(file) else os.path.join(day.folder, file)
                pieces[file] = pieces_of([path], day.reading, day.day)
        rows = sum(pieces[file][at].rows for _, file, at in group)
        places, scratch = len(day.wanted.codes), Path(tempfile.gettempdir())
        with Arena(buckets, SHARE, rows or SHARE // 8, day.packing, places, scratch) as arena:
            hand = Hand(arena, day.reading, day.wanted)
            for number, file, at in group:
                before = len(hand.rejects)
                hand.read(pieces[file][at], number)
                hand.decide(number)
                hand.rejects[before:] = [_named(rejects, file) for rejects in hand.rejects[before:]]
            yield from ((bucket, sent) for bucket in range(buckets) if (sent := arena.sent(bucket)) is not None)
            yield buckets, _Read(hand.counts, hand.rejects, seen(day.wanted.cells), arena.spilled)
    except InputError as error:  # to try it again would not mend it
        yield buckets, _Read(Counts(), [], seen(day.wanted.cells), 0, str(error))


@lru_cache(maxsize=1)
def _settled() -> None:
    """Whatever is imported and compiled stays: PySpark walks all objects after every task, 50 ms otherwise."""
    gc.freeze()


def _named(rejects: pa.Table, file: str) -> pa.Table:
    at = rejects.schema.get_field_index("file")
    return rejects.set_column(at, rejects.schema.field(at), of_file(file, len(rejects)))


def _reduced(shared: Any, bucket: int, blobs: Iterable[tuple[int, Any]]) -> Iterator[tuple[str, Any, Any, int]]:
    """Of a bucket its file of stays; of what else was told, the sum."""
    day: _Day = shared.value
    parts = [part for _, part in blobs]
    if bucket < day.store.layout.buckets:
        if parts:
            yield "bucket", *_stays_of(day, bucket, parts)
        _settled()
        return
    counts, named, spilled = Counts(), seen(day.wanted.cells), 0
    refused = min((part.refused for part in parts if part.refused is not None), default=None)
    for part in parts:
        counts.add(part.counts)
        named = named | part.seen
        spilled += part.spilled
    rejects = [table for part in parts for table in part.rejects]
    kept = [] if refused is not None else write_rejects(day.store, day.day, rejects)
    yield "read", _Read(counts, [], named, spilled, refused), kept, 0


def _stays_of(day: _Day, bucket: int, parts: list[Sent]) -> tuple[Written | None, int, int]:
    packing = Packing.of(len(day.wanted.codes)) if day.packing is None else day.packing
    pings, names = received(parts, packing, wide=day.packing is None)
    return write_stays(day.store, day.day, day.wanted, bucket, [(pings, names)], packing, Room())


def _carded(shared: Any, bucket: int) -> tuple[Written | None, Counter[str]]:
    made: tuple[Written | None, Counter[str]] = shared.value(bucket)
    _settled()
    return made


# ---------------------------------------------------------------------------------------------------- data frames


def stays(pings: DataFrame, *, tz: str = "Asia/Shanghai", max_silence: timedelta = timedelta(hours=12)) -> DataFrame:
    """`tc.stays` of a Spark DataFrame: clean pings (`subscriber`, `time`, `place`, optionally `inner`) to stays.

    Spark's own shuffle brings a subscriber's pings together; each partition is handed over whole. A timestamp is what
    Spark says it is, an instant. The rows of a partition are sorted by (subscriber, arrive, place).
    """

    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = _whole(batches)
        if table is not None:
            yield from _plain(stays_of(table, tz=tz, max_silence=max_silence))

    return pings.repartition("subscriber").mapInArrow(kernel, _schema(pings, STAYS.arrow))


def cards(
    stays: DataFrame,
    *,
    as_of: date,
    policy: Policy,
    risk: Risk | None = None,
    statuses: Any = None,
    corrections: Any = None,
    tz: str = "Asia/Shanghai",
) -> DataFrame:
    """`tc.visits` and `tc.cards` of a Spark DataFrame of day-stays; a card for each subscriber, in any order.

    `statuses` and `corrections` are tables as those functions take them, which every task gets.
    """

    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = _whole(batches)
        if table is not None:
            seen_ = visits(table, as_of=as_of, policy=policy, corrections=corrections, tz=tz)
            yield from _plain(cards_of_visits(seen_, as_of=as_of, policy=policy, risk=risk, statuses=statuses, tz=tz))

    return stays.repartition("subscriber").mapInArrow(kernel, _schema(stays, CARDS.arrow))


def _whole(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    """All batches of a partition: a subscriber's rows may lie in several."""
    held = [batch for batch in batches if batch.num_rows]
    return pa.Table.from_batches(held) if held else None


def _plain(frame: Any) -> Iterator[pa.RecordBatch]:
    """A frame with the types that Spark takes: text of 32-bit offsets."""
    table = frame.to_arrow(compat_level=None)
    fields = [field.with_type(_small(field.type)) for field in table.schema]
    yield from table.cast(pa.schema(fields)).to_batches()


def _small(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_small(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_small(field.type)) for field in kind])
    return kind


def _schema(frame: DataFrame, declared: Any) -> Any:
    """The declared schema as Spark has it, its ids of the kind that the frame has."""
    from pyspark.sql.pandas.types import from_arrow_schema  # noqa: PLC0415  an extra

    kind = frame.schema["subscriber"].dataType.typeName()
    return from_arrow_schema(declared(ids=pa.string() if kind == "string" else pa.int64()))
