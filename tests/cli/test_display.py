"""Progress of long tasks on the command line."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from gpt2demo import terminal
from gpt2demo.cli import display
from gpt2demo.progress import task


def progress_output(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> str:
    """Run a task of three steps and return what is printed on stderr."""
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120)
    for module in (display, terminal):
        monkeypatch.setattr(module, "console", console)
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
