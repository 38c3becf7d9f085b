"""The callback of a training: it sees every event, may stop the training, and changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import SMALL, step_values, train_small

import gpt2demo
from gpt2demo.events import Ended, Event, Step
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run
from gpt2demo.training import resume


def test_a_callback_sees_every_event_and_changes_nothing(text_file: Path) -> None:
    seen: list[Event] = []
    events = train_small(text_file, run="a", callback=seen.append)
    assert seen == events
    assert step_values(events) == step_values(train_small(text_file, run="b"))


def test_a_callback_stops_the_training_with_a_checkpoint(text_file: Path) -> None:
    stopping = {"callback": lambda event: "stop" if isinstance(event, Step) and event.step >= 4 else None}
    events = train_small(text_file, run="a", **stopping)
    assert events[-1] == Ended("stopped", 4)
    assert checkpoint.newest(find_run("a").checkpoints).step == 4
    assert list(resume("a", **stopping))[-1] == Ended("stopped", 5), "it is asked again after each step"
    rest = list(resume("a", callback=lambda event: False))  # only "stop" stops
    assert rest[-1] == Ended("finished", 12)
    assert step_values(rest) == step_values(train_small(text_file, run="b"))[5:]


def test_a_stop_request_works_beside_a_callback(text_file: Path) -> None:
    events = train_small(text_file, stop=lambda: "interrupted", callback=lambda event: None)
    assert events[-1] == Ended("interrupted", 0)


def test_a_callback_that_raises_leaves_a_saved_run(text_file: Path) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3:
            raise KeyError("mine")

    events = gpt2demo.train(text_file, run="a", callback=fail, **SMALL)
    with pytest.raises(KeyError, match="mine"):
        list(events)
    assert find_run("a").state().status == "interrupted"
    assert checkpoint.newest(find_run("a").checkpoints).step == 3
