"""A person asks for a card and a health code, an operator decides: over SQLite and over PostgreSQL."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nights
import polars as pl
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from msgspec.structs import force_setattr
from nights import AS_OF, DAYS, LAST, copied, good
from served import Served, identity, numbers, postgres

import travelcard as tc
from travelcard.errors import InputError, mask
from travelcard.service import signed
from travelcard.service.access import claimed, tidy
from travelcard.service.database import METADATA
from travelcard.service.desk import ROLES, add_operator
from travelcard.service.lookups import settle
from travelcard.service.people import known_person, recolour_all, together

NAME = "张三"


@pytest.fixture(scope="module")
def country(tmp_path_factory):
    return nights.country(tmp_path_factory.mktemp("country") / "country", run=3)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A PostgreSQL server; each test has a schema of its own."""
    if shutil.which("initdb") is None and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("PostgreSQL is not installed")
    with postgres(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request, country, tmp_path):
    settings = {}
    if request.param == "postgresql":
        url = request.getfixturevalue("database")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        settings["database"] = url
    made = Served(copied(country, tmp_path / "country"), **settings)
    yield made
    made.context.close()


@pytest.fixture
def client(service):
    return service.client()


def reason(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert {len(told["text"]), len(told["advice"])} == {2}
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    return told["reason"]


def applied(service, client, number, n: int, head=None, **declaration) -> dict[str, str]:
    known_person(service.context, NAME, identity(n))
    head = head or service.token(client, number)
    given = {"name": NAME, "identity": identity(n), "declaration": declaration, "agreed": True, "once": f"form-{n:08}"}
    answer = client.post("/api/v1/health/applications", headers=head, json=given)
    assert answer.status_code == 201, answer.text
    return head


def code_of(client, head, **query):
    answer = client.get("/api/v1/health/code", headers=head, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---------------------------------------------------------------------------------------------------- the travel card


def test_a_card_by_number_and_code(service, client):
    (number,) = numbers(service.store, "yellow")[:1]
    head = service.token(client, number)
    said = client.get("/api/v1/card", headers=head).json()
    assert said == json.loads(good(service.folder, "card", number, "--json"))
    assert str(number) not in json.dumps(said)
    why = client.get("/api/v1/card/why", headers=head).json()
    assert why == json.loads(good(service.folder, "explain", number, "--json"))
    earlier = client.get("/api/v1/cards", headers=head).json()
    assert earlier == json.loads(good(service.folder, "history", number, "--json"))
    looked = client.get("/api/v1/seen", headers=head).json()
    assert [row["what"] for row in looked] == ["history", "evidence", "card"]
    assert client.delete("/api/v1/tokens", headers=head).status_code == 204
    assert reason(client.get("/api/v1/card", headers=head), 401) == "session"


def test_every_reason_for_nothing(service, client, tmp_path):
    assert reason(client.get("/api/v1/card"), 401) == "session"
    assert reason(client.post("/api/v1/codes", json={"number": "12"}), 422) == "bad_number"
    number, other = 13900000001, 13900000002
    code = service.code(client, number)
    given = {"number": str(number), "code": code, "agreed": False}
    assert reason(client.post("/api/v1/tokens", json=given), 403) == "not_authorised"
    wrong = given | {"agreed": True, "code": f"{(int(code) + 1) % 10**6:06}"}
    assert reason(client.post("/api/v1/tokens", json=wrong), 401) == "code"
    service.clock.wait(minutes=6)
    assert reason(client.post("/api/v1/tokens", json=given | {"agreed": True}), 401) == "code"
    head = service.token(client, number)
    assert reason(client.get("/api/v1/card", headers=head), 404) == "not_in_data"
    (service.folder / "new.csv").write_text(f"subscriber,since\n{other},{AS_OF - timedelta(days=3)}\n")
    for name, value in (("new_numbers", str(service.folder / "new.csv")), ("today", AS_OF)):
        force_setattr(service.context.settings, name, value)
    assert reason(client.get("/api/v1/card", headers=service.token(client, other)), 404) == "too_new"
    force_setattr(service.context.settings, "today", LAST)  # tomorrow's cards are there already
    (mine,) = numbers(service.store, "yellow")[:1]
    early = client.get("/api/v1/card", headers=service.token(client, mine))
    assert early.json()["as_of"] == str(LAST)
    force_setattr(service.context.settings, "today", AS_OF + timedelta(days=2))
    late = client.get("/api/v1/card", headers=service.token(client, number))
    assert reason(late, 404) == "out_of_date"


def test_a_checkpoint_scans_the_same_card_while_the_code_lives(service, client):
    (number,) = numbers(service.store, "green")[:1]
    head = service.token(client, number)
    token = client.get("/api/v1/card/qr", headers=head).json()["token"]
    seen = client.get(f"/api/v1/scans/{token}")
    assert seen.json() == client.get("/api/v1/card", headers=head).json()
    assert "card scanned" in [row["what"] for row in client.get("/api/v1/seen", headers=head).json()]
    for forged in (token[:-4] + "AAAA", token.split(".")[0] + ".." + token.split(".")[2], "x", "a.b.c"):
        assert reason(client.get(f"/api/v1/scans/{forged}"), 410) == "scan"
    service.clock.wait(seconds=91)
    assert reason(client.get(f"/api/v1/scans/{token}"), 410) == "scan"


def test_a_place_is_corrected_when_an_operator_agrees(service, client):
    (number,) = numbers(service.store, "yellow")[:1]
    head = service.token(client, number)
    place = next(
        v["place"] for v in client.get("/api/v1/card", headers=head).json()["visits"] if not v["place"].isdigit()
    )
    asked = {"place": place, "from": str(DAYS[0]), "to": str(LAST), "reason": "I was at home"}
    name = client.post("/api/v1/corrections", headers=head, json=asked).json()["id"]
    no = asked | {"place": "110100"}
    assert reason(client.post("/api/v1/corrections", headers=head, json=no), 422) == "bad_input"
    desk = {"authorization": f"Bearer {add_operator(service.context, 'anna', list(ROLES))}"}
    watch = {"authorization": f"Bearer {add_operator(service.context, 'otto', ['watch'])}"}
    decided = {"approved": True, "note": "a roaming error"}
    assert reason(client.post(f"/api/v1/desk/corrections/{name}", headers=watch, json=decided), 403) == "forbidden"
    assert reason(client.post(f"/api/v1/desk/corrections/{name}", headers=head, json=decided), 401) == "session"
    (row,) = client.get("/api/v1/desk/requests", headers=desk).json()["corrections"]
    assert (row["id"], row["number"], row["reason"]) == (name, mask(number), "I was at home")
    assert client.post(f"/api/v1/desk/corrections/{name}", headers=desk, json=decided).status_code == 204
    assert reason(client.post(f"/api/v1/desk/corrections/{name}", headers=desk, json=decided), 409) == "decided"
    for _ in range(2):
        settle(service.context)
    assert service.store.corrections_of(number)["place"].to_list() == [place]
    (mine,) = client.get("/api/v1/corrections", headers=head).json()
    assert (mine["state"], mine["note"]) == ("approved", "a roaming error")
    assert "anna" in [row["who"] for row in client.get("/api/v1/seen", headers=head).json()]
    good(service.folder, "cards", AS_OF)
    left = client.get("/api/v1/card", headers=head).json()
    assert place not in [visit["place"] for visit in left["visits"]]


def test_whoever_is_erased_is_nowhere(service, client):
    (number,) = numbers(service.store, "green")[:1]
    head = applied(service, client, number, 7)
    assert client.delete("/api/v1/me", headers=head).json()["done"]
    assert reason(client.get("/api/v1/card", headers=head), 401) == "session"
    with pytest.raises(tc.NotFound):
        service.store.card(number)
    with service.context.engine.connect() as connection:
        for table in ("numbers", "people", "colours", "declarations", "sessions", "codes", "outbox"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0, table
    assert reason(client.get("/api/v1/card", headers=service.token(client, number)), 404) == "not_in_data"


def test_an_erasure_waits_for_a_night_and_shows_nothing_meanwhile(service, client):
    (number,) = numbers(service.store, "green")[:1]
    head = service.token(client, number)
    with tc.Store(service.store.root).writing("a night"):
        assert not client.delete("/api/v1/me", headers=head).json()["done"]
        again = service.token(client, number)
        assert reason(client.get("/api/v1/card", headers=again), 404) == "erased"
    assert settle(service.context)["erasures"] == 1
    with pytest.raises(tc.NotFound):
        service.store.card(number)


# ---------------------------------------------------------------------------------------------------- the health code


def test_a_code_from_green_to_red_and_back(service, client):
    (number,) = numbers(service.store, "green")[:1]
    head = applied(service, client, number, 1)
    told = code_of(client, head)
    assert (told["colour"], told["name"]) == ("green", "张*")
    assert identity(1) not in json.dumps(told)
    claims = signed.verify(told["token"], client.get("/api/v1/key").json()["pem"], "health", now=service.clock())
    assert (claims["c"], claims["n"]) == ("green", "张*")
    fever = {"declaration": {"fever": True}, "once": "day-2-form"}
    assert client.put("/api/v1/health/declaration", headers=head, json=fever).status_code == 204
    assert code_of(client, head)["colour"] == "yellow"
    desk = {"authorization": f"Bearer {add_operator(service.context, 'anna', list(ROLES))}"}
    status = {
        "identity": identity(1),
        "status": "close_contact",
        "from": str(LAST),
        "source": "list 17 of the district",
    }
    assert client.post("/api/v1/desk/statuses", headers=desk, json=status).status_code == 201
    told = code_of(client, head)
    assert told["colour"] == "red"
    assert told["reasons"][0]["rule"] == "close_contact"
    assert told["reasons"][0]["advice"]["en"]
    appeal = {"text": "I was abroad that day", "once": "appeal-1"}
    name = client.post("/api/v1/health/appeals", headers=head, json=appeal).json()["id"]
    assert client.post("/api/v1/health/appeals", headers=head, json=appeal).json()["id"] == name
    decided = {"approved": True, "note": "another person was meant"}
    assert client.post(f"/api/v1/desk/appeals/{name}", headers=desk, json=decided).status_code == 204
    well = {"declaration": {}, "once": "day-3-form"}
    service.clock.wait(seconds=5)
    assert client.put("/api/v1/health/declaration", headers=head, json=well).status_code == 204
    assert code_of(client, head)["colour"] == "green"
    colours = [row["colour"] for row in client.get("/api/v1/health/history", headers=head).json()]
    assert colours == ["green", "yellow", "red", "yellow", "green"]
    (mine,) = client.get("/api/v1/health/appeals", headers=head).json()
    assert (mine["state"], mine["note"]) == ("approved", "another person was meant")
    assert {"status entered", "health code"} <= {r["what"] for r in client.get("/api/v1/seen", headers=head).json()}


def test_several_numbers_of_one_person_are_one_code(service, client):
    green, yellow = numbers(service.store, "green")[0], numbers(service.store, "yellow")[0]
    first = applied(service, client, green, 2)
    before = {visit["place"] for visit in code_of(client, first)["visits"]}
    second = applied(service, client, yellow, 2)
    after = [{visit["place"] for visit in code_of(client, head)["visits"]} for head in (first, second)]
    assert after[0] == after[1] >= before
    policy = service.context.policy
    alone = set()
    for number in (green, yellow):
        seen = tc.visits(service.store.stays_of(number, *policy.window(AS_OF)), as_of=AS_OF, policy=policy)
        alone |= set(seen.filter(~seen["transit"])["place"])
    assert after[0] == alone


def test_a_place_that_one_number_only_passed_through_is_visited_where_another_stayed():
    start = datetime(2022, 3, 14, tzinfo=UTC)

    def seen(number: int, hours: int) -> pl.DataFrame:
        times = [start + timedelta(hours=number), start + timedelta(hours=number + hours)]
        pings = pl.DataFrame({"subscriber": [number] * 2, "time": times, "place": ["330100"] * 2})
        return tc.visits(tc.stays(pings), as_of=AS_OF, policy=tc.Policy.preset("healthcode-9th"))

    for hours in ((1, 5), (5, 1)):
        (row,) = together([seen(n, h) for n, h in enumerate(hours, 1)]).rows(named=True)
        assert (row["transit"], row["longest_s"], row["days"]) == (False, 5 * 3600, 1)
        assert row["first"] == start + timedelta(hours=1)
        assert row["last"] == start + timedelta(hours=max(1 + hours[0], 2 + hours[1]))
    assert together([seen(n, 1) for n in (1, 2)])["transit"].item()


def test_a_status_changes_a_code_at_the_latest_in_the_night(service, client):
    (number,) = numbers(service.store, "green")[:1]
    (service.folder / "statuses.csv").write_text(f"subscriber,status,from,to\n{number},fever,{LAST},\n")
    file = service.folder / "travelcard.toml"
    file.write_text(file.read_text().replace("[service]", '[statuses]\npath = "statuses.csv"\n[service]'))
    head = applied(service, client, number, 3)
    assert [r["colour"] for r in client.get("/api/v1/health/history", headers=head).json()] == ["green"]
    good(service.folder, "settle")
    assert [r["colour"] for r in client.get("/api/v1/health/history", headers=head).json()] == ["yellow", "green"]


def test_who_may_apply(service, client):
    (number, other) = numbers(service.store, "green")[:2]
    head = service.token(client, number)
    form = {"name": NAME, "identity": identity(4), "declaration": {}, "agreed": True, "once": "form-00000001"}

    def post(**changed):
        return client.post("/api/v1/health/applications", headers=head, json=form | changed)

    assert reason(client.get("/api/v1/health/code", headers=head), 404) == "no_application"
    assert reason(post(), 403) == "not_verified"
    bad = identity(4)[:-1] + ("1" if identity(4)[-1] != "1" else "2")
    assert reason(post(identity=bad), 422) == "bad_identity"
    assert reason(post(agreed=False), 403) == "not_authorised"
    known_person(service.context, NAME, identity(4))
    assert reason(post(name="李四"), 403) == "not_verified"
    assert post().status_code == 201
    assert post().json() == post().json()
    child, grown = identity(5, 2015), identity(6, 1985)
    for one in (child, grown):
        known_person(service.context, "张小", one)
    assert reason(post(name="张小", identity=grown, ward=True, once="form-00000002"), 422) == "bad_input"
    ward = post(name="张小", identity=child, ward=True, once="form-00000003").json()["id"]
    assert code_of(client, head, ward=ward)["name"] == "张*"
    assert [one["id"] for one in client.get("/api/v1/health/wards", headers=head).json()] == [ward]
    stranger = applied(service, client, other, 8)
    theirs = form | {"name": "张小", "identity": child, "ward": True, "once": "form-00000004"}
    assert reason(client.post("/api/v1/health/applications", headers=stranger, json=theirs), 403) == "forbidden"
    answer = client.get("/api/v1/health/code", headers=stranger, params={"ward": ward})
    assert reason(answer, 404) == "no_application"


def always(name: str, number: str, evidence: str) -> bool:
    """The stand-in for a face check, which only tests may use."""
    return evidence == "a face"


def test_a_face_check_where_one_is_asked_for(service, client):
    force_setattr(service.context.settings, "face", f"{__name__}:always")
    (number,) = numbers(service.store, "green")[:1]
    head = applied(service, client, number, 9)
    assert reason(client.get("/api/v1/health/code", headers=head), 403) == "face"
    bad = client.post("/api/v1/health/face", headers=head, json={"evidence": "a mask"})
    assert reason(bad, 403) == "not_verified"
    assert client.post("/api/v1/health/face", headers=head, json={"evidence": "a face"}).status_code == 204
    assert code_of(client, head)["colour"] == "green"


def test_everybody_is_recoloured_once(service, client):
    for n, number in enumerate(numbers(service.store, "green")[:3], 10):
        applied(service, client, number, n)
    assert [recolour_all(service.context) for _ in range(2)] == [3, 3]
    with service.context.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM colours").scalar() == 3


# ---------------------------------------------------------------------------------------------------- attacks


def test_codes_cannot_be_guessed_and_serve_once(service, client):
    number = 13900000003
    code = service.code(client, number)
    wrong = [f"{(int(code) + n) % 10**6:06}" for n in range(1, 6)]
    for guess in wrong:
        given = {"number": str(number), "code": guess, "agreed": True}
        assert reason(client.post("/api/v1/tokens", json=given), 401) == "code"
    right = {"number": str(number), "code": code, "agreed": True}
    assert reason(client.post("/api/v1/tokens", json=right), 401) == "code"  # five tries are over
    right["code"] = service.code(client, number)
    assert client.post("/api/v1/tokens", json=right).status_code == 201
    assert [claimed(service.context)[0][what] for what in ("sent", "claimed")] == [2, 1]
    assert reason(client.post("/api/v1/tokens", json=right), 401) == "code"
    force_setattr(service.context.settings, "an_address_an_hour", 50)
    for n in range(60):
        given = {"number": str(13900000100 + n), "code": "000000", "agreed": True}
        answer = client.post("/api/v1/tokens", json=given)
    assert reason(answer, 429) == "too_many"
    assert int(answer.headers["retry-after"]) > 0


def test_a_number_gets_a_code_a_minute_and_ten_a_day(service, client):
    number = {"number": "13900000004"}
    service.clock.now = service.clock.now.replace(minute=0, second=55)
    sent = []
    for _ in range(12):
        answers = [client.post("/api/v1/codes", json=number)]
        service.clock.wait(seconds=59)  # the minute is another, but it is not over
        answers.append(client.post("/api/v1/codes", json=number))
        service.clock.wait(seconds=1)
        sent += [answer.status_code for answer in answers]
    assert sent == [202, 429] * 10 + [429] * 4
    assert int(answers[-1].headers["retry-after"]) == 86_400 - 12 * 60 + 1
    service.clock.wait(hours=24)
    assert client.post("/api/v1/codes", json=number).status_code == 202


def test_a_token_is_of_no_use_elsewhere_or_later(service, client):
    (number,) = numbers(service.store, "green")[:1]
    head = service.token(client, number)
    assert reason(client.get("/api/v1/card", headers=head | {"user-agent": "another"}), 401) == "session"
    assert client.get("/api/v1/card", headers=head).status_code == 200
    service.clock.wait(minutes=31)
    assert reason(client.get("/api/v1/card", headers=head), 401) == "session"


def test_pumping_shows(service, client):
    for n in range(60):
        service.clock.wait(seconds=30)
        client.post("/api/v1/codes", json={"number": str(13900001000 + n)})
    rows = claimed(service.context)
    assert rows[0] | {"from": 0, "to": 0} == {"from": 0, "to": 0, "sent": 60, "claimed": 0, "pumped": True}
    assert not rows[1]["pumped"]


def test_nothing_readable_is_in_the_database(service, client):
    (number,) = numbers(service.store, "yellow")[:1]
    applied(service, client, number, 20, trips="Hangzhou")
    told = []
    with service.context.engine.connect() as connection:
        for table in ("outbox", "codes", "sessions", "numbers", "people", "declarations", "colours", "known", "audit"):
            told += [str(tuple(row)) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]
    text = "\n".join(told)
    assert len(told) > 6
    for secret in (str(number), identity(20), NAME, "Hangzhou", "验证码"):
        assert secret not in text
        assert secret.encode().hex() not in text
    with pytest.raises(InputError, match="another secret"):
        service.context.vault.open(service.context.vault.seal("a", "here"), "there")


def test_a_number_that_is_unknown_is_answered_as_any_other(service, client):
    (number,) = numbers(service.store, "green")[:1]
    answers = []
    for one in (number, 13900000005):
        service.clock.wait(seconds=61)
        sent = client.post("/api/v1/codes", json={"number": str(one)})
        wrong = client.post("/api/v1/tokens", json={"number": str(one), "code": "000000", "agreed": True})
        never = client.post("/api/v1/tokens", json={"number": str(one + 7), "code": "000000", "agreed": True})
        answers.append([(a.status_code, a.text) for a in (sent, wrong, never)])
    assert answers[0] == answers[1]
    assert answers[0][1] == answers[0][2]


def test_an_identity_is_not_guessed(service, client):
    (number,) = numbers(service.store, "green")[:1]
    head = service.token(client, number)
    form = {"name": NAME, "declaration": {}, "agreed": True}
    for n in range(11):
        guess = form | {"identity": identity(n), "once": f"form-{n:08}"}
        answer = client.post("/api/v1/health/applications", headers=head, json=guess)
    assert reason(answer, 429) == "too_many"


def test_what_is_on_record_goes_after_its_time(service, client):
    (number,) = numbers(service.store, "green")[:1]
    head = applied(service, client, number, 40)
    for n, fever in enumerate((True, False)):
        said = {"declaration": {"fever": fever}, "once": f"day-{n:05}"}
        assert client.put("/api/v1/health/declaration", headers=head, json=said).status_code == 204
    service.clock.wait(days=181)
    tidy(service.context)
    with service.context.engine.connect() as connection:
        kept = {
            name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar()
            for name in ("audit", "codes", "outbox", "sessions", "counters", "colours", "people", "declarations")
        }
    gone = dict.fromkeys(("audit", "codes", "outbox", "sessions", "counters"), 0)
    assert kept == gone | {"colours": 1, "people": 1, "declarations": 3}


INJECTIONS = (
    "'; DROP TABLE codes; --",
    '" OR 1=1 --',
    "<script>alert(1)</script>",
    "{{7*7}}",
    "${7*7}",
    "%s%n",
    "\u202e",
)


@pytest.mark.parametrize("text", INJECTIONS)
def test_what_is_typed_is_text(service, client, text):
    (number,) = numbers(service.store, "green")[:1]
    assert client.post("/api/v1/codes", json={"number": text}).status_code == 422
    head = applied(service, client, number, 30)
    answer = client.post("/api/v1/health/appeals", headers=head, json={"text": text, "once": "appeal-1"})
    assert answer.status_code == 201
    (mine,) = client.get("/api/v1/health/appeals", headers=head).json()
    assert mine["text"] == text


def test_a_body_that_is_too_large_or_no_json_is_refused(client):
    assert reason(client.post("/api/v1/codes", content=b"x" * (2 << 20)), 413) == "too_large"

    def endless():
        for _ in range(1000):
            yield b"x" * 10_000

    assert reason(client.post("/api/v1/codes", content=endless()), 413) == "too_large"
    for body in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"number": 5}',
        b'{"number": "1", "more": 1}',
        b"\xff\xfe",
        b'{"number":' + b"[" * 5000,
    ):
        assert reason(client.post("/api/v1/codes", content=body), 422) in ("bad_input", "bad_number")


def test_what_is_wrong_inside_is_not_told_outside(service, client, monkeypatch, caplog):
    (number,) = numbers(service.store, "green")[:1]
    head = service.token(client, number)
    for path in (Path(service.store.root) / "cards").rglob("*.parquet"):
        path.write_bytes(b"damaged")
    answer = client.get("/api/v1/card", headers=head)
    assert reason(answer, 503) == "busy"
    assert service.store.root not in answer.text
    assert str(number) not in caplog.text


# ---------------------------------------------------------------------------------------------------- settings


def test_a_setting_that_does_not_fit_is_refused_in_one_line(country, tmp_path):
    for n, (settings, said) in enumerate(
        [
            ({"database": "mysql://x"}, "database"),
            ({"database": "postgresql://nobody@127.0.0.1:1/x"}, "cannot be opened"),
            ({"health_policy": "card-2022-01"}, "health_policy"),
            ({"secret_file": "nowhere"}, "secret_file"),
            ({"colour": "red"}, "no key"),
        ]
    ):
        folder = copied(country, tmp_path / str(n))
        with pytest.raises(InputError, match=said):
            len(Served(folder, **settings).context.policy.id)


def test_migrations_make_what_the_tables_say(service):
    with service.context.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
