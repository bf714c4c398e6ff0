"""One hypothesis profile for every run: the same examples each time, no deadlines.

A compiled function takes seconds when it is first used, and a rule that is broken on Monday must be broken on Tuesday.
``TRAVELCARD_EXAMPLES=thorough`` tries other, and many more, examples at each run.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("nights")  # its assertions say what they compared, as the tests do

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
settings.register_profile(
    "modest", derandomize=True, deadline=None, max_examples=60, database=None, suppress_health_check=slow
)
settings.register_profile(
    "thorough", derandomize=False, deadline=None, max_examples=2000, print_blob=True, suppress_health_check=slow
)
settings.load_profile(os.environ.get("TRAVELCARD_EXAMPLES", "modest"))
