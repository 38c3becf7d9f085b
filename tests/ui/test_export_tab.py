"""The Export tab: runs and formats to select, and a report while an export is written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import pytest
from webpage import by_id, make_run

from gpt2demo import plugins
from gpt2demo.errors import ExportError
from gpt2demo.runs.folder import runs_dir
from gpt2demo.ui.tabs.export import ExportTab, in_background


def test_every_format_can_be_selected_with_onnx_first() -> None:
    with gr.Blocks() as page:
        ExportTab()
    ids = by_id(page)
    assert [name for _, name in ids["export-format"].choices] == list(plugins.exporters())
    assert (ids["export-format"].value, ids["export-dtype"].value) == ("onnx", "fp32")


def test_the_newest_run_is_selected_unless_another_one_is() -> None:
    with gr.Blocks():
        tab = ExportTab()
    assert tab.refresh(None).value is None
    for name in ("old", "new"):
        make_run(runs_dir() / name)
    assert tab.refresh(None).value == "new"
    assert tab.refresh("old").value == "old"
    assert tab.refresh("deleted").value == "new"


def test_lines_are_reported_before_the_work_ends() -> None:
    going_on, ended = threading.Event(), threading.Event()

    def work(report: Callable[[str], None]) -> Path:
        report("one")
        assert going_on.wait(10)
        return Path("folder")

    items = in_background(work, ended.set)
    assert next(items) == "one"
    assert not ended.is_set()
    going_on.set()
    assert list(items) == [Path("folder")]
    assert ended.wait(10)


def test_an_error_of_the_work_is_raised_and_its_end_is_reported() -> None:
    ended = threading.Event()

    def work(report: Callable[[str], None]) -> Path:
        raise ExportError("no")

    with pytest.raises(ExportError):
        list(in_background(work, ended.set))
    assert ended.wait(10)
