"""What the OpenAPI description says is what the service does, whatever is sent to it."""

from __future__ import annotations

import nights
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from served import Served

from travelcard.service.database import counters
from travelcard.service.desk import ROLES, add_operator

OPEN = {("POST", "/api/v1/codes"), ("POST", "/api/v1/tokens"), ("GET", "/api/v1/key")}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = nights.country(tmp_path_factory.mktemp("country") / "country", run=2)
    made = Served(folder, max_age=9, codes_a_minute=10**6, an_address_an_hour=10**6)
    yield made
    made.context.close()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_whatever_is_sent_is_answered_as_described(service, mode):
    described = schemathesis.openapi.from_asgi("/api/v1/openapi.json", service.app)
    client = service.client()
    desk = {"authorization": f"Bearer {add_operator(service.context, 'anna', list(ROLES))}"}
    number = service.store.frame("cards")["subscriber"][0]
    operations = [result.ok() for result in described.get_all_operations()]
    assert len(operations) > 25
    failures = []

    def answered(case):
        service.clock.wait(days=1)
        if case.path.startswith("/api/v1/desk"):
            head = desk
        elif (case.method, case.path) in OPEN:
            head = {}
        else:
            with service.context.engine.begin() as connection:
                connection.execute(counters.delete())
            head = service.token(client, 13900000000 if case.path == "/api/v1/me" else number)
        # What is valid by its form is not always so by its meaning: a code that was not sent.
        made_up = "authorization" in {name.lower() for name in case.headers}
        case.headers.update(
            {"user-agent": "a test", **(head if mode is GenerationMode.POSITIVE or not made_up else {})}
        )
        # With a token in the place of one that was made up, the answer is not to that.
        case.call_and_validate(excluded_checks=[positive_data_acceptance, *([ignored_auth] if made_up else [])])

    some = settings(max_examples=12, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    for operation in operations:
        try:
            some(given(case=operation.as_strategy(generation_mode=mode))(answered))()
        except BaseExceptionGroup as group:
            failures.append(f"{operation.method} {operation.path}: {group!r} {[str(one) for one in group.exceptions]}")
        except Unsatisfiable:  # nothing that is wrong can be sent where nothing is asked
            assert mode is GenerationMode.NEGATIVE
    assert failures == []
