"""What another engine's expert would write instead: the stays of a day from the same files, rows and rules.

``python -m travelcard.bench.peers NAME JOB``. Every plan makes of a ping a subscriber and an integer: second of the
day, place index in the order of the codes, and a last bit that is 0 for an inner ping, so that of pings in one second
and place the first one says what the merged one is. What was slower, at 10^7 pings, is said beside each plan.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from typing import NamedTuple

from travelcard.bench.measure import cores

MODULES = {"duckdb": "duckdb", "polars": "polars", "clickhouse": "chdb", "spark": "pyspark"}
DAY_US = 86_400_000_000  # the synthetic country's days have no change of clock
SILENCE = 43_200


class Job(NamedTuple):
    """The day's files; a folder of cells.parquet (cell, place, inner), countries.parquet (mcc, place) and
    places.parquet (place, code); how many cells; the day's first second; whether subscribers are text; the output."""

    pings: str
    lookup: str
    cells: int
    start: int
    text: bool
    out: str


def installed(peer: str) -> bool:
    return find_spec(MODULES[peer]) is not None


def duckdb(job: Job) -> None:
    """Subscriber and event in one 62-bit integer (numbers below 2^34, places below 2^10), sorted, `lag` over no
    partition, which streams; in four branches, which DuckDB runs side by side. Texts get numbers first.

    Slower: window functions partitioned by subscriber (1.6 times; every window sorts anew), sorting two columns,
    lists per subscriber with `list_sort` and `unnest`, one branch, a temporary table.
    """
    import duckdb as db

    numbered = f"""ids AS MATERIALIZED (SELECT msisdn, row_number() OVER () - 1 AS n
        FROM (SELECT DISTINCT msisdn FROM read_parquet('{job.pings}'))), """
    number, some, subscriber = (
        ("ids.n", "p.msisdn <> ''", "ids.msisdn") if job.text else ("p.msisdn", "p.msisdn >= 0", "n")
    )

    def branch(i: int) -> str:
        return f"""
        SELECT any_value(k) >> 28 AS n, ((any_value(k) >> 1) & 1023)::INT AS place,
            (min(k) >> 11) & 131071 AS a, (max(k) >> 11) & 131071 AS d,
            count(*) FILTER (fresh) AS pings, count(*) FILTER (fresh AND k & 1 = 0) AS inn
        FROM (SELECT k, before IS NULL OR k >> 1 <> before >> 1 AS fresh, sum((before IS NULL OR k >> 28 <> before >> 28
                OR xor(k, before) & 2046 <> 0 OR (k >> 11) - (before >> 11) > {SILENCE})::INT)
                OVER (ROWS UNBOUNDED PRECEDING) AS run
            FROM (SELECT k, lag(k) OVER () AS before
                FROM (SELECT k FROM keys WHERE (k >> 28) % 4 = {i} ORDER BY k)))
        GROUP BY run"""

    db.execute(f"""
    COPY (WITH {numbered if job.text else ""} keys AS MATERIALIZED (
        SELECT (n << 28) | ((since // 1000000) << 11) | location AS k FROM (
            SELECT {number} AS n, epoch_us(p."time") - {job.start}000000 AS since,
                CASE WHEN p.cell IS NULL THEN m.location ELSE c.location END AS location
            FROM read_parquet('{job.pings}') p {"JOIN ids ON ids.msisdn = p.msisdn" if job.text else ""}
            LEFT JOIN (SELECT cell, (place * 2 + (NOT "inner")::INT)::BIGINT AS location
                FROM '{job.lookup}/cells.parquet') c ON p.cell = c.cell
            LEFT JOIN (SELECT mcc, (place * 2)::BIGINT AS location FROM '{job.lookup}/countries.parquet') m
                ON p.cell IS NULL AND p.plmn[1:3] = m.mcc
            WHERE {some})
        WHERE since >= 0 AND since < {DAY_US} AND location IS NOT NULL)
    SELECT {subscriber} AS subscriber, code AS place, make_timestamptz(({job.start} + a) * 1000000) AS arrive,
        make_timestamptz(({job.start} + d) * 1000000) AS depart, pings::INT AS pings, inn::INT AS "inner"
    FROM ({" UNION ALL ".join(map(branch, range(4)))}) JOIN '{job.lookup}/places.parquet' USING (place)
    {"JOIN ids USING (n)" if job.text else ""}) TO '{job.out}' (FORMAT parquet)""")


def polars(job: Job) -> None:
    """The same integer, one lazy query on the streaming engine; text subscribers are sorted within `group_by`.

    Slower: sorting by two columns (2.5 times), a left join for both kinds of ping, `replace_strict` for the join, the
    in-memory engine.
    """
    import polars as pl

    col = pl.col
    cells = pl.scan_parquet(f"{job.lookup}/cells.parquet").select(
        "cell", location=col("place") * 2 + (~col("inner")).cast(pl.Int32)
    )
    countries = pl.scan_parquet(f"{job.lookup}/countries.parquet").select("mcc", location=col("place") * 2)
    pings = pl.scan_parquet(job.pings, cache=False).select(
        "msisdn", "cell", "plmn", since=col("time").dt.epoch("us") - job.start * 1_000_000
    )
    some = col("msisdn") != "" if job.text else col("msisdn") >= 0
    pings = pings.filter(some, col("since").is_between(0, DAY_US, closed="left"))
    roaming = pings.filter(col("cell").is_null()).with_columns(mcc=col("plmn").str.slice(0, 3))
    both = [pings.join(cells, on="cell"), roaming.join(countries, on="mcc")]
    event = (col("since") // 1_000_000 * 2048).cast(pl.UInt64) | col("location").cast(pl.UInt64)
    if job.text:
        events = pl.concat([b.select(s="msisdn", k=event) for b in both])
        events = events.group_by("s").agg(col("k").sort()).explode("k")
    else:
        events = pl.concat([b.select(k=(col("msisdn").cast(pl.UInt64) * (1 << 28)) | event) for b in both]).sort("k")
        events = events.with_columns(s=(col("k") // (1 << 28)).cast(pl.Int64))
    key, before = col("k"), col("k").shift(1)
    other = (col("s") != col("s").shift(1)).fill_null(True)
    events = events.filter(other | (key // 2 != before // 2))
    cut = other | ((key ^ before) & 2046 != 0) | (key // 2048 - before // 2048 > SILENCE)
    runs = (
        events.with_columns(run=cut.cum_sum(), second=(col("k") // 2048 % 131_072).cast(pl.Int64))
        .group_by("run")
        .agg(
            subscriber=col("s").first(),
            place=(col("k").first() // 2 % 1024).cast(pl.Int32),
            arrive=col("second").min(),
            depart=col("second").max(),
            pings=pl.len().cast(pl.Int32),
            inner=(col("k") % 2 == 0).sum().cast(pl.Int32),
        )
    )
    times = {n: ((col(n) + job.start) * 1_000_000).cast(pl.Datetime("us", "UTC")) for n in ("arrive", "depart")}
    stays = runs.join(pl.scan_parquet(f"{job.lookup}/places.parquet"), on="place").select(
        "subscriber", place="code", **times, pings="pings", inner="inner"
    )
    stays.collect(engine="streaming").write_parquet(job.out)


def clickhouse(job: Job) -> None:
    """Events in an array for each subscriber, sorted and split there; cells by `transform` on constant arrays, which
    hold a million, and by a join where there are more.

    Slower: the join (1.2 times), a dictionary, `arrayFilter` for `arrayCompact`.
    """
    import chdb

    def table(name: str) -> str:
        return f"file('{job.lookup}/{name}.parquet')"

    location = "toInt32(assumeNotNull(place) * 2 + {})"
    at = location.format("NOT assumeNotNull(inner)")
    cell, join, arrays = "transform(assumeNotNull(cell), cells, at, toInt32(-1))", "", ""
    if job.cells <= 1_000_000:
        arrays = f"""(SELECT groupArray(assumeNotNull(cell)) FROM {table("cells")}) AS cells,
        (SELECT groupArray({at}) FROM {table("cells")}) AS at,"""
    else:
        cell = "coalesce(c.at, -1)"
        join = f"LEFT JOIN (SELECT cell, toNullable({at}) AS at FROM {table('cells')}) AS c ON p.cell = c.cell"
    chdb.query(f"""
    INSERT INTO FUNCTION file('{job.out}', Parquet)
    WITH {arrays} (SELECT groupArray(assumeNotNull(mcc)) FROM {table("countries")}) AS mccs,
        (SELECT groupArray({location.format("0")}) FROM {table("countries")}) AS there
    SELECT s AS subscriber, code AS place, toDateTime64({job.start} + bitShiftRight(r[1], 15), 6, 'UTC') AS arrive,
        toDateTime64({job.start} + bitShiftRight(r[-1], 15), 6, 'UTC') AS depart,
        toInt32(length(r)) AS pings, toInt32(arrayCount(e -> bitAnd(e, 1) = 0, r)) AS inner
    FROM (
        SELECT s, arrayCompact(e -> bitShiftRight(e, 1), arraySort(groupArray(event))) AS l,
            arrayJoin(arraySplit((e, b) -> bitAnd(bitXor(e, b), 32766) != 0
                OR bitShiftRight(e, 15) - bitShiftRight(b, 15) > {SILENCE}, l,
                arrayPushFront(arrayPopBack(l), l[1]))) AS r
        FROM (
            SELECT assumeNotNull(msisdn) AS s, toUnixTimestamp64Micro(assumeNotNull(time)) - {job.start}000000 AS since,
                if(isNull(p.cell), transform(substring(coalesce(plmn, ''), 1, 3), mccs, there, toInt32(-1)), {cell})
                    AS location,
                bitOr(bitShiftLeft(toUInt32(intDiv(since, 1000000)), 15), toUInt32(location)) AS event
            FROM file('{job.pings}', Parquet) AS p {join}
            WHERE {"msisdn != ''" if job.text else "msisdn >= 0"} AND time IS NOT NULL
                AND since >= 0 AND since < {DAY_US} AND location >= 0)
        GROUP BY s) AS runs
    INNER JOIN (SELECT toUInt32(assumeNotNull(place)) AS ix, assumeNotNull(code) AS code FROM {table("places")}) AS p
        ON toUInt32(bitAnd(bitShiftRight(r[1], 1), 16383)) = p.ix""")


def spark(job: Job) -> None:
    """Broadcast joins, one shuffle by subscriber, events in a sorted array for each, cut there; the parallel collector.

    Slower, on a busy machine, of which only the order is to be trusted: two windows of one partitioning and sorted
    partitions cut by NumPy in `mapInArrow` (both 1.2 times the processor time), the default collector (1.2). No clear
    difference: a `groupBy` that aggregates before it shuffles, a higher threshold for its hash tables.
    """
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master(f"local[{cores()}]")
        .config("spark.driver.memory", "12g")
        .config("spark.driver.extraJavaOptions", "-XX:+UseParallelGC")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "64")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    for name in ("cells", "countries", "places"):
        session.read.parquet(f"{job.lookup}/{name}.parquet").createOrReplaceTempView(name)
    session.read.parquet(job.pings).createOrReplaceTempView("pings")
    session.sql(f"""
    WITH located AS (
        SELECT /*+ BROADCAST(c), BROADCAST(m) */ msisdn AS s, unix_micros(time) - {job.start}000000L AS since,
            CASE WHEN p.cell IS NULL THEN m.place * 2 ELSE c.place * 2 + int(NOT c.inner) END AS location
        FROM pings p LEFT JOIN cells c ON p.cell = c.cell
        LEFT JOIN countries m ON p.cell IS NULL AND substring(p.plmn, 1, 3) = m.mcc
        WHERE {"msisdn <> ''" if job.text else "msisdn >= 0"}),
    events AS (SELECT /*+ REPARTITION(s) */ s, shiftleft(since div 1000000, 15) | location AS e FROM located
        WHERE since >= 0 AND since < {DAY_US} AND location IS NOT NULL),
    sorted AS (SELECT s, sort_array(collect_list(e)) AS l FROM events GROUP BY s),
    merged AS (SELECT s, filter(l, (e, i) -> i = 0 OR shiftright(e, 1) <> shiftright(l[i - 1], 1)) AS l FROM sorted),
    cuts AS (SELECT s, l, filter(sequence(0, size(l) - 1), i -> i = 0 OR ((l[i] ^ l[i - 1]) & 32766) <> 0
            OR shiftright(l[i], 15) - shiftright(l[i - 1], 15) > {SILENCE}) AS c FROM merged),
    runs AS (SELECT s, explode(transform(c, (a, j) -> slice(l, a + 1, coalesce(get(c, j + 1), size(l)) - a))) AS r
        FROM cuts)
    SELECT /*+ BROADCAST(p) */ s AS subscriber, code AS place,
        timestamp_seconds({job.start}L + shiftright(r[0], 15)) AS arrive,
        timestamp_seconds({job.start}L + shiftright(r[size(r) - 1], 15)) AS depart,
        size(r) AS pings, size(filter(r, e -> e & 1 = 0)) AS inner
    FROM runs JOIN places p ON int(shiftright(r[0], 1) & 16383) = p.place""").write.parquet(job.out)
    # the memory of the Java process counts only when it has ended and was waited for
    java = session.sparkContext._gateway
    session.stop()
    java.shutdown()
    java.proc.stdin.close()
    java.proc.wait()


if __name__ == "__main__":
    {"duckdb": duckdb, "polars": polars, "clickhouse": clickhouse, "spark": spark}[sys.argv[1]](
        Job(**json.loads(sys.argv[2]))
    )
