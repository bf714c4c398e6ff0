"""What the tests of the service have in common: a country with cards, a service over it, people and their phones."""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import nights
import polars as pl
from starlette.testclient import TestClient
from stdnum.cn import ric

import travelcard as tc
from travelcard.config import Config
from travelcard.service import Context, application
from travelcard.service.access import messages
from travelcard.service.desk import ROLES, add_operator
from travelcard.service.people import known_person

AGENT = {"user-agent": "a test"}


class Clock:
    """The time of a service, which a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2022, 3, 15, 1, 0, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def wait(self, **span: float) -> None:
        self.now += timedelta(**span)


def identity(n: int, year: int = 1990) -> str:
    """The n-th of many identity numbers, of nobody."""
    head = f"110101{year}0101{n:03}"
    return head + ric.calc_check_digit(head + "0")


class Served:
    """A service in this process, and a client of it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.clock = folder, Clock()
        self.context = Context.of(Config.read(configured(folder, **settings)), clock=self.clock)
        self.app = application(self.context)
        self.store = self.context.store

    def client(self) -> TestClient:
        return TestClient(self.app, headers=AGENT, base_url="http://testserver", follow_redirects=False)

    def sent(self) -> list[tuple[str, str]]:
        """Every message that was not looked at yet: number and code."""
        found: list[tuple[str, str]] = []
        messages(self.context, lambda number, text: found.append((number, re.findall(r"\d{6}", text)[0])))
        return found

    def code(self, client: TestClient, number: object) -> str:
        """Have a code sent, a minute after the last."""
        self.clock.wait(seconds=61)
        answer = client.post("/api/v1/codes", json={"number": str(number)})
        assert answer.status_code == 202, answer.text
        (sent,) = self.sent()
        assert sent[0] == f"+86{number}"
        return sent[1]

    def token(self, client: TestClient, number: object) -> dict[str, str]:
        """The header of who is signed in with a number."""
        given = {"number": str(number), "code": self.code(client, number), "agreed": True}
        answer = client.post("/api/v1/tokens", json=given)
        assert answer.status_code == 201, answer.text
        return {"authorization": f"Bearer {answer.json()['token']}"}


class Site:
    """`travelcard serve` in a process of its own, which may be started again."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.config = configured(folder, **{"sms": "terminal"} | settings)
        self.store = tc.Store(folder / "store")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}", folder / "serve.log"
        context = Context.of(Config.read(self.config))
        for n in range(1, 4):
            known_person(context, "张三", identity(n))
        self.token = add_operator(context, "anna", list(ROLES))
        context.close()
        self.start()

    def start(self) -> None:
        words = ["-m", "travelcard", "serve", "--config", self.config, "--port", self.port, "--processes", 1]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, *map(str, words)], stdout=log, stderr=log)
        for _ in range(1200):  # beside other tests it takes longer
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)

    def code(self, after: int = 0) -> str:
        """The newest code that was sent, when more than `after` were."""
        for _ in range(200):
            if len(found := re.findall(r"验证码 (\d{6})", self.log.read_text())) > after:
                return found[-1]
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


def configured(folder: Path, **settings: Any) -> Path:
    """The configuration of a country, with the service's section, and a secret."""
    file = folder / "travelcard.toml"
    section = {"today": nights.AS_OF, "secure": False, "secret_file": "secret", **settings}
    (folder / "secret").write_text(secrets.token_hex(32))
    lines = [f"{key} = {value if isinstance(value, date) else json.dumps(value)}" for key, value in section.items()]
    file.write_text(file.read_text().split("[service]")[0] + "\n[service]\n" + "\n".join(lines) + "\n")
    return file


def numbers(store: tc.Store, colour: str) -> list[int]:
    """Numbers that have a card of a colour."""
    return store.frame("cards", as_of=nights.AS_OF).filter(pl.col("colour") == colour)["subscriber"].to_list()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of our own: the URL of its database."""
    found = [shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    home = Path(next(filter(None, found))).parent
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()  # it does not run for root
    data = folder / "postgres"
    data.mkdir()
    if user == "postgres":
        for path in (data, *[p for p in data.parents if p.is_relative_to("/tmp")]):
            path.chmod(0o755)
        shutil.chown(data, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*words: object) -> None:
        subprocess.run([str(w) for w in words], user=user, check=True, capture_output=True, cwd="/")

    run(home / "initdb", "-D", data, "-U", "travelcard", "--auth=trust", "-E", "UTF8", "--locale=C")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    run(home / "pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start")
    try:
        yield f"postgresql://travelcard@127.0.0.1:{port}/postgres"
    finally:
        run(home / "pg_ctl", "-D", data, "-m", "immediate", "stop")
