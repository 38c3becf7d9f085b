"""The trackers: what they record, missing packages, failures, and resumed trainings. TensorBoard and Trackio are used where installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from samples import SMALL, TEXT, take_until

import gpt2demo
from gpt2demo import plugins
from gpt2demo.events import Ended, Evaluation, Sample, Saved, Started, Step
from gpt2demo.runs.find import find_run
from gpt2demo.training import resume

plugin = pytest.importorskip("gpt2demo_trackers", reason="pip install -e plugins/gpt2demo-trackers")

STARTED = Started("mine", 0, 20, 1234, {"train": 5000, "validation": 500}, "cpu", "float32")


def step(number: int) -> Step:
    """Return a step with a loss of 1 / number."""
    return Step(
        number, 20, 1 / number, 1e-3, 0.5, 2000.0, seconds_left=9.0, flops_per_second=4e10, utilization=None, memory=2**29
    )


class Memory:
    """A tracker that keeps what it gets."""

    def __init__(self, run: Path, event: Started) -> None:
        self.numbers: list[tuple[int, dict[str, float]]] = []
        self.texts: list[tuple[int, str]] = []
        self.flushed, self.closed = 0, False
        MADE.append(self)

    def log(self, values: dict[str, float], step: int) -> None:
        self.numbers.append((step, values))

    def log_text(self, text: str, step: int) -> None:
        self.texts.append((step, text))

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True


MADE: list[Memory] = []


@pytest.fixture(autouse=True)
def two_trackers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the trackers by two that keep what they get; their packages are "installed"."""
    monkeypatch.setattr(plugin, "TRACKERS", {"tensorboard": Memory, "trackio": Memory})
    monkeypatch.setattr(plugin, "find_spec", lambda name: name)
    for name in (plugin.CHOICE, plugin.INTERVAL):
        monkeypatch.delenv(name, raising=False)
    MADE.clear()
    yield
    plugin.close_all()


def send(run: Path, *events: gpt2demo.events.Event) -> None:
    for event in events:
        plugin.gpt2demo_training_event(run, event)


# ---------------------------------------------------------------------------------------------- what is recorded


def test_the_plugin_is_found_by_its_entry_point() -> None:
    point = next(point for point in plugins.installed() if point.value == "gpt2demo_trackers")
    assert point.name == "trackers"


def test_steps_evaluations_and_samples_are_recorded(tmp_path: Path) -> None:
    events = [step(10), Evaluation(10, 2.5, 2.75, 15.6, 3.9), Sample(10, "", "Once"), Saved(10, tmp_path, 2.75)]
    send(tmp_path, STARTED, *events, Ended("finished", 10))
    first, second = MADE
    assert first.numbers == second.numbers
    (at, values), (_, evaluation) = first.numbers
    assert (at, values["loss/batch"], values["memory"]) == (10, 0.1, 2**29)
    assert values.keys() == {"loss/batch", "learning_rate", "grad_norm", "tokens_per_second", "flops_per_second", "memory"}
    assert evaluation == {"loss/train": 2.5, "loss/validation": 2.75, "perplexity": 15.6, "bits_per_byte": 3.9}
    assert first.texts == [(10, "Once")]
    assert (first.flushed, first.closed) == (1, True)


@pytest.mark.parametrize(("every", "expected"), [("", [10, 20]), ("1", list(range(1, 21))), ("7", [7, 14])])
def test_a_part_of_the_steps_is_recorded(
    every: str, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plugin.INTERVAL, every)
    send(tmp_path, STARTED, *map(step, range(1, 21)))
    assert [at for at, _ in MADE[0].numbers] == expected


def test_trainings_that_were_left_are_closed_at_the_next_start_and_at_the_end(tmp_path: Path) -> None:
    send(tmp_path, STARTED, step(10), STARTED)
    assert [tracker.closed for tracker in MADE] == [True, True, False, False]
    plugin.close_all()
    assert all(tracker.closed for tracker in MADE)


# ---------------------------------------------------------------------------------------------- choice and failures


@pytest.mark.parametrize(
    ("choice", "installed", "used", "warning"),
    [
        ("", "tensorboard trackio", ["tensorboard", "trackio"], None),
        ("", "trackio", ["trackio"], None),
        ("", "", [], "tensorboard or trackio is not installed and nothing is sent to it; pip install 'gpt2demo-trackers"),
        ("trackio", "tensorboard trackio", ["trackio"], None),
        (" trackio, tensorboard ", "trackio", ["trackio"], "tensorboard is not installed .*gpt2demo-trackers.tensorboard.'"),
        ("wandb", "trackio", [], "GPT2DEMO_TRACKERS=wandb: unknown tracker; available: tensorboard, trackio, none"),
        ("none", "trackio", [], None),
    ],
)
def test_the_choice_is_an_environment_variable_and_what_is_missing_is_said_once(
    choice: str, installed: str, used: list[str], warning: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plugin.CHOICE, choice)
    monkeypatch.setattr(plugin, "find_spec", lambda name: name if name in installed.split() else None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        send(tmp_path, STARTED, step(10), step(20))
    assert list(plugin._open[tmp_path]) == used
    assert len(caught) == (warning is not None)
    if warning:
        with pytest.raises(UserWarning, match=warning):
            raise caught[0].message


@pytest.mark.parametrize("method", ["__init__", "log", "close"])
def test_a_tracker_that_fails_is_reported_once_and_the_other_continues(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("no space left")

    broken: Callable[..., object] = type("Broken", (Memory,), {method: fail})
    monkeypatch.setitem(plugin.TRACKERS, "tensorboard", broken)
    with pytest.warns(UserWarning, match="gpt2demo-trackers: tensorboard failed .*: OSError: no space left") as caught:
        send(tmp_path, STARTED, step(10), step(20), Ended("finished", 20))
    assert len(caught) == 1
    assert [at for at, _ in MADE[-1].numbers] == [10, 20]
    assert MADE[-1].closed


def test_an_invalid_interval_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.INTERVAL, "often")
    monkeypatch.setenv(plugin.CHOICE, "trackio")
    with pytest.warns(UserWarning, match="GPT2DEMO_TRACKERS_EVERY=often: expected a number of steps, at least 1"):
        send(tmp_path, STARTED, step(10))


# ---------------------------------------------------------------------------------------------- the real programs


def train_and_resume(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train to step 8, resume from the checkpoint at step 6 as after a kill, and return the run folder."""
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(folder / "runs"))
    monkeypatch.setenv(plugin.INTERVAL, "1")
    (folder / "my.txt").write_text(TEXT, encoding="utf-8")
    take_until(gpt2demo.train(folder / "my.txt", run="mine", threads=1, **SMALL), 8)
    plugin.close_all()
    run = find_run("mine")
    newest = run.checkpoints / "step-00000008"
    newest.rename(run.path / "removed")
    assert [type(event) for event in resume("mine")][-1] is Ended
    return run.path


def test_tensorboard_shows_each_step_of_a_resumed_training_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(plugin, "TRACKERS", {"tensorboard": plugin.TensorBoard})
    run = train_and_resume(tmp_path, monkeypatch)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [scalar.step for scalar in events.Scalars("loss/batch")] == list(range(1, 13))
    assert [scalar.step for scalar in events.Scalars("loss/validation")] == [0, 6, 12]
    recorded = [record for record in find_run("mine").checked_records(run / "metrics.jsonl") if record["split"] == "batch"]
    assert [scalar.value for scalar in events.Scalars("loss/batch")] == pytest.approx([record["loss"] for record in recorded])
    assert [text.step for text in events.Tensors("sample/text_summary")] == [6, 12]


def test_trackio_has_each_step_of_a_resumed_training_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "runs" / ".trackio"))  # as the plugin sets it by default
    pytest.importorskip("trackio")  # reads the variable
    monkeypatch.setattr(plugin, "TRACKERS", {"trackio": plugin.Trackio})
    run = train_and_resume(tmp_path, monkeypatch)
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("gpt2demo") == ["mine"]
    logs = SQLiteStorage.get_logs("gpt2demo", "mine")
    assert sorted(log["step"] for log in logs if "loss/batch" in log) == list(range(1, 13))
    assert sorted(log["step"] for log in logs if "loss/validation" in log) == [0, 6, 12]
    assert (run.parent / ".trackio" / "gpt2demo.db").is_file()
