"""A full disk, a folder that may not be written, damaged input: one line says what, and the store is as it was."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import nights
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from nights import AS_OF, LAST, command, copied, good, listing, rows, same, whole

import travelcard as tc
from travelcard import cli

LIMITS = (0, 3_000, 10_000)  # bytes that a file may have


@pytest.fixture(scope="module")
def countries(tmp_path_factory):
    """A country whose last day was not run, and what the store holds once it was."""
    two, three = nights.two_and_three(tmp_path_factory.mktemp("countries"))
    return two, rows(tc.Store(three / "store"))


def refused(folder, *words, said="", **how) -> str:
    """Run a command that must refuse in one line."""
    done = command(folder, *words, **how)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("refused: "), done.stderr
    assert said in done.stderr
    return done.stderr


def healed(folder, truth) -> None:
    """The next run succeeds, and leaves nothing behind."""
    nights.healed(folder, tc.Store(folder / "store"), ("run", LAST), truth, lambda: listing(folder / "store"))


# ---------------------------------------------------------------------------------------------------- full disks


@contextmanager
def disk(folder, size: str):
    """A file system of a size, at a folder."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
    if made.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("limit", LIMITS)
def test_where_no_file_may_grow_a_run_is_refused_in_one_line(countries, tmp_path, limit):
    two, truth = countries
    folder = copied(two, tmp_path / "country")
    before = rows(tc.Store(folder / "store"))
    refused(folder, "run", LAST, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    whole(tc.Store(folder / "store"), before, truth)
    healed(folder, truth)


@pytest.mark.heavy
@pytest.mark.parametrize("spilling", [False, True])
def test_a_full_disk_refuses_a_run_in_one_line_wherever_it_is(countries, tmp_path, spilling):
    """From no room at all to nearly enough: while spilling, while files are written, while they are published."""
    two, truth = countries
    folder = copied(two, tmp_path / "country")
    kept = (folder / "store").rename(folder / "kept")
    point = "spilling" if spilling else None
    said = []
    with disk(folder / "store", "64m"):
        subprocess.run(["cp", "-r", f"{kept}/.", folder / "store"], check=True)
        before = rows(tc.Store(folder / "store"))
        free = shown(folder / "store")
        good(folder, "run", LAST)
        night = free - shown(folder / "store")
        for share in (0, 0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98):
            for path in (folder / "store").glob("*"):
                subprocess.run(["rm", "-rf", path], check=True)
            subprocess.run(["rm", "-rf", folder / "store" / ".travelcard"], check=True)
            subprocess.run(["cp", "-r", f"{kept}/.", folder / "store"], check=True)
            ballast = folder / "store" / "ballast"
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(shown(folder / "store") - int(share * night), 1))
            said.append(refused(folder, "run", LAST, point=point, said=str(folder / "store")))
            whole(tc.Store(folder / "store"), before, truth)
            ballast.unlink()
            healed(folder, truth)
    assert any("memory has no room" in line for line in said) == spilling, "it was full in a spill"
    assert any("store cannot be written" in line for line in said), "it was full where a file of a table was written"


def shown(folder) -> int:
    """Bytes that are free."""
    about = os.statvfs(folder)
    return about.f_bavail * about.f_bsize


# ---------------------------------------------------------------------------------------------------- read-only


def test_a_folder_that_may_not_be_written_refuses_a_run_and_is_read_all_the_same(countries, tmp_path):
    two, truth = countries
    folder = copied(two, tmp_path / "country")
    kept = (folder / "store").rename(folder / "kept")
    with disk(folder / "store", "64m"):
        subprocess.run(["cp", "-r", f"{kept}/.", folder / "store"], check=True)
        before = rows(tc.Store(folder / "store"))
        subprocess.run(["mount", "-o", "remount,ro", folder / "store"], check=True)
        number = before["cards"]["subscriber"][0]
        good(folder, "card", number)
        good(folder, "explain", number)
        for words in (("run", LAST), ("stays", LAST), ("cards", LAST), ("expire", AS_OF)):
            refused(folder, *words, said="cannot be written")
        assert same(rows(tc.Store(folder / "store")), before)
        subprocess.run(["mount", "-o", "remount,rw", folder / "store"], check=True)
        healed(folder, truth)


# ---------------------------------------------------------------------------------------------------- damaged input


def damaged(folder, words) -> tuple[int, str]:
    """A command in this process: its exit code and what it said."""
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            cli.main([*map(str, words), "--config", str(folder / "travelcard.toml")])
        except SystemExit as end:
            code = int(end.code)
    return code, said.getvalue()


def flipped(sound: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(sound))
    return sound[:at] + bytes([sound[at] ^ 1 << dice.randrange(8)]) + sound[at + 1 :]


SEEDS = [pytest.param(range(16)), pytest.param(range(16, 300), marks=pytest.mark.heavy)]


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_a_damaged_file_is_named_and_nothing_of_its_day_is_published(countries, tmp_path, kind, seeds):
    """A bit that turned over is seen by its page's checksum, or stands where nothing is read: the rows are the same."""
    two, truth = countries
    folder = copied(two, tmp_path / "country")
    store = tc.Store(folder / "store")
    before = rows(store)
    path = sorted((folder / "pings" / str(LAST)).glob("*.parquet"))[1]
    sound = path.read_bytes()
    named_ = decoded = 0
    for seed in seeds:
        dice = random.Random(seed)
        path.write_bytes(flipped(sound, dice) if kind == "flipped" else sound[: dice.randrange(len(sound))])
        code, said = damaged(folder, ("stays", LAST))
        if code == 0:
            assert kind == "flipped"
            after = rows(store)
            assert after["stays"].equals(truth["stays"])
            assert after["rejects"].equals(truth["rejects"])
            store.publish(tc.schema.STAYS, [], {"day": LAST})
            store.publish(tc.schema.REJECTS, [], {"day": LAST})
            decoded += 1
            continue
        assert code == 1
        assert said.count("\n") == 1, said
        assert str(path) in said, said
        named_ += 1
        assert same(rows(tc.Store(folder / "store")), before)
    path.write_bytes(sound)
    sys.stdout.write(f"{kind}: {named_} refused, {decoded} without a trace\n")
    assert named_ >= len(seeds) * (1 if kind == "truncated" else 0.9)
    healed(folder, truth)


READ = """
import sys
from datetime import date
import travelcard as tc
places = tc.places.china()
readers = {
    "pings": lambda path: sum(map(len, tc.read_pings(path, day=date(2022, 3, 14), columns={"subscriber": "msisdn"}))),
    "cells": lambda path: len(tc.CellMap.build(path, places=places).rows),
    "risk": lambda path: len(tc.read_risk(path, places=places).areas),
}
for path in sys.argv[2:]:
    try:
        rows = readers[sys.argv[1]](path)
    except tc.InputError as error:
        print("named" if path in str(error) else error, flush=True)
    else:
        print(rows, "rows", flush=True)
"""


def table_of(kind: str) -> pa.Table:
    """Nine hundred rows of an input."""
    at, n = pa.array(range(900)), 900
    if kind == "cells":
        return pa.table({"cell": at, "lat": [30.25] * n, "lon": [120.16] * n})
    if kind == "risk":
        return pa.table({"place": ["330100"] * n, "level": ["high"] * n})
    times = pc.add(pc.multiply(at, 90_000_000), 1647187200_000_000).cast(pa.timestamp("us", "UTC"))
    return pa.table({"msisdn": pc.add(at, 13800000000), "time": times, "plmn": ["44010"] * n})


@pytest.mark.parametrize("kind", ["pings", "cells", "risk"])
def test_a_bit_that_turned_over_in_the_footer_of_an_input_loses_no_row(tmp_path, kind):
    """No checksum covers a footer. At a few bits Arrow ends the process; any other is found, or costs no row."""
    pq.write_table(table_of(kind), tmp_path / "sound.parquet", row_group_size=100, write_page_checksum=True)
    sound, dice = (tmp_path / "sound.parquet").read_bytes(), random.Random(14)
    footer = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    paths, said = [str(tmp_path / f"{k}.parquet") for k in range(400)], []
    for path in paths:
        Path(path).write_bytes(sound[:footer] + flipped(sound[footer:], dice))
    while len(said) < len(paths):
        child = [sys.executable, "-c", READ, kind, *paths[len(said) :]]
        done = subprocess.run(child, capture_output=True, text=True, check=False)
        said += done.stdout.splitlines()
        if done.returncode:
            assert "parquet::ParquetException" in done.stderr, done.stderr
            said.append("ended")
    assert set(said) <= {"900 rows", "named", "ended"}
    assert said.count("named") > 100
    assert said.count("ended") < 8


def test_a_bit_that_turned_over_in_the_store_is_named_or_changes_nothing(countries, tmp_path):
    two, _ = countries
    store = tc.Store(copied(two, tmp_path / "country") / "store")
    truth, dice, named_ = rows(store), random.Random(7), 0
    files = [(name, path) for name in ("stays", "cards", "rejects") for _, path in store.files(name)]
    for _ in range(300):
        name, path = dice.choice(files)
        file = tmp_path / "country" / "store" / name / path
        sound = file.read_bytes()
        file.write_bytes(flipped(sound, dice))
        try:
            found = tc.Store(store.root)
            found.stale()
            assert same(rows(found), truth)
        except tc.InputError as error:
            assert str(error).startswith(f"{name}/{path} is gone or damaged")  # noqa: PT017  either is right
            named_ += 1
        file.write_bytes(sound)
    sys.stdout.write(f"{named_} of 300 named\n")
    assert named_ > 200


def test_what_is_said_about_cards_in_their_footer_has_a_checksum(countries, tmp_path):
    """A policy there with another number in it would have explained a card by what it was not made with."""
    two, _ = countries
    store = tc.Store(copied(two, tmp_path / "country") / "store")
    subscriber = rows(store)["cards"]["subscriber"][0]
    for _, path in store.files("cards"):
        file = tmp_path / "country" / "store" / "cards" / path
        sound = file.read_bytes()
        assert sound.count(b'flicker_s\\": 600') == 1
        file.write_bytes(sound.replace(b'flicker_s\\": 600', b'flicker_s\\": 601'))
    for asked in (lambda found: found.explain(subscriber), lambda found: found.about(found.days("cards")[0])):
        with pytest.raises(tc.InputError, match=r"^cards/.* is gone or damaged"):
            asked(tc.Store(store.root))


@pytest.mark.parametrize("kind", ["cells", "risk"])
def test_a_number_that_another_bit_has_made_another_is_found_in_any_input(tmp_path, kind):
    """A latitude that is another one would be another place, and is what a page's checksum is for."""
    path = tmp_path / "input.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table_of(kind), path, write_page_checksum=True, **plain)
    read = {
        "cells": lambda: tc.CellMap.build(path, places=tc.places.china()),
        "risk": lambda: tc.read_risk(path, places=tc.places.china()),
    }[kind]
    read()
    sound = bytearray(path.read_bytes())
    at = sound.index({"cells": struct.pack("<d", 30.25), "risk": b"330100"}[kind])
    sound[at] ^= 1
    path.write_bytes(sound)
    with pytest.raises(tc.InputError, match=f"^{path} cannot be read.*checksum"):
        read()
