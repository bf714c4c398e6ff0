"""The Delta tables of a store: what they hold, one transaction a day, one subscriber's rows out of all (DESIGN 4)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from travelcard import lease, parquet
from travelcard.card import Card
from travelcard.errors import InputError, NotFound, mask, one_line
from travelcard.explain import Explanation, explain
from travelcard.files import remote
from travelcard.late import polars as pl
from travelcard.lock import held, holder
from travelcard.objects import Objects
from travelcard.places import Places
from travelcard.policy import Policy
from travelcard.pseudonyms import Pseudonyms
from travelcard.risk import Risk
from travelcard.schema import CARDS, CORRECTIONS, MAX_BUCKETS, REJECTS, RUNS, STAYS, Table, bucket_of, dates, zone

__all__ = ["Store", "in_force"]

PURGED = "purged.json"  # what is left of a store that was purged
T = TypeVar("T")
TABLES = {table.name: table for table in (STAYS, REJECTS, CARDS, CORRECTIONS, RUNS)}
_PARTITION_TYPES = {"day": pa.date32(), "as_of": pa.date32(), "bucket": pa.int16()}
_OPEN = 256  # files kept open for look-ups


@dataclass(frozen=True, slots=True)
class Layout:
    """What is fixed for a store when it is made: every file in it rests on these.

    `buckets` is a power of two; `subscribers` is ``"integer"`` or ``"string"``; `max_silence_s` cuts its stays;
    `pseudonyms` says whether subscribers are kept under another name, which a key makes of theirs.
    """

    subscribers: str = "integer"
    buckets: int = 64
    tz: str = "Asia/Shanghai"
    max_silence_s: int = 43_200
    pseudonyms: bool = False

    def __post_init__(self) -> None:
        if self.buckets < 1 or self.buckets > MAX_BUCKETS or self.buckets & (self.buckets - 1):
            raise InputError(f"buckets is {self.buckets}: it must be a power of two from 1 to {MAX_BUCKETS}")
        if self.subscribers not in ("integer", "string"):
            raise InputError(f'subscribers is {self.subscribers!r}: it must be "integer" or "string"')
        if self.max_silence_s < 0:
            raise InputError(f"max_silence is {self.max_silence_s} s: it must be 0 or more")
        zone(self.tz)

    @property
    def ids(self) -> pa.DataType:
        return pa.int64() if self.subscribers == "integer" else pa.string()


@dataclass(frozen=True, slots=True)
class Written:
    """A Parquet file that stands in a table's folder and is not yet part of the table."""

    path: str
    size: int
    rows: int
    partition: Mapping[str, str]


class Store:
    """A folder (or object-store prefix) of Delta tables: `stays`, `rejects`, `cards`, `corrections`, `runs`.

    Opening one reads nothing. `asked` (`buckets`, `tz`, `max_silence_s`) is what a new store is made with;
    an existing store keeps its own, and asking for another is refused. With a `key` a new store holds pseudonyms in the
    place of subscribers, and such a store tells nothing about one, and takes no pings, without it.

    Examples
    --------
    >>> import tempfile, travelcard as tc
    >>> tc.Store(tempfile.mkdtemp()).days("stays")
    []
    """

    def __init__(
        self, root: str | Path, *, asked: Mapping[str, Any] | None = None, key: Pseudonyms | None = None
    ) -> None:
        self.root = str(root).rstrip("/")
        self.key = key
        self._asked = dict(asked or {})
        self._layout: Layout | None = None
        self._tables: dict[str, DeltaTable] = {}
        self._listed: dict[str, tuple[int, list[tuple[dict[str, str], str]]]] = {}  # files by version
        self._placed: dict[str, tuple[int, dict[str, dict[str, list[str]]]]] = {}  # the same by day and bucket
        self._footers: dict[str, parquet.Footer] = {}
        self._seen: dict[str, int | None] = {}  # when each table's log was last looked at, see _log_changed
        self._writing = False
        self._lease: lease.Lease | None = None

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is opened anew, from wherever that process works; who writes it is this one."""
        return _reopened, (
            self.root if self._remote else os.path.abspath(self.root),
            self._asked,
            self.key,
            self._layout,
        )

    # ------------------------------------------------------------------------------------------------ tables

    @property
    def scratch(self) -> Path:
        """A folder for what may be made again at any time; beside the tables, or here when they are elsewhere."""
        return Path(".travelcard") if self._remote else Path(self.root) / ".travelcard"

    @property
    def _remote(self) -> bool:
        """Whether this is a prefix of an object store: without folders, their times and their locks."""
        return remote(self.root)

    def uri(self, table: str) -> str:
        return f"{self.root}/{table}"

    def _filesystem(self, table: str) -> tuple[pa.fs.FileSystem, str]:
        if self._remote:
            # what is small is then written in one request, not in three with an unfinished upload if killed between
            options = "?allow_delayed_open=true" if self.root.startswith("s3://") else ""
            return pa.fs.FileSystem.from_uri(self.uri(table) + options)  # type: ignore[no-any-return]
        return pa.fs.LocalFileSystem(), os.path.abspath(self.uri(table))

    def table(self, name: str) -> DeltaTable | None:
        """The newest version of a table, or None when the store has none of that name yet."""
        try:
            if name not in self._tables:
                self._tables[name] = _steady(lambda: DeltaTable(self.uri(name)))
                self._refuse_purged()
                return self._tables[name]
            seen = self._log_changed(name)
            if seen is None or seen != self._seen.get(name) or self._has_next(name):
                _steady(self._tables[name].update_incremental)  # 0.8 ms, which a look-up does not have every time
                self._seen[name] = seen
        except TableNotFoundError:
            self._refuse_purged()
            return None
        except (OSError, DeltaError) as error:
            self._refuse_purged()
            raise InputError(f"{self.uri(name)} cannot be read as a Delta table: {one_line(error)}") from error
        return self._tables[name]

    def note(self, name: str) -> Any:
        """What stands beside the tables under a name, JSON; None where nothing does."""
        try:
            filesystem, path = self._filesystem(name)
            if filesystem.get_file_info(path).type != pa.fs.FileType.File:
                return None
            with filesystem.open_input_stream(path) as file:
                return json.loads(file.read())
        except (OSError, ValueError) as error:
            raise InputError(f"{self.root}/{name} cannot be read: {one_line(error)}") from error

    def put_note(self, name: str, said: Any) -> None:
        """Leave something beside the tables; None takes it away. Only for who writes the store."""
        if self._remote:
            objects = Objects(self.root)
            if said is None:
                objects.delete([name])
            else:
                found = objects.get(name)
                objects.put(name, json.dumps(said).encode(), None if found is None else found.version)
            return
        path = Path(self.root, name)
        try:
            if said is None:
                path.unlink(missing_ok=True)
                return
            half = path.with_name(path.name + ".half")
            half.write_text(json.dumps(said), encoding="utf-8")
            half.replace(path)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error

    def _refuse_purged(self) -> None:
        if (purged := self.note(PURGED)) is not None:
            raise NotFound(f"{self.root} was purged on {purged['at']}: nothing is kept of it; name another folder")

    def _log_changed(self, name: str) -> int | None:
        """When a table's log was last written to, nanoseconds; None where no clock of a folder says so."""
        return None if self._remote else os.stat(f"{self.uri(name)}/_delta_log").st_mtime_ns

    def _has_next(self, name: str) -> bool:
        """Whether the commit after the one we know is there: one within the same tick leaves the folder's time."""
        return os.path.exists(f"{self.uri(name)}/_delta_log/{self._tables[name].version() + 1:020}.json")

    @property
    def exists(self) -> bool:
        return self.table("stays") is not None

    @property
    def layout(self) -> Layout:
        """The store's layout: as it was made with, or, before that, as this object was asked to make it."""
        if self._layout is None:
            stays = self.table("stays")
            if stays is None:
                return Layout(**self._asked, pseudonyms=self.key is not None)
            made_with = stays.metadata().configuration.get("travelcard.layout")
            if made_with is None:
                raise InputError(f"{self.root} holds Delta tables that travelcard did not make: name another folder")
            layout = Layout(**json.loads(made_with))
            other = [
                f"{k} = {getattr(layout, k)!r}, not {v!r}" for k, v in self._asked.items() if getattr(layout, k) != v
            ]
            if other:
                raise InputError(f"{self.root} was made with {', '.join(other)}: that cannot be changed")
            if self.key is not None and not layout.pseudonyms:
                raise InputError(f"{self.root} was made without a key and holds numbers: run its days into a new store")
            self._layout = layout
        return self._layout

    def create(self, subscribers: str) -> Layout:
        """Make the tables that are missing, for integer or string subscribers; an existing store must agree."""
        layout = self.layout
        if self.exists and layout.subscribers != subscribers:
            raise InputError(f"{self.root} holds {layout.subscribers} subscribers, these pings have {subscribers} ones")
        layout = replace(layout, subscribers=subscribers)
        if layout.pseudonyms:
            self.refuse_other_key()
        for table in TABLES.values():
            if self.table(table.name) is not None:
                continue
            fields = [pa.field(name, _PARTITION_TYPES[name]) for name in table.partition]
            schema = pa.schema([*fields, *_nullable(table.arrow(ids=layout.ids))])
            try:
                DeltaTable.create(
                    self.uri(table.name),
                    schema,
                    mode="ignore",
                    partition_by=list(table.partition),
                    configuration={
                        "travelcard.layout": json.dumps({s: getattr(layout, s) for s in layout.__slots__}),
                        **({"travelcard.keys": self._key.id} if layout.pseudonyms else {}),
                        # what an expiry or somebody's right removed is not to be found in earlier versions either
                        "delta.logRetentionDuration": "interval 0 seconds",
                        "delta.deletedFileRetentionDuration": "interval 0 seconds",
                        # whoever else writes a file must not put the numbers in it into the log as its minimum
                        "delta.dataSkippingNumIndexedCols": "0",
                    },
                    raise_if_key_not_exists=False,
                )
            except (OSError, DeltaError) as error:
                raise InputError(f"{self.root} cannot be written: {one_line(error)}") from error
        self._layout = layout
        return layout

    # ------------------------------------------------------------------------------------------------ keys

    @property
    def _key(self) -> Pseudonyms:
        """The key, of a store that has one."""
        if self.key is None:
            raise InputError(f"{self.root} holds pseudonyms: give its key (TRAVELCARD_KEY or [pseudonyms])")
        return self.key

    @property
    def keys(self) -> tuple[str, ...]:
        """The id of the key of this store's pseudonyms; of two while one takes the other's place; none without."""
        stays = self.table(STAYS.name)
        return () if stays is None else tuple(stays.metadata().configuration.get("travelcard.keys", "").split())

    def key_of(self, name: str, path: str) -> str | None:
        """The id of the key of a file's pseudonyms."""
        return self._about(name, path).get("key")

    def refuse_other_key(self) -> None:
        """Refuse a key that is not, or not alone, the one of this store."""
        if self.keys not in ((), (self._key.id,)):
            raise self._other_key()

    def _other_key(self) -> InputError:
        return InputError(f"{self.root} is not of the key {self._key.id}, or a `travelcard rekey` of it did not end")

    def put_keys(self, *ids: str) -> None:
        """Say which key's pseudonyms these are."""
        handle = self.table(STAYS.name)
        if handle is None:
            raise NotFound(f"{self.root} has no table {STAYS.name}: it was never run")
        try:
            handle.alter.set_table_properties({"travelcard.keys": " ".join(ids)}, raise_if_not_exists=False)
        except (OSError, DeltaError) as error:
            raise InputError(f"{self.root} cannot be written: {one_line(error)}") from error

    def kept(self, subscribers: pa.Array) -> pa.Array:
        """Subscribers as this store keeps them: pseudonyms, or as they are."""
        return self._key.of(subscribers) if self.layout.pseudonyms else subscribers

    def kept_name(self, subscriber: int | str) -> int | str:
        """One subscriber as this store keeps it."""
        return self.kept(pa.array([subscriber], self.layout.ids))[0].as_py()  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------------ writing

    @property
    def _lock(self) -> Path:
        name = hashlib.sha256(self.root.encode()).hexdigest()[:16] if self._remote else "store"
        return self.scratch / f"{name}.lock"

    def writer(self) -> tuple[str, bool] | None:
        """Who writes this store, and whether that process lives; None where nobody does."""
        return lease.lessee(self.root) if self._remote else holder(self._lock)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Be the one who writes this store while something is done; raises `Busy` while another process is.

        Whoever has it already keeps it: a night takes it once for its steps.
        """
        if self._writing:
            yield
            return
        what = f"{what} of {self.root}"
        with (
            held(self._lock, what),
            lease.leased(self.root, what, self._lock) if self._remote else nullcontext() as renewed,
        ):
            self._writing, self._lease = True, renewed
            try:
                yield
            finally:
                self._writing, self._lease = False, None

    def write(
        self,
        table: Table,
        rows: pa.Table | Iterable[pa.Table],
        partition: Mapping[str, date | int],
        about: Mapping[str, Any] | None = None,
    ) -> Written:
        """Write one Parquet file into a table's folder. It is no part of the table before `publish` says so.

        `rows` may come in parts, so that they need not be in memory together; their subscribers are as they are kept.
        `about` stands in the file's footer, as JSON.
        """
        text = {name: str(value) for name, value in partition.items()}
        folder = "".join(f"{name}={value}/" for name, value in text.items())
        return self._write(table, rows, text, f"{folder}{uuid.uuid4().hex}.parquet", dict(about or {}))

    def rewrite(self, table: Table, values: Mapping[str, str], path: str, rows: pa.Table) -> Written:
        """Write what is to take the place of a file that is part of a table, with `swap`.

        Only somebody's rows or their names are other ones in it: the edition of its day stays what it was.
        """
        folder, slash, name = path.rpartition("/")
        stem, *times, _ = name.split(".")
        with self._open(table.name, path) as file:
            about = parquet.about(file) or {}
        later = f"{folder}{slash}{stem}.{int(times[0]) + 1 if times else 1}.parquet"
        return self._write(table, rows, values, later, about)

    def _write(
        self,
        table: Table,
        rows: pa.Table | Iterable[pa.Table],
        text: Mapping[str, str],
        path: str,
        about: dict[str, Any],
    ) -> Written:
        if self.layout.pseudonyms and "subscriber" in table.arrow().names:
            about["key"] = self._key.id
        filesystem, base = self._filesystem(table.name)
        try:
            if isinstance(filesystem, pa.fs.LocalFileSystem):
                filesystem.create_dir(os.path.dirname(f"{base}/{path}"), recursive=True)
            written = parquet.write(f"{base}/{path}", table, rows, about, ids=self.layout.ids, filesystem=filesystem)
            size = filesystem.get_file_info(f"{base}/{path}").size
        except OSError as error:
            raise InputError(f"{self.root} cannot be written: {one_line(error)}") from error
        return Written(path, size, written, text)

    def discard(self, table: Table, files: Iterable[Written]) -> None:
        """Remove files that were written and are not to be published."""
        self._remove(table.name, [file.path for file in files])

    def _remove(self, name: str, paths: Sequence[str]) -> None:
        if self._remote:  # Arrow's way would leave an empty object where the folder of each was
            Objects(self.root).delete([f"{name}/{path}" for path in paths])
            return
        filesystem, base = self._filesystem(name)
        for path in paths:
            filesystem.delete_file(f"{base}/{path}")

    def publish(self, table: Table, files: Iterable[Written], partition: Mapping[str, date] | None = None) -> None:
        """One transaction: these files are from now on all that a day (or as_of) holds; without one, they are added.

        The log gets each file's number of rows and nothing else: its minima and maxima would be phone numbers.
        """
        now = int(time.time() * 1000)
        self._commit(table, [_added(file, now) for file in files], partition)

    def swap(self, table: Table, files: Mapping[str, Written]) -> None:
        """One transaction: each of these files takes the place of the one at the path that it is named by.

        As its rows' publishing counts what that file's did.
        """
        now = int(time.time() * 1000)
        log = self.log(table.name).select("path", pl.col("published").dt.timestamp("ms"))
        published = dict(log.iter_rows())
        gone = [RemoveAction(path, True, now, partition_values=dict(new.partition)) for path, new in files.items()]
        self._commit(table, [*gone, *(_added(new, published[path]) for path, new in files.items())])

    def _commit(
        self, table: Table, actions: list[AddAction | RemoveAction], partition: Mapping[str, date] | None = None
    ) -> None:
        handle = self.table(table.name)
        if handle is None:
            raise NotFound(f"{self.root} has no table {table.name}: it was never run")
        if self._lease is not None:
            self._lease.renew()
        try:
            handle.create_write_transaction(
                actions,
                "overwrite" if partition else "append",
                handle.schema(),
                partition_by=list(table.partition),
                partition_filters=[(name, "=", str(value)) for name, value in (partition or {}).items()] or None,
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except (OSError, DeltaError) as error:
            raise InputError(f"{self.root}: {table.name} could not be published: {one_line(error)}") from error

    # ------------------------------------------------------------------------------------------------ reading

    def files(self, name: str, **partition: object) -> list[tuple[dict[str, str], str]]:
        """(partition values, path in the table's folder) of the files that are part of a table now, sorted."""
        handle = self.table(name)
        if handle is None:
            return []
        version, listed = self._listed.get(name, (-1, []))
        if version != handle.version():
            keys, actions = TABLES[name].partition, pa.table(handle.get_add_actions(flatten=True))
            columns = [actions[column].to_pylist() for column in ("path", *(f"partition.{key}" for key in keys))]
            rows = sorted(zip(*columns, strict=True))
            listed = [(dict(zip(keys, map(str, values), strict=True)), path) for path, *values in rows]
            self._listed[name] = handle.version(), listed
        wanted = {key: str(value) for key, value in partition.items()}
        return [one for one in listed if wanted.items() <= one[0].items()] if wanted else listed

    def _by_day(self, name: str) -> dict[str, dict[str, list[str]]]:
        """The files of a table by day, in its order, and bucket: a look-up does not walk through all."""
        listed, (version, placed) = self.files(name), self._placed.get(name, (-1, {}))
        now = self._listed[name][0] if name in self._listed else -1
        if version != now:
            key, placed = TABLES[name].partition[0], {}
            for values, path in sorted(listed, key=lambda one: one[0][key]):
                placed.setdefault(values[key], {}).setdefault(values.get("bucket", ""), []).append(path)
            self._placed[name] = now, placed
        return placed

    def log(self, name: str) -> pl.DataFrame:
        """What a table's log says of its files now, sorted by path: partition values as texts, `path`, `size`, `rows`,
        `published`.
        """
        handle = self.table(name)
        if handle is None:
            raise NotFound(f"{self.root} has no table {name}: it was never run")
        actions: pl.DataFrame = pl.from_arrow(pa.table(handle.get_add_actions(flatten=True)))  # type: ignore[assignment]
        return actions.select(
            *(pl.col(f"partition.{key}").cast(pl.String).alias(key) for key in TABLES[name].partition),
            "path",
            pl.col("size_bytes").alias("size"),
            pl.col("num_records").alias("rows") if "num_records" in actions.columns else pl.lit(None).alias("rows"),
            pl.col("modification_time").cast(pl.Datetime("ms", "UTC")).alias("published"),
        ).sort("path")

    def editions(self, name: str) -> dict[date, str]:
        """For each day (or as_of date) of a table, a text that is another one after it was run again.

        It is not another one where a file took the place of one: see `rewrite`.
        """
        names: dict[date, list[str]] = {}
        for values, path in self.files(name):
            stem = path.rpartition("/")[2].partition(".")[0]
            names.setdefault(date.fromisoformat(values[TABLES[name].partition[0]]), []).append(stem)
        return {day: hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16] for day, paths in names.items()}

    def about(self, as_of: date) -> dict[str, Any]:
        """What was written about the cards of a date; empty where the store has none."""
        files = self.files("cards", as_of=as_of)
        return self._about("cards", files[0][1]) if files else {}

    def _about(self, name: str, path: str) -> dict[str, Any]:
        """What was written about the rows of a file."""
        footer = self._footer(name, path)
        with parquet.naming(name, path):
            about = parquet.about(footer.file)
        if about is None and name == CARDS.name:
            raise InputError(f"cards/{path} was not written by travelcard: make the cards of its date again")
        return about or {}

    def changed(self) -> dict[date, set[date]]:
        """For each date of the cards, ascending, the days of its window whose stays are others now than they were then.

        A day that was run again, with late hours or without a fault, is changed for every window that holds it.
        """
        held = {day.isoformat(): edition for day, edition in self.editions("stays").items()}
        out = {}
        for as_of in self.days("cards"):
            about = self.about(as_of)
            window = {*about["stays"], *about["missing"]}
            out[as_of] = {date.fromisoformat(day) for day in window if held.get(day) != about["stays"].get(day)}
        return out

    def stale(self) -> list[date]:
        """The dates whose cards were made from other stays than the store now holds, ascending."""
        return [as_of for as_of, days in self.changed().items() if days]

    def orphans(self, name: str) -> tuple[int, int]:
        """The files in a table's folder that are no part of it now, whoever left them: (files, bytes)."""
        found = self._orphans(name)
        return len(found), sum(found.values())

    def _orphans(self, name: str) -> dict[str, int]:
        """Their paths in the table's folder, and their sizes."""
        handle = self.table(name)
        if handle is None:
            return {}
        filesystem, base = self._filesystem(name)
        every = handle.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False, full=True)
        found = filesystem.get_file_info([f"{base}/{path}" for path in every])
        # a tombstone outlives its file
        there = zip(every, found, strict=True)
        return {path: info.size or 0 for path, info in there if info.type == pa.fs.FileType.File}

    def vacuum(self) -> tuple[int, int]:
        """Remove the files that are no part of any table now, whoever left them, and the folders that are left empty:
        (files, bytes).

        Nothing is written, not even to a log: where a run filled the disk, its files can still be removed.
        """
        halves = list((self.scratch / "cells").glob("*.parquet.*"))  # of maps of cells: see Config.cell_map
        halves += [*Path(self.root).glob("*.half"), *self.scratch.glob("*.half")]  # of notes
        for name in TABLES:  # of commits, as Delta writes them before it gives them their names
            log = Path(self.uri(name), "_delta_log")
            halves += [*log.glob("_commit_*.tmp"), *log.glob("*#*")]
        files, size = len(halves), sum(path.stat().st_size for path in halves)
        for half in halves:
            half.unlink()
        for name in TABLES:
            orphans = self._orphans(name)
            self._remove(name, [*orphans])
            files, size = files + len(orphans), size + sum(orphans.values())
            for folder, _, _ in os.walk(self.uri(name), topdown=False):  # in an object store there are none
                if not os.listdir(folder):
                    os.rmdir(folder)
        return files, size

    def trim(self) -> None:
        """Leave nothing of the earlier versions of the tables in their logs; their files are `vacuum`'s."""
        for name, table in TABLES.items():
            handle = self.table(name)
            if handle is not None and handle.version():
                self._commit(table, [])  # the newest entry stays, and says nothing then of what was removed
                handle.update_incremental()
                try:
                    handle.create_checkpoint()
                    handle.cleanup_metadata()
                except (OSError, DeltaError) as error:
                    raise InputError(f"{self.root} cannot be written: {one_line(error)}") from error

    def remove_all(self, *, keeping: str) -> None:
        """Remove every file and folder of the store but one file beside the tables."""
        if self._remote:
            filesystem, base = self._filesystem("")
            every = filesystem.get_file_info(pa.fs.FileSelector(base.rstrip("/"), recursive=True))
            paths = [
                info.path.removeprefix(base.rstrip("/") + "/") for info in every if info.type == pa.fs.FileType.File
            ]
            Objects(self.root).delete([path for path in paths if path not in (keeping, lease.OBJECT)])
            return
        try:
            for path in Path(self.root).iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != keeping:
                    path.unlink()
        except OSError as error:
            raise InputError(f"{self.root} cannot be written: {one_line(error)}") from error

    def may_hold(self, name: str, path: str, kept: int | str) -> bool:
        """Whether a file of a table may hold a subscriber, as it is kept, by its footer alone."""
        return name not in (STAYS.name, CARDS.name) or bool(self._footer(name, path).groups(kept))

    def sizes(self, name: str) -> dict[str, int]:
        """The size in bytes of each file that a table names and that is there, by its path."""
        filesystem, base = self._filesystem(name)
        paths = [path for _, path in self.files(name)]
        found = filesystem.get_file_info([f"{base}/{path}" for path in paths])
        return {path: info.size for path, info in zip(paths, found, strict=True) if info.type == pa.fs.FileType.File}

    def rows(self, name: str, path: str) -> int:
        """How many rows a file has, by its footer alone."""
        with self._open(name, path) as file:
            return int(file.metadata.num_rows)

    def days(self, name: str) -> list[date]:
        """The days (of `stays`, `rejects`) or as_of dates (of `cards`) that a table holds, ascending."""
        return [date.fromisoformat(day) for day in self._by_day(name)]

    def read(self, name: str, paths: Iterable[str], columns: list[str] | None = None) -> pa.Table:
        """Files of a table as one Arrow table, in the order given, without their partition columns."""
        empty = TABLES[name].arrow(ids=self.layout.ids)
        schema = empty if columns is None else pa.schema([empty.field(c) for c in columns])
        parts = []
        for path in paths:
            with self._open(name, path) as file:
                parts.append(file.read(columns=columns, use_threads=False).cast(schema))
        return pa.concat_tables(parts) if parts else schema.empty_table()

    @contextmanager
    def opened_stays(self, paths: Iterable[str]) -> Iterator[list[tuple[str, parquet.Footer, pa.NativeFile]]]:
        """Files of stays, open: of each its path, its footer, and its bytes. Places are read as dictionaries."""
        filesystem, base = self._filesystem("stays")
        with ExitStack() as stack:
            yield [
                (
                    path,
                    parquet.Footer.of(stack.enter_context(self._open("stays", path, ["place"]))),
                    stack.enter_context(filesystem.open_input_file(f"{base}/{path}")),
                )
                for path in paths
            ]

    @contextmanager
    def _open(self, name: str, path: str, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
        """A file of a table, open for what is done with it."""
        with parquet.naming(name, path), self._opened(name, path, dictionaries) as file:
            yield file

    def _opened(self, name: str, path: str, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        filesystem, base = self._filesystem(name)
        return parquet.opened(f"{base}/{path}", TABLES[name], filesystem, dictionaries)

    def _footer(self, name: str, path: str) -> parquet.Footer:
        """A file of a table, kept open with what is needed to find a subscriber in it."""
        footer = self._footers.pop(path, None)
        if footer is None:
            with parquet.naming(name, path):
                footer = parquet.Footer.of(self._opened(name, path))
        self._footers[path] = footer  # behind all others: the first is the one not asked for longest
        if len(self._footers) > _OPEN:
            self._footers.pop(next(iter(self._footers))).file.close()
        return footer

    def frame(self, name: str, **partition: object) -> pl.DataFrame:
        """A whole table, or one day, as of date or bucket of it, with its partition columns; sorted by file.

        `frame("stays", day=date(2022, 3, 14))`, `frame("rejects")`, `frame("runs")`.
        """
        table = TABLES[name]
        empty: pl.DataFrame = pl.from_arrow(table.arrow(ids=self.layout.ids).empty_table())  # type: ignore[assignment]
        parts = [empty.select(*(_lit(key, None) for key in table.partition), pl.all())]
        for values, path in self.files(name, **partition):
            rows: pl.DataFrame = pl.from_arrow(self.read(name, [path]))  # type: ignore[assignment]
            parts.append(rows.select(*(_lit(key, values[key]) for key in table.partition), pl.all()))
        return pl.concat(parts)

    def runs(self, what: str | None = None, day: date | None = None) -> pl.DataFrame:
        """The ledger: one row per run, in the order in which they ended; of one kind and day if asked."""
        rows = self.frame("runs").sort("number")
        if what is not None:
            rows = rows.filter(pl.col("what") == what)
        return rows if day is None else rows.filter(pl.col("day") == day)

    # ------------------------------------------------------------------------------------------------ one subscriber

    def subscriber(self, text: object) -> int | str:
        """A subscriber as this store keys it, from what a person types; nothing of it is in the error."""
        if self._layout is None and not self.exists:
            raise NotFound(f"{self.root} holds nothing yet: run `travelcard run DAY` first")
        if self.layout.subscribers == "string":
            return str(text)
        try:
            number = int(str(text).strip().lstrip("+"))
        except ValueError:
            number = -1
        if not 0 <= number < 2**63:
            raise InputError("that is no subscriber of this store: expected a whole number, digits only")
        return number

    def _rows_of(
        self, name: str, subscriber: int | str, days: Collection[date]
    ) -> tuple[date | None, list[pa.Table], dict[str, Any]]:
        """A subscriber's rows of `stays` or `cards` on some days (or dates), and what was written about them.

        Without a day it is the newest. Of each file only the row groups that may hold the subscriber are read. Returns
        (the newest day looked at, the rows of each file that has some, as they are in it, about).
        """
        found: list[pa.Table] = []
        about: dict[str, Any] = {}
        held = self._by_day(name)
        wanted = {day.isoformat() for day in days} or {max(held, default="")}
        bucket, kept = str(bucket_of(subscriber, self.layout.buckets)), self.kept_name(subscriber)
        seen = [day for day in held if day in wanted]
        for path in (path for day in seen for path in held[day].get(bucket, ())):
            told = self._about(name, path)
            if self.layout.pseudonyms and told.get("key") != self._key.id:
                raise self._other_key()
            about |= told
            footer = self._footer(name, path)
            if groups := footer.groups(kept):
                with parquet.naming(name, path):
                    rows = footer.file.read_row_groups(list(groups), use_threads=False)
                ids = rows["subscriber"]  # they are sorted: to compare all takes twice as long
                first, last = (cut(ids, kept, key=lambda one: one.as_py()) for cut in (bisect_left, bisect_right))
                if last > first:
                    found.append(rows.slice(first, last - first))
        return (date.fromisoformat(seen[-1]) if seen else None), found, about

    def card(self, subscriber: object, *, as_of: date | None = None) -> Card:
        """One subscriber's card as of a date (the newest that the store holds unless given).

        Raises `NotFound` when the store has no card of that number: it was in no ping of the window.
        """
        return self.card_and_made(subscriber, as_of)[0]

    def card_and_made(self, subscriber: object, as_of: date | None) -> tuple[Card, datetime]:
        """A card, and when it was made."""
        number = self.subscriber(subscriber)
        on, rows, about = self._rows_of("cards", number, [as_of] if as_of else [])
        if on is None:
            dates = self.days("cards")
            held = f"it has {dates[0]} to {dates[-1]}" if dates else "run `travelcard run DAY` first"
            raise NotFound(f"{self.root} holds no cards{f' as of {as_of}' if dates else ' yet'}: {held}")
        if not rows:
            raise NotFound(f"no card for {mask(number)} as of {on}: the number was in no ping of the window")
        risk_date = about["risk_date"]
        card = Card.of(
            {**rows[0].to_pylist()[0], "subscriber": number},
            as_of=on,
            policy=_policy(about["policy"]),
            risk_date=None if risk_date is None else date.fromisoformat(risk_date),
            missing=tuple(map(date.fromisoformat, about["missing"])),
            tz=self.layout.tz,
        )
        return card, datetime.fromisoformat(about["made"])

    def stays_of(self, subscriber: object, first: date, last: date) -> pl.DataFrame:
        """One subscriber's day-stays on the days from `first` to `last`, sorted."""
        number, schema = self.subscriber(subscriber), STAYS.arrow(ids=self.layout.ids)
        _, rows, _ = self._rows_of("stays", number, dates(first, last))
        together = pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in rows)])
        return pl.DataFrame(_under(number, together)).sort("arrive", "place")

    def explain(
        self, subscriber: object, *, as_of: date | None = None, risk: Risk | None = None, places: Places | None = None
    ) -> Explanation:
        """The evidence behind one card: stays, transit, what decided, corrections; `risk` names the areas of marks.

        It is what the card was made from: days that were run and corrections that were recorded later are left aside.
        Where a day was run again since, the explanation says that the card is stale. Raises `NotFound` as `card` does.
        """
        from travelcard.window import visits  # noqa: PLC0415  the kernel: a plain card does without it

        card, made = self.card_and_made(subscriber, as_of)
        stays = self.stays_of(subscriber, *card.window)
        day = pl.col("arrive").dt.convert_time_zone(card.tz).dt.date()
        stays = stays.filter(~day.is_in(card.missing))
        corrections = in_force(self.corrections_of(subscriber), at=made)
        silence = timedelta(seconds=self.layout.max_silence_s)
        seen = visits(
            stays, as_of=card.as_of, policy=card.policy, corrections=corrections, tz=card.tz, max_silence=silence
        )
        return explain(card, stays, seen, corrections=corrections, risk=risk, places=places, max_silence=silence)

    def corrections(self) -> pl.DataFrame:
        """The corrections in force now."""
        return in_force(self.frame("corrections"))

    def corrections_of(self, subscriber: object) -> pl.DataFrame:
        """One subscriber's corrections on record, those that were taken back included."""
        number = self.subscriber(subscriber)
        mine = self.frame("corrections").filter(pl.col("subscriber") == self.kept_name(number))
        rows = mine.to_arrow().cast(CORRECTIONS.arrow(ids=self.layout.ids))
        return pl.from_arrow(_under(number, rows))  # type: ignore[return-value]


def in_force(corrections: pl.DataFrame, *, at: datetime | None = None) -> pl.DataFrame:
    """Of corrections on record those in force, now or at a time: of each subscriber, place, `from` and `to` the newest,
    unless it takes an earlier one back.
    """
    rows = corrections.sort("at", nulls_last=False, maintain_order=True)
    if at is not None:
        rows = rows.filter(pl.col("at").is_null() | (pl.col("at") <= at))
    newest = rows.unique(["subscriber", "place", "from", "to"], keep="last", maintain_order=True)
    return newest.filter(~pl.col("undo").fill_null(value=False))


def _reopened(root: str, asked: Mapping[str, Any], key: Pseudonyms | None, layout: Layout | None) -> Store:
    store = Store(root, asked=asked, key=key)
    store._layout = layout
    return store


def _steady(read: Callable[[], T]) -> T:
    """Read a log, again if it fails: who trims it removes what was just listed, and leaves a newer whole."""
    for wait in (0.01, 0.02, 0.04, 0.08):
        try:
            return read()
        except TableNotFoundError:
            raise
        except DeltaError:
            time.sleep(wait)
    return read()


def _added(file: Written, published: int) -> AddAction:
    rows = json.dumps({"numRecords": file.rows})
    return AddAction(file.path, file.size, dict(file.partition), published, True, rows)


def _under(subscriber: int | str, rows: pa.Table) -> pa.Table:
    """One subscriber's rows under the name that was asked for."""
    at = rows.schema.get_field_index("subscriber")
    field = rows.schema.field(at)
    return rows.set_column(at, field, pa.repeat(pa.scalar(subscriber, field.type), len(rows)))


@lru_cache(maxsize=64)
def _policy(text: str) -> Policy:
    """The policy in a footer, JSON: all cards of a date have the same."""
    return Policy.from_dict(json.loads(text))


def _lit(key: str, value: str | None) -> pl.Expr:
    """A partition column from the text of its value."""
    read = int if key == "bucket" else date.fromisoformat
    return pl.lit(None if value is None else read(value), pl.Int16 if key == "bucket" else pl.Date).alias(key)


def _nullable(schema: pa.Schema) -> list[pa.Field]:
    """Delta columns are nullable, so that a file written by any engine fits; the checks are ours."""
    return [field.with_nullable(True) for field in schema]
