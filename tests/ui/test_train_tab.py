"""The Train tab: the curves, progress and samples of a run, and trainings that end before they begin."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from webpage import BrowserPage, PageServer

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.runs.folder import Run, State, runs_dir
from gpt2demo.ui.tabs.train import frame, progress_html, samples_html
from gpt2demo.ui.watch import Curve, Progress, RunWatcher


@pytest.fixture
def run() -> Run:
    """A run that the current process is training, at step 2 of 9."""
    run = Run(runs_dir() / "r")
    run.path.mkdir(parents=True)
    run.write_info({"model": ModelConfig().model_dump(), "train": TrainConfig(steps=9).model_dump()})
    run.write_state(State.own("running", 0, 9))
    for step in (1, 2):
        run.append(run.metrics, {"step": step, "split": "batch", "loss": 3.0 - step, "tokens_per_second": 4096.0})
    run.append(run.metrics, {"step": 2, "split": "validation", "loss": 2.5})
    return run


@pytest.fixture
def unread() -> RunWatcher:
    """A watcher of a run that does not exist."""
    return RunWatcher(Run(runs_dir() / "missing"))


def test_a_curve_is_bounded_and_reaches_the_last_step() -> None:
    curve = Curve(limit=100)
    for step in range(1, 100_001):
        curve.add(step, 1 / step)
    assert 50 <= len(curve.points) <= 100
    assert curve.points == sorted(curve.points)
    assert curve.points[-1][0] > 99_000


def test_a_run_without_a_folder_has_failed(unread: RunWatcher) -> None:
    assert unread.read() == (True, True)
    assert unread.progress(None).status == "failed"


def test_a_running_training_shows_losses_speed_and_time_left(run: Run) -> None:
    watcher = RunWatcher(run)
    watcher.read()
    assert (watcher.curve.points, watcher.validation) == ([(1, 2.0), (2, 1.0)], [(2, 2.5)])
    progress = watcher.progress(None)
    assert (progress.status, progress.step, progress.total, progress.left) == ("running", 2, 9, "7 s left")
    assert progress.facts == ("training loss 1.000", "validation loss 2.500", "4,096 tokens/s")


def test_a_training_that_was_asked_to_stop_is_stopping(run: Run) -> None:
    watcher = RunWatcher(run)
    watcher.read()
    run.stop_file.touch()
    assert watcher.progress(None).status == "stopping"


def test_only_new_records_are_read(run: Run) -> None:
    watcher = RunWatcher(run)
    assert watcher.read() == (True, True)
    assert watcher.read() == (False, False)
    run.append(run.samples, {"step": 2, "text": "once"})
    assert watcher.read() == (False, True)
    assert watcher.samples[-1]["text"] == "once"


def test_a_resumed_run_is_read_from_the_start(run: Run) -> None:
    watcher = RunWatcher(run)
    watcher.read()
    run.drop_records_after(1)
    run.write_state(State("interrupted", 1, 1.0, 1, 9))
    assert watcher.read() == (True, True)
    assert (watcher.curve.points, watcher.validation, list(watcher.samples)) == ([(1, 2.0)], [], [])


def test_the_plot_has_both_curves_from_the_start(unread: RunWatcher) -> None:
    assert list(frame(unread)["split"]) == ["validation"]  # the plot would not add this curve later
    unread.validation += [(0, 6.9), (10, 5.0)]
    assert frame(unread).values.tolist() == [[0, 6.9, "validation"], [10, 5.0, "validation"]]


def test_an_error_names_an_uploaded_file_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/tmp/up.1")
    line = progress_html(Progress("r", "failed", error="/tmp/up.1/4ead85/my text.txt: is empty"))
    assert '<div class="wrong">my text.txt: is empty</div>' in line


def test_samples_names_and_errors_are_escaped(unread: RunWatcher) -> None:
    unread.samples.append({"step": 1, "text": "<img src=x>\n&"})
    assert "<pre>\n&lt;img src=x&gt;\n&amp;</pre>" in samples_html(unread)
    assert "<img" not in progress_html(Progress("<img>", "failed", error="<img>", facts=("<img>",)))


@pytest.mark.browser
def test_errors_in_the_form_are_toasts_and_a_preparation_can_be_stopped(visit: BrowserPage, served: PageServer) -> None:
    page = visit.page
    page.get_by_text("More settings").click()
    page.locator("#dataset-tales-stories input").fill("0")  # one of the hidden settings
    page.locator("#start").click()
    visit.expect_toast("dataset 'tales': stories='0'")
    visit.select("#dataset", "my own text")
    page.locator("#start").click()
    visit.expect_toast("no text yet")

    visit.select("#dataset", "tales")
    page.locator("#dataset-tales-stories input").fill("1000000")
    page.locator("#run-name textarea").fill("large")
    page.locator("#start").click()
    visit.expect_text("#progress", "preparing")
    page.locator("#stop").click()
    visit.expect_text("#progress .badge", "failed")
    expect(page.locator("#progress .wrong")).not_to_be_empty()
    assert not (served.runs / "large").exists()
