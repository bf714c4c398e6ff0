"""The service is killed at random while people apply, appeal and ask: what was acknowledged is there, and once."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import nights
import pytest
from served import Site, identity, numbers
from sqlalchemy import create_engine, text

from travelcard.config import Config
from travelcard.service import Context
from travelcard.service.people import known_person
from travelcard.service.vault import fingerprint, new_token


def signed_in(site: Site, people: list[int]) -> list[dict[str, str]]:
    """Tokens for numbers: how one is come by is tested elsewhere."""
    context = Context.of(Config.read(site.config))
    heads = []
    for n, number in enumerate(people, 100):
        known_person(context, "张三", identity(n))
        mine, token, now = context.number(str(number)), new_token(), context.clock()
        with context.engine.begin() as connection:
            connection.execute(
                text("INSERT INTO sessions VALUES (:id, :key, :number, :bound, :now, :until)"),
                {
                    "id": fingerprint(token), "key": mine.key, "bound": context.vault.key("client", "a test"),
                    "number": context.vault.seal(f"{mine.dialled} {mine.subscriber}", "sessions.number"), "now": now,
                    "until": "2100-01-01 00:00:00.000000",
                },
            )  # fmt: skip
        heads.append({"authorization": f"Bearer {token}", "user-agent": "a test"})
    context.close()
    return heads


def kept(site: Site, method: str, path: str, head: dict[str, str], body: dict[str, Any]) -> None:
    """Send a form until it is acknowledged, as somebody does who sees an error and presses the button again."""
    for _ in range(3000):
        try:
            answer = httpx2.request(method, f"{site.url}/api/v1{path}", headers=head, json=body, timeout=20)
        except httpx2.TransportError:
            time.sleep(0.05)
            continue
        if answer.status_code != 503:
            assert answer.is_success, answer.text
            return
        time.sleep(0.05)
    raise AssertionError("never acknowledged")


@pytest.mark.parametrize("kills", [5, pytest.param(40, marks=pytest.mark.heavy)])
def test_nothing_acknowledged_is_lost_and_nothing_is_done_twice(tmp_path, kills):
    site = Site(nights.country(tmp_path / "country", run=3))
    people = numbers(site.store, "green")[: 2 * kills]
    heads = signed_in(site, people)

    def goes_through(n: int) -> None:
        said = {
            "name": "张三",
            "identity": identity(100 + n),
            "declaration": {},
            "agreed": True,
            "once": f"apply-{n:04}",
        }
        kept(site, "POST", "/health/applications", heads[n], said)
        for day in range(3):
            update = {"declaration": {"fever": day % 2 == 0}, "once": f"day-{day}-{n:04}"}
            kept(site, "PUT", "/health/declaration", heads[n], update)
        kept(site, "POST", "/health/appeals", heads[n], {"text": f"mine {n}", "once": f"appeal-{n:04}"})

    killed, picks = 0, random.Random(7)
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(goes_through, n) for n in range(len(people))]
        while not all(one.done() for one in done) and killed < kills:
            time.sleep(picks.uniform(0.05, 0.6))
            site.process.send_signal(signal.SIGKILL)
            site.process.wait()
            killed += 1
            site.start()
        for one in done:
            one.result()
    assert killed >= 3
    for n, head in enumerate(heads):
        rows = httpx2.get(f"{site.url}/api/v1/health/appeals", headers=head).json()
        assert [row["text"] for row in rows] == [f"mine {n}"]
        code = httpx2.get(f"{site.url}/api/v1/health/code", headers=head).json()
        assert code["colour"] == "yellow"
    assert site.stop() == 0
    engine = create_engine(f"sqlite:///{site.config.parent / 'service.db'}")
    with engine.connect() as connection:
        tables = ("people", "numbers", "declarations", "appeals")
        count = [connection.execute(text(f"SELECT count(*) FROM {name}")).scalar() for name in tables]
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
        before = "lag(colour) OVER (PARTITION BY person ORDER BY id) AS before"
        again = f"SELECT person FROM (SELECT person, colour, {before} FROM colours) WHERE colour = before"
        assert connection.execute(text(again)).all() == []
    engine.dispose()
    assert count == [len(people), len(people), 4 * len(people), len(people)]
