"""Progress of tasks and training on the command line: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from gpt2demo import terminal
from gpt2demo.cli import display
from gpt2demo.events import Ended, Evaluation, Event, Sample, Saved, Started, Step
from gpt2demo.progress import task

EVENTS: list[Event] = [
    Started("mine", 0, 2, 1234, {"train": 5000, "validation": 500}, "cpu", "fp32"),
    Step(1, 2, 5.5, 1e-3, 1.0, tokens_per_second=2000, seconds_left=61, flops_per_second=4e10, utilization=None, memory=2**29),
    Evaluation(2, train_loss=5.0, validation_loss=5.25, perplexity=190.57, bits_per_byte=7.574),
    Sample(2, "", "a\x1b[31m\nb"),
    Saved(2, Path("runs/mine/checkpoints/step-00000002"), 5.25),
    Ended("finished", 2),
]


def output_console(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> Console:
    """Replace the console on stderr by one that writes into memory, as `console.file`."""
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120)
    for module in (display, terminal):
        monkeypatch.setattr(module, "console", console)
    return console


def progress_output(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> str:
    """Run a task of three steps and return what is printed on stderr."""
    console = output_console(monkeypatch, is_terminal=is_terminal)
    with display.show_progress(), task("counting", 100) as advance:
        for _ in range(3):
            advance(25)
        time.sleep(0.3)  # the bar is redrawn ten times a second
    return console.file.getvalue()


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output = progress_output(monkeypatch, is_terminal=True)
    assert "counting" in output
    assert "75%" in output
    assert capsys.readouterr().out == ""


def test_short_tasks_print_nothing_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress_output(monkeypatch, is_terminal=False) == ""


def test_long_tasks_print_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", -1)
    lines = ["counting: 25 of 100", "counting: 50 of 100", "counting: 75 of 100"]
    assert progress_output(monkeypatch, is_terminal=False).splitlines() == lines


def test_training_events_are_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console = output_console(monkeypatch, is_terminal=False)
    display.show_training(EVENTS)
    assert console.file.getvalue().splitlines() == [
        "run mine: 1,234 parameters, 5,000 train tokens, 500 validation tokens, cpu fp32",
        "step 1/2: loss 5.500, 2,000 tokens/s, 512 MB, 0:01:01 left",
        "step 2: training loss 5.0000, validation loss 5.2500, perplexity 190.57, 7.574 bits per byte",
        "  sample: a\N{REPLACEMENT CHARACTER}[31m b",
        "  saved runs/mine/checkpoints/step-00000002",
        "finished after step 2",
    ]


def test_training_steps_are_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console = output_console(monkeypatch, is_terminal=True)
    display.show_training(EVENTS)
    assert "loss 5.500  2,000 tokens/s  512 MB  0:01:01 left" in console.file.getvalue()
    assert "step 1/2" not in console.file.getvalue()
