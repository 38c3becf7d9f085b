"""The tab Train: the form on one side, the running training on the other.

A training is a process of its own (jobs.py). This tab starts and stops it and reads its run folder once a second, so a browser
may close, and another may look on.
"""

from __future__ import annotations

import html
import math
import os
import re
from typing import Any

import gradio as gr
import pandas as pd
from gradio.blocks import Block

from gpt2demo.config import TrainConfig
from gpt2demo.errors import RunError
from gpt2demo.runs.find import list_runs
from gpt2demo.runs.folder import Run, runs_dir
from gpt2demo.training import jobs
from gpt2demo.ui.controls import Values, shown
from gpt2demo.ui.form import TrainingForm
from gpt2demo.ui.theme import TRAINING, VALIDATION
from gpt2demo.ui.toast import toasting
from gpt2demo.ui.watch import Progress, Watch

LIVE = ("preparing", "running", "stopping")
NEW_SAMPLES = 3
NOTHING_YET = (
    "<p>Press <b>Start</b>: a small GPT-2 learns the example stories in a minute or two. "
    "Its losses and what it writes appear here; then talk to it under <b>Chat</b>.</p>"
)


class Session:
    """What one browser looks at.

    Attributes:
        watch: the run that it shows, or None while there is none.
        job: the process of the newest job that it has seen.
        live: whether the shown run was in work at the last look.
        zoomed: whether the plot may still be zoomed to a part of another run.
        sent: what it shows, so that only changes are sent.

    """

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self.job: int | None = None
        self.live = self.zoomed = False
        self.sent: dict[Block, Any] = {}

    def show(self, name: str | None) -> None:
        """Look at another run."""
        self.watch = Watch(Run(runs_dir() / name)) if name else None
        self.live, self.zoomed = False, True


class TrainTab:
    """Builds the tab in the present gr.Tab.

    Attributes:
        ended: a gr.State that changes whenever a training that was looked at has ended.
        look: an event listener's arguments: show how it stands now.

    """

    def __init__(self) -> None:
        self._session = gr.State(Session)
        self.ended = gr.State(0)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._form = TrainingForm()
            with gr.Column(scale=7, min_width=320):
                self._panel()
        self._wire()

    def _panel(self) -> None:
        """The running training."""
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
            gr.Accordion("Another run, or a longer one", open=False, visible=False, elem_id="another") as self._another,
            gr.Row(),
        ):
            self._run = gr.Dropdown([], label="show run", elem_id="show-run")
            self._length = gr.Textbox(label="resume up to step", placeholder="as planned", elem_id="resume-steps")

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        pressed, seen = [self._start, self._stop, self._resume], [self._progress, self._plot, self._samples]
        outputs = [*pressed, *seen, self._another, self._run, self.ended]
        self.look: dict[str, Any] = {"fn": self._look, "inputs": {self._session, self.ended}, "outputs": outputs, **quiet}
        self._start.click(self._on_start, {self._session, *self._form.inputs}, None, **quiet).then(**self.look)
        self._stop.click(self._on_stop, self._session, None, **quiet).then(**self.look)
        self._resume.click(self._on_resume, {self._session, self._length}, None, **quiet).then(**self.look)
        self._run.input(self._on_choice, [self._session, self._run], None, **quiet).then(**self.look)
        gr.Timer(1.0).tick(**self.look)
        self._plot.select(self._zoom, None, self._plot, **quiet)
        self._plot.double_click(lambda: gr.LinePlot(x_lim=None), None, self._plot, **quiet)

    # ------------------------------------------------------------------------------------------ what a user does

    @toasting
    def _on_start(self, values: Values) -> None:
        values[self._session].show(self._form.start(values).run)

    def _on_stop(self, session: Session) -> None:
        job = jobs.last()
        if job and job.alive:
            job.stop()
        elif session.watch and session.live:  # somebody trains it in a terminal
            session.watch.run.stop_file.touch()

    @toasting
    def _on_resume(self, values: Values) -> None:
        watch, asked = values[self._session].watch, shown(values[self._length]).strip()
        if watch is None:
            raise RunError("there is no run to resume yet")
        progress, steps = watch.progress(None), TrainConfig.create(steps=asked).steps if asked else None
        if progress.step >= (steps or progress.total) > 0:
            raise RunError(f"run {progress.name!r}: has done its {progress.step} steps; choose a larger 'resume up to step'")
        jobs.start_resume(progress.name, steps=steps)

    def _on_choice(self, session: Session, run: str) -> None:
        session.show(run)

    def _zoom(self, event: gr.SelectData) -> gr.LinePlot:
        return gr.LinePlot(x_lim=event.index)

    # ------------------------------------------------------------------------------------------ what is seen

    def _look(self, values: Values) -> Any:
        """What has changed since the last look, by component."""
        session: Session = values[self._session]
        job = jobs.last()
        if session.watch is None or (job and job.alive and job.pid != session.job):
            session.show(job.run if job and job.alive else next((run.name for run in list_runs()), None))
        session.job = job.pid if job else None
        if session.watch is None:
            return {self._progress: NOTHING_YET}
        changes = self._drawn(session, session.watch)
        progress = session.watch.progress(job)
        state = self._state(progress)
        changes |= {component: value for component, value in state.items() if session.sent.get(component) != value}
        session.sent |= state
        was_live, session.live = session.live, progress.status in LIVE
        if was_live and not session.live:
            changes[self.ended] = values[self.ended] + 1
        return changes or gr.skip()

    def _drawn(self, session: Session, watch: Watch) -> dict[Block, Any]:
        """Plot and texts, where there is something new. The plot stays zoomed as long as it shows the same run."""
        losses, texts = watch.read()
        changes: dict[Block, Any] = {}
        if losses:
            there: dict[str, Any] = {"value": frame(watch), "visible": True} if watch.curve.points else {"visible": False}
            changes[self._plot] = gr.update(**there, **({"x_lim": None} if session.zoomed else {}))
            session.zoomed = False
        if texts:
            changes[self._samples] = samples_html(watch)
        return changes

    def _state(self, progress: Progress) -> dict[Block, Any]:
        """The line of progress, and what may be pressed."""
        live = progress.status in LIVE
        names = [run.name for run in list_runs()]
        return {
            self._progress: progress_html(progress),
            self._start: gr.update(variant="secondary" if live else "primary"),
            self._stop: gr.update(interactive=live and progress.status != "stopping"),
            self._resume: gr.update(interactive=not live and progress.step > 0),
            self._another: gr.update(visible=True),
            self._run: gr.update(choices=names if progress.name in names else [progress.name, *names], value=progress.name),
        }


def frame(watch: Watch) -> pd.DataFrame:
    """The curves as the plot wants them: both are there from the start, for it would not take in another one later."""
    rows = [(step, loss, "training") for step, loss in watch.curve.points]
    rows += [(step, loss, "validation") for step, loss in watch.validation or [(0, math.nan)]]
    return pd.DataFrame(rows, columns=["step", "loss", "split"])


def progress_html(progress: Progress) -> str:
    """The line above the plot. Names and errors are quoted, not trusted."""
    done = f"step {progress.step:,} of {progress.total:,}" if progress.total else ""
    counted = f"<span>{' · '.join(filter(None, [done, progress.left]))}</span>"
    head = f'<span class="badge {progress.status}">{progress.status}</span><b>{html.escape(progress.name)}</b>{counted}'
    bar = f'<progress value="{progress.step}" max="{progress.total or 1}"></progress>'
    facts = "".join(f"<span>{html.escape(fact)}</span>" for fact in progress.facts)
    error = f'<div class="wrong">{html.escape(without_uploads(progress.error))}</div>' if progress.error else ""
    return f'<div class="head">{head}</div>{bar}<div class="facts">{facts}</div>{error}'


def without_uploads(message: str) -> str:
    """A message that names an uploaded file as the user calls it, without the folder that it was put into."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    return re.sub(rf"{re.escape(folder)}[/\\][^/\\]+[/\\]", "", message) if folder else message


def samples_html(watch: Watch) -> str:
    """What the model wrote at its evaluations, the newest first, as plain text."""
    texts = [(sample.get("step", 0), html.escape(str(sample.get("text", "")))) for sample in reversed(watch.samples)]
    cards = [f"<figure><figcaption>step {step:,}</figcaption><pre>{text}</pre></figure>" for step, text in texts]
    new, old = "".join(cards[:NEW_SAMPLES]), "".join(cards[NEW_SAMPLES:])
    earlier = f"<details><summary>earlier</summary>{old}</details>" if old else ""
    return f"<h3>What it writes</h3>{new}{earlier}" if cards else ""
