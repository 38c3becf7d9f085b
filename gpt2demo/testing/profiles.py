"""The extent of the contract tests: `GPT2DEMO_TEST_PROFILE` in the environment is `full` (the default) or `quick`."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

Value = TypeVar("Value")
VARIABLE = "GPT2DEMO_TEST_PROFILE"
PROFILES = ("full", "quick")
PROFILE = os.environ.get(VARIABLE) or "full"
if PROFILE not in PROFILES:
    raise ValueError(f"{VARIABLE}={PROFILE!r}: use one of {', '.join(PROFILES)}")


def by_profile(full: Value, quick: Value) -> Value:
    """Return the value for the current profile."""
    return full if PROFILE == "full" else quick


def examples(full: int, quick: int, **options: Any) -> settings:
    """Return Hypothesis settings: the number of examples by profile, the same ones in each run."""
    return settings(
        max_examples=by_profile(full, quick),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
        **options,
    )
