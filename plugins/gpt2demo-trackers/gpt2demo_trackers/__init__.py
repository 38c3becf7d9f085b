"""Send the events of a training to TensorBoard and Trackio."""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from gpt2demo import hookimpl
from gpt2demo.errors import summary
from gpt2demo.events import Ended, Evaluation, Event, Sample, Saved, Started, Step
from gpt2demo_trackers.to_tensorboard import TensorBoard
from gpt2demo_trackers.to_trackio import Trackio

CHOICE = "GPT2DEMO_TRACKERS"
INTERVAL = "GPT2DEMO_TRACKERS_EVERY"
DEFAULT_INTERVAL = 10  # steps


class Tracker(Protocol):
    """A training's record in another program."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Record numbers of a step."""

    def log_text(self, text: str, step: int) -> None:
        """Record a sample of a step."""

    def flush(self) -> None:
        """Write what was recorded so far."""

    def close(self) -> None:
        """Write everything and end the record."""


TRACKERS: dict[str, Callable[[Path, Started], Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio}
"""Classes by the name of the package that they need."""
_open: dict[Path, dict[str, Tracker]] = {}
"""Trackers by name, of each run that is being trained in this process."""


@hookimpl
def gpt2demo_training_event(run: Path, event: Event) -> None:
    """Pass an event to the trackers. One that fails is reported and closed; the training and the others continue."""
    if isinstance(event, Started):
        close(run)  # of a training whose generator was left
        _open[run] = {}
        for name in chosen():
            attempt(run, name, partial(start, run, name, event))
    for name, tracker in list(_open.get(run, {}).items()):
        attempt(run, name, partial(send, event, tracker))
    if isinstance(event, Ended):
        close(run)


def chosen() -> list[str]:
    """Return the names of the trackers to use, and warn about packages that are missing.

    They are those in `GPT2DEMO_TRACKERS`, separated by commas; `none` for no tracker. By default, all that are installed.
    """
    named = [name.strip() for name in os.environ.get(CHOICE, "").split(",") if name.strip()]
    if named == ["none"]:
        return []
    if unknown := [name for name in named if name not in TRACKERS]:
        warn(f"{CHOICE}={unknown[0]}: unknown tracker; available: {', '.join(TRACKERS)}, none")
    wanted = [name for name in named or TRACKERS if name in TRACKERS]
    found = [name for name in wanted if find_spec(name)]
    missing = [name for name in wanted if name not in found]
    if missing and (named or not found):
        packages = " and ".join(missing) if named else " or ".join(missing)
        warn(f"{packages} is not installed and nothing is sent to it; pip install 'gpt2demo-trackers[{missing[0]}]'")
    return found


def interval() -> int:
    """Return the number of steps from one recorded step to the next; `GPT2DEMO_TRACKERS_EVERY`, by default 10."""
    value = os.environ.get(INTERVAL, "")
    if value.isdecimal() and int(value) > 0:
        return int(value)
    if value:
        raise ValueError(f"{INTERVAL}={value}: expected a number of steps, at least 1")
    return DEFAULT_INTERVAL


def start(run: Path, name: str, event: Started) -> None:
    """Open a tracker."""
    _open[run][name] = TRACKERS[name](run, event)


def send(event: Event, tracker: Tracker) -> None:
    """Pass an event to a tracker."""
    match event:
        case Step() if event.step % interval() == 0:
            tracker.log(numbers(event), event.step)
        case Evaluation():
            losses = {"loss/train": event.train_loss, "loss/validation": event.validation_loss}
            tracker.log({**losses, "perplexity": event.perplexity, "bits_per_byte": event.bits_per_byte}, event.step)
        case Sample():
            tracker.log_text(event.text, event.step)
        case Saved():  # a run that is killed continues from here
            tracker.flush()


def numbers(event: Step) -> dict[str, float]:
    """Return the values of a step by name."""
    names = ("learning_rate", "grad_norm", "tokens_per_second", "flops_per_second", "utilization", "memory")
    values = {"loss/batch": event.loss, **{name: getattr(event, name) for name in names}}
    return {name: value for name, value in values.items() if value is not None}


def attempt(run: Path, name: str, action: Callable[[], None]) -> None:
    """Call a function of a tracker; if it fails, warn and drop the tracker."""
    try:
        action()
    except Exception as error:
        _open[run].pop(name, None)
        warn(f"{name} failed and gets no more of this training: {summary(error)}")


def close(run: Path) -> None:
    """Close the trackers of a run."""
    for name, tracker in list(_open.get(run, {}).items()):
        attempt(run, name, tracker.close)
    _open.pop(run, None)


def warn(text: str) -> None:
    """Show a line to the user."""
    warnings.warn(f"gpt2demo-trackers: {text}", stacklevel=2)


@atexit.register
def close_all() -> None:
    """Close all trackers: a training that is interrupted has no last event."""
    for run in list(_open):
        close(run)
