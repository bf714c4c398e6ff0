"""The command line as its user meets it: what is printed where, exit codes, and bad input in one clear line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import nights
import polars as pl
import pytest

from travelcard import synth
from travelcard.cli import main
from travelcard.store import Store

DAY, AS_OF = "2022-03-14", "2022-03-15"
A_NUMBER = re.compile(r"\b1[3-9]\d{9}\b")


@pytest.fixture(scope="module")
def country(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "country"
    synth.write(root, subscribers=200, days=[date(2022, 3, 14)], pings_per_subscriber=40, cells=2000, files=2)
    return root


@pytest.fixture
def folder(country, tmp_path, monkeypatch) -> Path:
    """The country again, with a store of its own, as the working directory."""
    for name in ("pings", "risk", "cells.parquet", "truth"):
        (tmp_path / name).symlink_to(country / name)
    (tmp_path / "travelcard.toml").write_text((country / "travelcard.toml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run a command line: (exit code, standard output, standard error)."""

    def called(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capsys.readouterr()
        assert not A_NUMBER.search(out + err), "a full phone number"
        return code, out, err

    return called


def test_a_night(folder, call):
    code, out, err = call("run", DAY)
    assert (code, err) == (0, "")
    stays, cards = (json.loads(line) for line in out.splitlines())
    assert (stays["step"], stays["day"], cards["step"], cards["day"]) == ("stays", DAY, "cards", AS_OF)
    assert stays["clean"] + sum(stays["rejected"].values()) == stays["read"]
    assert cards["subscribers"] == sum(cards["cards"].values()) == 200
    assert cards["missing"][0] == "2022-03-01"
    number = str(pl.read_parquet("truth/people.parquet")["subscriber"][0])
    code, out, _ = call("card", number)
    assert code == 0
    assert out.startswith("通信行程卡\n")
    assert f"{number[:3]}****{number[-4:]}的动态行程卡" in out
    code, out, _ = call("card", number, "--json", "--as-of", AS_OF)
    assert json.loads(out)["policy"] == "card-2022-01"
    code, out, _ = call("explain", number, "--language", "en")
    assert code == 0
    assert "Stays:" in out
    code, out, _ = call("explain", number, "--json")
    assert json.loads(out)["stays"]
    code, loaded = nights.loaded_by(folder, "card", number)
    assert code == 0
    assert "pyarrow.parquet" in loaded
    assert not loaded & {"pyarrow.compute", "polars", "shapely", "numba", "llvmlite.binding"}, (
        "which a card needs no time for"
    )


def test_a_new_policy_reads_no_ping(folder, call):
    assert call("stays", DAY)[0] == 0
    (folder / "pings").unlink()
    code, out, _ = call("cards", AS_OF, "--policy", "card-2022-07-08")
    assert code == 0
    assert json.loads(out)["policy"] == "card-2022-07-08"


def test_settings_of_the_environment_win(folder, call, monkeypatch):
    monkeypatch.setenv("TRAVELCARD_STORE", "elsewhere")
    assert call("stays", DAY)[0] == 0
    assert (folder / "elsewhere" / "stays").is_dir()
    assert not (folder / "store").exists()


def test_paths_are_those_of_the_files_folder(folder, call, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("away"))
    assert call("stays", DAY, "--config", str(folder / "travelcard.toml"))[0] == 0
    assert (folder / "store").is_dir()


def test_the_command_itself(folder):
    """As a process: no progress bar where there is no terminal, exit codes as documented."""
    for arguments, code in ((["stays", DAY], 0), (["stays", "2022-03-20"], 1), (["stays"], 2), (["stay", DAY], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "travelcard", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert ("Traceback" in done.stderr) is False
        assert bool(done.stdout) == (code == 0)
        assert bool(done.stderr) == (code != 0)


# ------------------------------------------------------------------------------------------------------- bad input


def refused(folder: Path, call, *words: str, command=("run", DAY), code=1) -> None:
    """The command is refused with these words, once, and leaves nothing behind."""
    got, out, err = call(*command)
    assert got == code, err
    assert out == ""
    assert err.startswith("refused: " if code == 1 else "usage: ")
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert err.count("\n") == 1, "said in one line"
    assert Store(folder / "store").days("stays") == []


def pings(folder: Path, **changes: pl.Expr | pl.Series) -> pl.DataFrame:
    """The country's pings with some columns changed, in the place of the country's."""
    files = sorted((folder / "pings" / DAY).glob("*.parquet"))
    frame = pl.concat([pl.read_parquet(file) for file in files]).with_columns(**changes)
    (folder / "pings").unlink()
    (folder / "pings" / DAY).mkdir(parents=True)
    frame.write_parquet(folder / "pings" / DAY / "a.parquet")
    return frame


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "travelcard.toml").read_text()
    assert old in text
    (folder / "travelcard.toml").write_text(text.replace(old, new))


def test_wrong_column_names(folder, call):
    edit(folder, 'subscriber = "msisdn", time = "time"', 'subscriber = "imsi", time = "ts"')
    refused(folder, call, "2 problems", "subscriber", "time", "missing", "found msisdn, time, cell")


def test_positions_that_are_nan_and_swapped(folder, call):
    edit(folder, 'cell = "cell"', 'lat = "lat", lon = "lon"')
    rows = len(pings(folder, lat=pl.lit(float("nan")), lon=pl.lit(float("nan"))))
    refused(folder, call, "bad_position", f"of {rows} pings are rejected", "nothing published")
    path = folder / "pings" / DAY / "a.parquet"
    pl.read_parquet(path).with_columns(lat=pl.lit(120.17), lon=pl.lit(30.25)).write_parquet(path)
    refused(folder, call, "latitude and longitude are swapped")


def test_a_swapped_inventory(folder, call):
    cells = pl.read_parquet("cells.parquet").rename({"lat": "lon", "lon": "lat"})
    (folder / "cells.parquet").unlink()
    cells.write_parquet("cells.parquet")
    refused(folder, call, "latitude and longitude are swapped")


def test_ids_read_as_floats(folder, call):
    pings(folder, msisdn=pl.col("msisdn").cast(pl.Float64))
    refused(folder, call, "a.parquet", "subscriber", "got double", "lost digits")


def test_unknown_cells(folder, call):
    pings(folder, cell=pl.col("cell") + 1_000_000_007)
    refused(folder, call, "unknown_cell", "limit 80 %", "nothing published")


def test_a_time_zone_missing(folder, call):
    local = pl.col("time").dt.convert_time_zone("Asia/Shanghai").dt.replace_time_zone(None)
    frame = pings(folder, time=local)
    inside = frame.filter(frame["time"].dt.date() == date(2022, 3, 14))
    inside.write_parquet(folder / "pings" / DAY / "a.parquet")
    refused(folder, call, "no time zone", 'timezone = "Asia/Shanghai"')
    edit(folder, "[cells]", 'timezone = "Asia/Shangai"\n[cells]')
    refused(folder, call, "'Asia/Shangai' is no time zone")


def test_a_day_without_files(folder, call):
    refused(folder, call, "no file for 2022-03-20", command=("run", "2022-03-20"))


@pytest.mark.parametrize("cut", [0, 4, 1000])
def test_a_broken_file_is_named(folder, call, cut):
    pings(folder)
    path = folder / "pings" / DAY / "a.parquet"
    path.write_bytes(path.read_bytes()[:-cut] if cut else b"")
    refused(folder, call, "a.parquet", "cannot be read")


def test_a_config_with_unknown_keys(folder, call):
    edit(folder, "[cells]", "wrong = 1\n[cells]\nradius = 5")
    refused(folder, call, "2 problems", "pings.wrong  is no key", "cells.radius  is no key")


def test_a_config_that_is_none(folder, call):
    (folder / "travelcard.toml").write_text("store = ")
    refused(folder, call, "is no TOML")
    (folder / "travelcard.toml").unlink()
    refused(folder, call, "travelcard.toml is not there")


def test_an_unwritable_store(folder, call):
    (folder / "store").write_text("a file is in the way")
    got, out, err = call("run", DAY)
    assert (got, out) == (1, "")
    assert "cannot be written" in err


def test_a_policy_that_does_not_exist_and_a_date_without_one(folder, call):
    assert call("stays", DAY)[0] == 0
    code, _, err = call("cards", AS_OF, "--policy", "card-2023")
    assert code == 1
    assert "card-2022-01" in err
    code, _, err = call("cards", "2023-01-05")
    assert code == 1
    assert "name a preset" in err


def test_no_risk_list_in_force(folder, call):
    edit(folder, 'path = "risk/{day}.csv"', 'path = "lists/{day}.csv"')
    refused(folder, call, "no risk list is in force on 2022-03-15")  # before a ping is read


def test_a_wrong_policy_is_refused_before_a_ping_is_read(folder, call):
    refused(folder, call, "no preset 'card-2023'", command=("run", DAY, "--policy", "card-2023"))
    refused(folder, call, "expected a date", command=("run", "9999-12-31"))


@pytest.mark.parametrize(
    "command",
    [
        ("13800001234",),
        ("card", "7", "13800001234"),
        ("card", "7", "--as-of", "13800001234"),
        ("card", "--13800001234"),
        ("cards", "13800001234"),
        ("cards", AS_OF, "--policy", "13800001234"),
        ("card", "7", "--language", "13800001234"),
    ],
)
def test_a_number_in_the_wrong_place_is_masked(folder, call, command):
    code, _, err = call(*command)  # which looks for numbers in what is printed
    assert code in (1, 2)
    assert "138****1234" in err


def test_what_of_a_risk_list_names_no_place_is_reported(folder, call):
    rows = [{"province": "湖北省", "city": "襄樊市", "county": "", "area_name": "", "communitys": []}]
    listed = {"data": {"end_update_time": "2022-03-15 9时", "highlist": rows}}
    (folder / "2022-03-15.json").write_text(json.dumps(listed))
    edit(folder, 'path = "risk/{day}.csv"', 'path = "{day}.json"')
    _, out, _ = call("run", DAY)
    assert json.loads(out.splitlines()[1])["risk_unmatched"] == ["high: 湖北省 襄樊市 (1)"]


def test_output_that_cannot_be_written(folder):
    """A reader that has enough, a full disk, a locale without Chinese: each as a process."""
    command = f"{sys.executable} -m travelcard"
    subprocess.run(f"{command} run {DAY} > out", shell=True, check=True)
    number = pl.read_parquet("truth/people.parquet")["subscriber"][0]
    for line, code, words in (
        (f"{command} explain {number} --json | head -1", 0, ""),
        (f"{command} card {number} > /dev/full", 1, "refused: the output cannot be written"),
        (f"LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {command} card {number} > out", 0, ""),
    ):
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr[:37]) == (code, words)


def test_files_that_are_none(folder, call):
    (folder / "none.parquet").write_text("none")
    edit(folder, 'path = "cells.parquet"', 'path = "none.parquet"')
    refused(folder, call, "none.parquet", "cannot be read")
    edit(folder, '[policy]\npreset = "dated"', '[policy]\npreset = "dated"\n[statuses]\npath = "none.parquet"')
    refused(folder, call, "none.parquet", "cannot be read")


def test_a_store_that_is_none_or_damaged(folder, call, monkeypatch):
    code, _, err = call("card", "7")
    assert (code, "holds nothing yet" in err) == (1, True)
    assert call("run", DAY)[0] == 0
    number = str(pl.read_parquet("truth/people.parquet")["subscriber"][0])
    for path in (folder / "store" / "cards").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-100])
    code, out, err = call("card", number)
    assert (code, out) == (1, "")
    assert "damaged" in err
    pl.DataFrame({"a": [1]}).write_delta("other/stays")
    monkeypatch.setenv("TRAVELCARD_STORE", "other")
    code, _, err = call("card", "7")
    assert code == 1
    assert "travelcard did not make" in err


@pytest.mark.parametrize(
    "command",
    [("run", "yesterday"), ("run",), ("card",), ("run", DAY, "--wrong"), ("nonsense",), ("bench", "--pings", "10")],
)
def test_usage(folder, call, command):
    refused(folder, call, command=command, code=2)


def test_a_number_that_is_not_in_the_data_or_none_at_all(folder, call):
    assert call("run", DAY)[0] == 0
    code, _, err = call("card", "19812345678")
    assert code == 1
    assert "198****5678" in err
    code, _, err = call("card", "ring me")
    assert code == 1
    assert "ring me" not in err


def test_synth_is_deterministic_and_refuses_a_folder_in_use(tmp_path, call):
    for name in "ab":
        code, out, _ = call("synth", str(tmp_path / name), "--subscribers", "50", "--files", "2", "--cells", "2000")
        assert code == 0
        assert json.loads(out)["step"] == "synth"
    one, two = (sorted((tmp_path / name / "pings").rglob("*.parquet")) for name in "ab")
    assert [pl.read_parquet(path).rows() for path in one] == [pl.read_parquet(path).rows() for path in two]
    assert call("synth", str(tmp_path / "a"))[0] == 1


def test_demo_prints_three_cards_and_where_the_tables_are(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("demo")
    assert code == 0
    assert out.count("通信大数据行程卡") == 3
    assert os.path.join("demo", "store") in out
    again = call("demo")[1]
    updated = re.compile(r"更新于.*|\"seconds\": [\d.]+")
    assert updated.sub("", again) == updated.sub("", out)


def test_bench_leaves_nothing_behind_and_no_store_alone(tmp_path):
    """Its folder goes at its end and on Ctrl-C; the store that the environment names is somebody's own."""
    env = {**os.environ, "TMPDIR": str(tmp_path), "TRAVELCARD_STORE": str(tmp_path / "mine"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "travelcard", "bench", "--pings", "1e5", "--runs", "1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Read this first"), "the caveats come before any number"
    assert {"floor", "travelcard", "polars"} <= {line.split(" ")[0] for line in done.stdout.splitlines()}
    assert list(tmp_path.iterdir()) == []
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("writing") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_a_night_depends_on_the_number_of_threads(folder, call, monkeypatch):
    frames = []
    for threads in (1, 5):
        monkeypatch.setattr("travelcard.memory.threads_here", lambda n=threads: n)
        monkeypatch.setenv("TRAVELCARD_STORE", f"store{threads}")
        assert call("run", DAY)[0] == 0
        store = Store(folder / f"store{threads}")
        frames.append([store.frame(name).drop("bucket").sort("subscriber") for name in ("stays", "cards")])
    assert all(a.equals(b) for a, b in zip(*frames, strict=True))
