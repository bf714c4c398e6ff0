"""The documentation is held to the code: every block runs, every name and command has its entry."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import fields

import travelcard as tc
from travelcard.cli import app
from travelcard.config import Config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_ELSEWHERE = {"geolife.md"}  # tests/test_geolife.py


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(the code, the plain block right behind it, which is its output) of every block of a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```(?:\n```\n(.*?)```)?", text, re.DOTALL)


def generator():
    spec = importlib.util.spec_from_file_location("build_reference", ROOT / "scripts" / "build_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RUN_ELSEWHERE], ids=lambda page: page.name)
def test_every_python_block_prints_what_stands_behind_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code, output in blocks(page, "python"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, page.name, "exec"), {})
        assert out.getvalue() == output


def test_the_configuration_of_the_readme_is_one(tmp_path):
    ((text, _),) = blocks(ROOT / "README.md", "toml")
    assert {"store", "pings", "cells", "policy", "risk"} == set(tomllib.loads(text))
    (tmp_path / "travelcard.toml").write_text(text)
    Config.read(tmp_path / "travelcard.toml")


def test_the_readme_is_short_and_shows_a_card_near_its_top():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert "通信行程卡" in lines[:10]


def test_the_reference_is_fresh_and_has_every_command_and_name():
    build = generator()
    text = build.PAGE.read_text(encoding="utf-8")
    headings = [line for line in build.page().splitlines() if line.startswith("#")]
    assert [line for line in text.splitlines() if line.startswith("#")] == headings
    assert all(f"### `tc.{name}`" in headings for name in tc.__all__)
    if build.WITH in text:  # other versions lay the help out otherwise
        assert text == build.page(), "run python scripts/build_reference.py"


def test_every_key_of_the_configuration_is_documented():
    text, service = ((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("input.md", "service.md"))
    for key in fields(Config):
        if key.name == "folder":  # where the file is, not what it says
            continue
        assert f"`{key.name}`" in text or f"`[{key.name}]" in text, key.name
        its = service if key.name == "service" else text
        for table in (key.type, *get_args(key.type)):
            for inner in getattr(table, "__struct_fields__", ()):
                assert inner in its, f"{key.name}.{inner}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_no_number_is_shown_whole(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    assert not re.search(r"\b1[3-9]\d{9}\b", text)


def scheduled() -> list[str]:
    """What cron and systemd start, as /bin/sh gets it."""
    page = ROOT / "docs" / "operations.md"
    (cron,) = (text for text in re.findall(r"```\n(.*?)```", page.read_text("utf-8"), re.DOTALL) if "CRON_TZ" in text)
    (unit, _), *_ = blocks(page, "ini")
    lines = [re.fullmatch(r"[\d*]+ +[\d*]+ +\* \* \*  (.*)", line) for line in cron.splitlines()[2:]]
    (start,) = re.findall(r"^ExecStart=/bin/sh -ec '(.*)'$", unit, re.MULTILINE)
    return [*(line[1].replace("\\%", "%") for line in lines if line), "cd /srv/travelcard; " + start.replace("%%", "%")]


@pytest.mark.parametrize("line", scheduled())
def test_what_is_scheduled_gives_commands_that_there_are(line, tmp_path):
    """Each is run with a `travelcard` that says what it was told, which the real one then takes."""
    told = tmp_path / "travelcard"
    told.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/said\n')
    told.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TZ": "Asia/Shanghai"}
    subprocess.run(["sh", "-ec", line.replace("/srv/travelcard", str(tmp_path))], check=True, env=env)
    said = [words.split() for words in (tmp_path / "said").read_text().splitlines()]
    today = datetime.now(ZoneInfo("Asia/Shanghai")).date()
    yesterday = today - timedelta(days=1)
    night = [["run", str(yesterday)], ["expire", str(today)]]
    assert said in (night, [["check"], ["report", str(yesterday)]])
    for words in said:
        app.parse_args(words, exit_on_error=False, print_error=False)
