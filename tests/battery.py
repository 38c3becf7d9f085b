"""The battery: what the program must survive, by class. `pytest -m battery` runs it, and ends with the trials and failures of each class.

A test of the battery is a trial, or counts its own with the fixture `trial`. The tests marked `slow` repeat what the default suite
tries a few times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CLASSES = {
    "kills leave all or nothing": (
        "runs/test_new_runs",
        "runs/test_crash_safety",
        "training/test_interruption",
        "cli/test_signals",
    ),
    "one damaged run": ("runs/test_damaged_runs", "runs/test_damage.py", "test_readers"),
    "full and read-only disks": ("runs/test_disks",),
    "out of memory": ("test_memory",),
    "weights that are not finite": ("runs/test_disks.py::test_weights_that_are_not_finite",),
    "exports beside each other": ("export/test_export_model", "engines/test_check_export"),
    "uploads of killed servers": ("ui/test_uploads",),
    "calls into plugins": ("plugins/test_failures",),
    "names and versions of plugins": ("plugins/test_loading",),
    "pip and the help": ("cli/test_install", "cli/test_help"),
    "rates of groups": ("training/test_rate_groups",),
    "contract tests": ("testing/",),
    "verify-resume": ("training/test_verify_resume",),
    "requests to the page": ("ui/test_server", "ui/test_page"),
    "texts on the page": ("ui/test_text", "ui/test_models", "cli/test_lists"),
    "progress on the page": ("ui/test_export_tab", "ui/test_train_tab", "ui/test_journey"),
    "hostile surroundings": ("cli/test_surroundings",),
}
"""Class -> its tests, as the starts of their ids."""


class Trials:
    """Trials of one test, which continues after a failure."""

    def __init__(self) -> None:
        self.count = 0
        self.failures: list[str] = []

    @contextmanager
    def __call__(self, what: object) -> Iterator[None]:
        """Count a trial, which fails if the block raises an exception."""
        self.count += 1
        try:
            yield
        except Exception as error:
            self.failures.append(f"{what}: {type(error).__name__}: {error}"[:1000])


@pytest.fixture
def trial() -> Trials:
    """Count the trials of a test: `with trial("what"): …`. The test fails if one has failed."""
    return Trials()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Report the trials of a test, and fail if one has failed."""
    yield
    trials = getattr(item, "funcargs", {}).get("trial")
    if isinstance(trials, Trials):
        item.user_properties += [("trials", trials.count), ("failures", len(trials.failures))]
        if trials.failures:
            pytest.fail("\n".join([f"{len(trials.failures)} of {trials.count} trials failed", *trials.failures[:20]]))


@pytest.hookimpl(tryfirst=True)  # before the selection by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the battery."""
    for item in items:
        for name, starts in CLASSES.items():
            if item.nodeid.startswith(tuple(f"tests/{start}" for start in starts)):
                item.add_marker("battery")
                item.user_properties.append(("class", name))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the trials and failures of each class."""
    if "battery" not in terminalreporter.config.option.markexpr:
        return
    trials: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            found = dict(report.user_properties)
            if name := found.get("class"):
                trials[name] += found.get("trials", 1)
                failures[name] += found.get("failures", 0 if outcome == "passed" else 1)
    terminalreporter.section("battery")
    for name in CLASSES:
        terminalreporter.line(f"{name:32} {trials[name]:8,} trials {failures[name]:6,} failures")
    terminalreporter.line(f"{'total':32} {trials.total():8,} trials {failures.total():6,} failures")
