"""One hypothesis profile for every run: the same examples each time, no deadlines.

A compiled function takes seconds when it is first used, and a rule that is broken on Monday must be broken on Tuesday.
``TRAVELCARD_EXAMPLES=thorough`` tries other, and many more, examples at each run. ``TRAVELCARD_UNTIL``, in seconds
since 1970, is when no more tests are begun: CI has an hour, on whatever machine.
"""

from __future__ import annotations

import logging
import os
import time
from threading import Lock

import boto3
import pytest
from hypothesis import HealthCheck, settings
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

pytest.register_assert_rewrite("nights")  # its assertions say what they compared, as the tests do

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
settings.register_profile(
    "modest", derandomize=True, deadline=None, max_examples=60, database=None, suppress_health_check=slow
)
settings.register_profile(
    "thorough", derandomize=False, deadline=None, max_examples=2000, print_blob=True, suppress_health_check=slow
)
settings.load_profile(os.environ.get("TRAVELCARD_EXAMPLES", "modest"))

UNTIL = float(os.environ.get("TRAVELCARD_UNTIL", "inf"))


def pytest_runtest_setup():
    if time.time() > UNTIL:
        pytest.skip("no time is left for it")


@pytest.fixture(scope="module")
def bucket():
    """A bucket of an S3-compatible server, and the environment that names that."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a failing test would print every request
    one, put = Lock(), S3Response.put_object

    def put_object(request):
        with one:  # moto looks whether an object is there, then puts it: of two at once, which S3 refuses one, both do
            return put(request)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", put_object)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ALLOW_HTTP", "true")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        yield boto3.resource("s3").create_bucket(Bucket="travel")
    server.stop()
