"""The Train tab: the form on one side, the running training on the other.

A training runs in a separate process (`training/jobs.py`). The tab starts and stops it and reads its run folder once a second, so
training continues when the browser is closed, and several browsers can follow it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gradio as gr
import pandas as pd
from gradio.blocks import Block

from gpt2demo.config import TrainConfig
from gpt2demo.errors import RunError
from gpt2demo.runs.find import list_runs
from gpt2demo.runs.folder import Run, runs_dir
from gpt2demo.training import jobs
from gpt2demo.ui.controls import QUIET, Values, shown
from gpt2demo.ui.form import TrainingForm
from gpt2demo.ui.page import Selection
from gpt2demo.ui.text import escape
from gpt2demo.ui.theme import TRAINING, VALIDATION
from gpt2demo.ui.watch import Progress, RunWatcher

ACTIVE = ("preparing", "running", "stopping")
NEW_SAMPLES = 3
WAITING = "waiting for the end of the last training"
NO_RUN = (
    "<p>Press <b>Start</b> to train a small GPT-2 on the example stories. It takes a minute or two. "
    "The losses and samples appear here; when it is done, open <b>Chat</b>.</p>"
)


class Session:
    """The state of one browser.

    Attributes:
        watcher: reads the run that is shown; None if there is no run.
        job: process id of the newest job seen.
        active: whether the shown run was active at the last refresh.
        reset_zoom: whether the plot may still be zoomed to a part of another run.
        sent: values that the browser shows, so that only changes are sent.

    """

    def __init__(self) -> None:
        self.watcher: RunWatcher | None = None
        self.job: int | None = None
        self.active = self.reset_zoom = False
        self.sent: dict[Block, Any] = {}

    def show(self, name: str | None) -> None:
        """Show another run."""
        self.watcher = RunWatcher(Run(runs_dir() / name)) if name else None
        self.active, self.reset_zoom = False, True

    def changed(self, state: dict[Block, Any]) -> dict[Block, Any]:
        """Return the values that the browser does not show yet, and assume that they are sent."""
        changes = {component: value for component, value in state.items() if self.sent.get(component) != value}
        self.sent |= state
        return changes


class TrainTab:
    """Build the tab in the current gr.Tab.

    Attributes:
        ended: a gr.State that changes when the training that is shown ends.
        refresh: arguments of an event listener that updates the tab.

    """

    def __init__(self) -> None:
        self._session = gr.State(Session)
        self._starting: Progress | None = None  # between a click and its job, for every browser
        self.ended = gr.State(0)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._form = TrainingForm()
            with gr.Column(scale=7, min_width=320):
                self._panel()
        self._wire()

    def _panel(self) -> None:
        """Build the buttons, progress, plot and samples of the running training."""
        with gr.Row(elem_classes="actions"):
            self._start = gr.Button("Start", variant="primary", scale=2, min_width=120, elem_id="start")
            self._stop = gr.Button("Stop", interactive=False, min_width=80, elem_id="stop")
            self._resume = gr.Button("Resume", interactive=False, min_width=80, elem_id="resume")
        self._progress = gr.HTML(elem_id="progress")
        self._plot = gr.LinePlot(
            x="step",
            y="loss",
            color="split",
            x_title="step",
            y_title="loss (nats per token)",
            color_title=" ",
            color_map={"training": TRAINING, "validation": VALIDATION},
            height=330,
            visible=False,
            elem_id="plot",
        )
        self._samples = gr.HTML(elem_id="samples")
        with (
            gr.Accordion("Show another run or train longer", open=False, visible=False, elem_id="another") as self._another,
            gr.Row(),
        ):
            self._run = gr.Dropdown([], label="Run", elem_id="show-run")
            self._length = gr.Textbox(label="Resume until step", placeholder="as planned", elem_id="resume-steps")

    def _wire(self) -> None:
        buttons, content = [self._start, self._stop, self._resume], [self._progress, self._plot, self._samples]
        outputs = [*buttons, *content, self._another, self._run, self.ended]
        self.refresh: dict[str, Any] = {"fn": self._refresh, "inputs": {self._session, self.ended}, "outputs": outputs, **QUIET}
        self._start.click(self._on_start, {self._session, *self._form.inputs}, self._progress, **QUIET).then(**self.refresh)
        self._stop.click(self._on_stop, self._session, None, **QUIET).then(**self.refresh)
        self._resume.click(self._on_resume, {self._session, self._length}, self._progress, **QUIET).then(**self.refresh)
        self._run.input(self._on_run, [self._session, self._run], None, **QUIET).then(**self.refresh)
        gr.Timer(1.0).tick(**self.refresh)
        self._plot.select(self._zoom, None, self._plot, **QUIET)
        self._plot.double_click(lambda: gr.LinePlot(x_lim=None), None, self._plot, **QUIET)

    def _on_start(self, values: Values) -> Iterator[dict[Block, Any]]:
        """Yield the acknowledgement, then start a training."""
        session: Session = values[self._session]
        with self._preparing(Progress("new run", "preparing", facts=("checking the settings",))) as progress:
            yield session.changed({self._progress: progress_html(progress)})
            session.show(self._form.start(values).run)

    def _on_stop(self, session: Session) -> None:
        job = jobs.last()
        if job and job.alive:
            job.stop()
        elif session.watcher and session.active:  # started in a terminal
            session.watcher.run.request_stop()

    def _on_resume(self, values: Values) -> Iterator[dict[Block, Any]]:
        """Yield the acknowledgement, then resume the run that is shown."""
        session: Session = values[self._session]
        watcher, length = session.watcher, shown(values[self._length]).strip()
        if watcher is None:
            raise RunError("no run to resume yet; press Start")
        progress, steps = watcher.progress(None), TrainConfig.create(steps=length).steps if length else None
        if progress.step >= (steps or progress.total) > 0:
            raise RunError(f"run {progress.name!r} has already done {progress.step} steps; enter more in 'Resume until step'")
        waiting = replace(progress, status="preparing", total=steps or progress.total, facts=(WAITING,), left="", error=None)
        with self._preparing(waiting):
            yield session.changed({self._progress: progress_html(waiting)})
            jobs.start_resume(progress.name, steps=steps)

    @contextmanager
    def _preparing(self, progress: Progress) -> Iterator[Progress]:
        """Show this progress in every browser during the block."""
        self._starting = progress
        try:
            yield progress
        finally:
            self._starting = None

    def _on_run(self, session: Session, run: str) -> None:
        session.show(run)

    def _zoom(self, selected: Selection) -> gr.LinePlot:
        limits = selected.index
        valid = isinstance(limits, list) and len(limits) == 2 and all(isinstance(limit, int | float) for limit in limits)
        return gr.LinePlot(x_lim=limits if valid else None)

    def _refresh(self, values: Values) -> Any:
        """Return what has changed since the last refresh, by component."""
        session: Session = values[self._session]
        if self._starting:
            return session.changed({self._progress: progress_html(self._starting)}) or gr.skip()
        job = jobs.last()
        if session.watcher is None or (job and job.alive and job.pid != session.job):
            session.show(job.run if job and job.alive else next((run.name for run in list_runs()), None))
        session.job = job.pid if job else None
        if session.watcher is None:
            return session.changed({self._progress: NO_RUN}) or gr.skip()
        changes = self._content(session, session.watcher)
        progress = session.watcher.progress(job)
        changes |= session.changed(self._state(progress))
        was_active, session.active = session.active, progress.status in ACTIVE
        if was_active and not session.active:
            changes[self.ended] = values[self.ended] + 1
        return changes or gr.skip()

    def _content(self, session: Session, watcher: RunWatcher) -> dict[Block, Any]:
        """Return updates of plot and samples if there are new ones. The plot stays zoomed while it shows the same run."""
        losses, samples = watcher.read()
        changes: dict[Block, Any] = {}
        if losses:
            plot: dict[str, Any] = {"value": frame(watcher), "visible": True} if watcher.curve.points else {"visible": False}
            changes[self._plot] = gr.update(**plot, **({"x_lim": None} if session.reset_zoom else {}))
            session.reset_zoom = False
        if samples:
            changes[self._samples] = samples_html(watcher)
        return changes

    def _state(self, progress: Progress) -> dict[Block, Any]:
        """Return updates of the progress line, buttons and list of runs."""
        active = progress.status in ACTIVE
        names = [run.name for run in list_runs()]
        return {
            self._progress: progress_html(progress),
            self._start: gr.update(variant="secondary" if active else "primary"),
            self._stop: gr.update(interactive=active and progress.status != "stopping"),
            self._resume: gr.update(interactive=not active and progress.step > 0),
            self._another: gr.update(visible=True),
            self._run: gr.update(choices=names if progress.name in names else [progress.name, *names], value=progress.name),
        }


def frame(watcher: RunWatcher) -> pd.DataFrame:
    """Return the curves as a table for the plot, with both splits from the start: the plot does not add one later."""
    rows = [(step, loss, "training") for step, loss in watcher.curve.points]
    rows += [(step, loss, "validation") for step, loss in watcher.validation or [(0, math.nan)]]
    return pd.DataFrame(rows, columns=["step", "loss", "split"])


def progress_html(progress: Progress) -> str:
    """Return the progress line above the plot. Names and errors are escaped."""
    done = f"step {progress.step:,} of {progress.total:,}" if progress.total else ""
    steps = f"<span>{' · '.join(filter(None, [done, progress.left]))}</span>"
    title = f'<span class="badge {progress.status}">{progress.status}</span><b>{escape(progress.name)}</b>{steps}'
    bar = f'<progress value="{progress.step}" max="{progress.total or 1}"></progress>'
    facts = "".join(f"<span>{escape(fact)}</span>" for fact in progress.facts)
    error = f'<div class="wrong">{escape(without_uploads(progress.error))}</div>' if progress.error else ""
    return f'<div class="head">{title}</div>{bar}<div class="facts">{facts}</div>{error}'


def without_uploads(message: str) -> str:
    """Remove the temporary folder from the paths of uploaded files in a message."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    return re.sub(rf"{re.escape(folder)}[/\\][^/\\]+[/\\]", "", message) if folder else message


def samples_html(watcher: RunWatcher) -> str:
    """Return the samples of the evaluations as escaped text, newest first. HTML ignores a line break after `<pre>`."""
    samples = [(sample.get("step", 0), escape(str(sample.get("text", "")))) for sample in reversed(watcher.samples)]
    cards = [f"<figure><figcaption>step {step:,}</figcaption><pre>\n{text}</pre></figure>" for step, text in samples]
    new, old = "".join(cards[:NEW_SAMPLES]), "".join(cards[NEW_SAMPLES:])
    earlier = f"<details><summary>Earlier samples</summary>{old}</details>" if old else ""
    return f"<h3>Samples</h3>{new}{earlier}" if cards else ""
