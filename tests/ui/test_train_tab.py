"""The Train tab: the curves, progress and samples of a run, and trainings that end before they begin."""

from __future__ import annotations

import subprocess
import sys
from unittest.mock import Mock

import gradio as gr
import pytest
from playwright.sync_api import Browser, expect
from webpage import BrowserPage, PageServer

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.errors import RunError
from gpt2demo.runs.folder import Run, State, runs_dir
from gpt2demo.training import jobs
from gpt2demo.training.jobs import Job
from gpt2demo.ui.tabs.train import Session, TrainTab, frame, progress_html, samples_html
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
    run.append(run.metrics, {"step": 3, "split": "batch", "loss": 1.0, "tokens_per_second": 4096.0, "memory": 2**29})
    watcher.read()
    assert watcher.progress(None).facts[-2:] == ("4,096 tokens/s", "512 MB"), "versions before this record have no memory"


def test_a_training_that_was_asked_to_stop_is_stopping(run: Run) -> None:
    watcher = RunWatcher(run)
    watcher.read()
    run.stop_file.touch()
    assert watcher.progress(None).status == "stopping"


@pytest.mark.parametrize(("files", "stage"), [
    ((), "starting"),
    ((".tmp-new-1-00000000/",), "reading the text and training the tokenizer"),
    ((".tmp-new-1-00000000/tokenizer/",), "encoding the text"),
    (("new/run.json",), "building the model"),
    (("new/run.json", "new/state.json"), "loading the checkpoint"),
])  # fmt: skip
def test_a_preparation_shows_its_stage(monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], stage: str) -> None:
    for name in files:
        (runs_dir() / name).parent.mkdir(parents=True, exist_ok=True)
        (runs_dir() / name).mkdir() if name.endswith("/") else (runs_dir() / name).write_text("{}")
    monkeypatch.setattr(Job, "status", lambda job: "preparing")
    monkeypatch.setattr(Job, "error", lambda job: None)
    watcher = RunWatcher(Run(runs_dir() / "new"))
    watcher.read()
    progress = watcher.progress(Job("new", 1, 1.0))
    assert (progress.status, progress.facts[0]) == ("preparing", stage)


@pytest.fixture
def tab() -> TrainTab:
    """The tab of a page."""
    with gr.Blocks():
        return TrainTab()


def shown(tab: TrainTab, session: Session) -> str:
    """Return the progress line that a refresh sends to a browser, or an empty string if it sends none."""
    changes = tab.refresh["fn"]({tab._session: session, tab.ended: 0})
    return next((str(value) for part, value in changes.items() if getattr(part, "elem_id", None) == "progress"), "")


def test_every_browser_shows_a_start_before_the_work_begins(tab: TrainTab, monkeypatch: pytest.MonkeyPatch) -> None:
    session, other, started = Session(), Session(), []
    monkeypatch.setattr(tab._form, "start", lambda values: started.append(values) or Job("new", 1, 1.0))
    updates = tab._on_start({tab._session: session})
    (line,) = next(updates).values()
    assert ">preparing<" in line
    assert not started
    assert shown(tab, other) == line
    assert shown(tab, session) == ""  # it is shown already
    assert list(updates) == []
    assert started
    assert session.watcher
    assert session.watcher.run.name == "new"


def test_the_progress_line_returns_after_a_start_that_failed(tab: TrainTab, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    before = shown(tab, session)
    monkeypatch.setattr(jobs, "start_training", Mock(side_effect=RunError("busy")))
    updates = tab._on_start({tab._session: session, **{control: control.value for control in tab._form.inputs}})
    next(updates)
    with pytest.raises(RunError, match="busy"):
        next(updates)
    assert shown(tab, session) == before


def test_every_browser_shows_a_resume_before_it_waits_for_the_last_training(
    tab: TrainTab, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_state(State("stopped", 1, 1.0, 2, 9))
    session, resumed = Session(), []
    shown(tab, session)
    monkeypatch.setattr(jobs, "start_resume", lambda name, **settings: resumed.append((name, settings)))
    updates = tab._on_resume({tab._session: session, tab._length: "12"})
    (line,) = next(updates).values()
    assert "step 2 of 12" in line
    assert "waiting for the end of the last training" in line
    assert not resumed
    assert shown(tab, Session()) == line
    assert list(updates) == []
    assert resumed == [("r", {"steps": 12})]


def test_a_start_does_not_import_torch() -> None:
    """Importing it takes seconds, in which the page would not answer. The training imports it in its own process."""
    code = """
import sys
from gpt2demo.training import jobs
from gpt2demo.ui import create_app
jobs.start_training = lambda *args, **settings: print(settings["run"], "torch" in sys.modules)
page = create_app()
(start,) = [function.fn for function in page.fns.values() if function.name == "_on_start"]
form = start.__self__._form
form.start({control: control.value for control in form.inputs} | {form.run: "mine"})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "mine False\n"


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
def test_errors_in_the_form_are_toasts_and_a_preparation_can_be_followed_and_stopped(
    visit: BrowserPage, served: PageServer, browser: Browser
) -> None:
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
    visit.expect_text("#progress", "reading the text")
    BrowserPage(browser, served.url).expect_text("#progress", "reading the text")
    page.locator("#stop").click()
    visit.expect_text("#progress .badge", "failed")
    expect(page.locator("#progress .wrong")).not_to_be_empty()
    assert not (served.runs / "large").exists()
