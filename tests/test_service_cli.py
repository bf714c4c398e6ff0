"""The commands round the service, as an operator and a checkpoint use them, and the demo that is served."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import httpx2
import nights
import pytest
from nights import command, good
from served import Served, Site, identity, numbers

from travelcard.service import signed
from travelcard.service.people import code_of, known_person, ticket


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(nights.country(tmp_path_factory.mktemp("site") / "country", run=3), sms="outbox")
    yield made
    assert made.stop() == 0


def test_messages_come_out_of_the_outbox_once_and_a_known_person_applies(site):
    (number,) = numbers(site.store, "green")[:1]
    head = {"user-agent": "a test"}
    assert httpx2.post(f"{site.url}/api/v1/codes", json={"number": str(number)}, headers=head).status_code == 202
    (line,) = good(site.config.parent, "outbox").splitlines()
    assert good(site.config.parent, "outbox") == ""
    message = json.loads(line)
    assert message["number"] == f"+86{number}"
    given = {"number": str(number), "code": re.findall(r"\d{6}", message["text"])[0], "agreed": True}
    token = httpx2.post(f"{site.url}/api/v1/tokens", json=given, headers=head).json()["token"]
    head["authorization"] = f"Bearer {token}"
    (site.config.parent / "people.csv").write_text(f"name,identity\n王五,{identity(50)}\n")
    assert json.loads(good(site.config.parent, "known", "people.csv"))["new"] == 1
    assert json.loads(good(site.config.parent, "known", "people.csv"))["new"] == 0
    form = {"name": "王五", "identity": identity(50), "declaration": {}, "agreed": True, "once": "form-0001"}
    assert httpx2.post(f"{site.url}/api/v1/health/applications", json=form, headers=head).status_code == 201
    token = good(site.config.parent, "operator", "otto", "health", "corrections").strip()
    desk = {"authorization": f"Bearer {token}"}
    assert httpx2.get(f"{site.url}/api/v1/desk/requests", headers=desk).json() == {"corrections": [], "appeals": []}
    assert httpx2.get(f"{site.url}/api/v1/desk/codes", headers=desk).status_code == 403
    assert json.loads(good(site.config.parent, "settle"))["recoloured"] == 1
    log = site.log.read_text()
    assert str(number) not in log
    assert identity(50) not in log


def test_the_commands_refuse_in_one_line(site):
    (site.config.parent / "bad.csv").write_text("name\nx\n")
    for words, said in (
        (("operator", "otto", "king"), "no role king"),
        (("known", "bad.csv"), "cannot be read"),
        (("known", "none.csv"), "cannot be read"),
    ):
        done = command(site.config.parent, *words)
        assert done.returncode == 1
        assert re.fullmatch(rf"refused: .*{said}.*\n", done.stderr), done.stderr


def verify(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "travelcard", "verify", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_verify_tells_a_true_code_from_a_forged_an_old_and_a_foreign_one(tmp_path):
    served = Served(nights.country(tmp_path / "country", run=1), today=nights.DAYS[1])
    client = served.client()
    (number,) = served.store.frame("cards")["subscriber"].to_list()[:1]
    known_person(served.context, "张三", identity(1))
    form = {"name": "张三", "identity": identity(1), "declaration": {}, "agreed": True, "once": "form-0001"}
    made = client.post("/api/v1/health/applications", headers=served.token(client, number), json=form).json()
    served.clock.now = datetime.now(UTC)
    key = tmp_path / "service.pem"
    key.write_text(client.get("/api/v1/key").json()["pem"])
    token = ticket(served.context, code_of(served.context, made["id"]))
    done = verify(token, "--key", key)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["valid"], told["c"], told["n"]) == (True, "green", "张*")
    head_, body, signature = token.split(".")
    flipped = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
    served.clock.now -= timedelta(minutes=5)
    old = ticket(served.context, code_of(served.context, made["id"]))
    other = Served(nights.country(tmp_path / "other", run=1), today=nights.DAYS[1])
    (tmp_path / "other.pem").write_text(other.context.vault.public)
    (tmp_path / "noise.pem").write_bytes(b"\xff\xfe")
    none = signed.jwt.encode({"c": "green"}, None, algorithm="none")
    for wrong, words in (
        (f"{head_}.{body}.{flipped}", ("--key", key)),
        (old, ("--key", key)),
        (token, ("--key", tmp_path / "other.pem")),
        (token, ("--key", key, "--kind", "card")),
        (none, ("--key", key)),
        ("nonsense", ("--key", key)),
        (token, ("--key", tmp_path / "noise.pem")),
    ):
        done = verify(wrong, *words)
        assert (done.returncode, done.stdout) == (1, ""), wrong
        assert re.fullmatch(r"refused: not valid: .*\n", done.stderr), done.stderr
    done = verify(token, "--key", tmp_path / "gone.pem")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"refused: {tmp_path}/gone.pem cannot be read: No such file or directory\n"
    for one in (served, other):
        one.context.close()


def test_a_served_demo_says_what_to_try_and_it_works(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        words = [sys.executable, "-m", "travelcard", "demo", str(tmp_path / "demo"), "--serve", "--port", "18431"]
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        for _ in range(600):
            text = (tmp_path / "log").read_text()
            if "Numbers to try" in text:
                break
            assert process.poll() is None, text
            time.sleep(0.1)
        url = re.findall(r"http://127\.0\.0\.1:\d+", text)[0]
        tried = re.findall(r"^  (\d{11})  a (\w+)", text, re.MULTILINE)
        person = re.findall(r"^  (\S+)  (\d{17}[0-9X])$", text, re.MULTILINE)[0]
        assert len(tried) == 3
        again = httpx2.HTTPTransport(retries=30)
        client = httpx2.Client(base_url=url, headers={"user-agent": "a test"}, transport=again)
        colours = []
        for number, _ in tried:
            assert client.post("/api/v1/codes", json={"number": number}).status_code == 202
            for _ in range(100):
                codes = re.findall(r"验证码 (\d{6})", (tmp_path / "log").read_text())
                if len(codes) > len(colours):
                    break
                time.sleep(0.05)
            given = {"number": number, "code": codes[-1], "agreed": True}
            head = {"authorization": f"Bearer {client.post('/api/v1/tokens', json=given).json()['token']}"}
            colours.append(client.get("/api/v1/card", headers=head).json()["colour"])
        assert colours == ["green", "green", "yellow"]
        form = {"name": person[0], "identity": person[1], "declaration": {}, "agreed": True, "once": "form-0001"}
        assert client.post("/api/v1/health/applications", headers=head, json=form).status_code == 201
        assert client.get("/api/v1/health/code", headers=head).json()["colour"] in ("green", "unknown")
    finally:
        client.close()
        process.terminate()
        process.wait(20)
