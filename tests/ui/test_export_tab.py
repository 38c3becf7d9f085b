"""The Export tab: runs and formats to select, and a report while an export is written."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from webpage import by_id, make_run

from gpt2demo import plugins
from gpt2demo.errors import ExportError, RunError
from gpt2demo.runs.folder import runs_dir
from gpt2demo.ui import exporting
from gpt2demo.ui.tabs.export import ExportTab


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


class Work:
    """The work of an export: reports a stage, and continues when the test allows it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self._error, self.going_on = error, threading.Event()

    def __call__(self, report: Callable[[str], None]) -> Path:
        report("writing")
        assert self.going_on.wait(60)
        if self._error:
            raise self._error
        report("comparing")
        return Path("folder")


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    while not condition():
        time.sleep(0.001)


def test_stages_are_reported_before_the_work_ends() -> None:
    work = Work()
    export = exporting.start("loading", work)
    assert export.report.startswith("loading\n")
    assert exporting.running() is export
    wait_until(lambda: "writing" in export.report)
    assert export.report == "loading\nwriting\n…"
    work.going_on.set()
    wait_until(lambda: export.ended)
    assert (export.report, export.folder, export.error) == ("loading\nwriting\ncomparing", Path("folder"), None)


@pytest.mark.parametrize("error", [ExportError("no"), SystemExit("no")])
def test_a_second_export_is_refused_until_the_first_one_ends_even_with_an_error(error: BaseException) -> None:
    work = Work(error)
    export = exporting.start("loading", work)
    with pytest.raises(RunError, match="another export is running"):
        exporting.start("loading", Work())
    work.going_on.set()
    wait_until(lambda: export.ended)
    assert "no" in str(export.error)
    assert isinstance(export.error, Exception)
    assert exporting.running() is None


async def follow(tab: ExportTab, work: Work, updates: list[dict[str, Any]]) -> None:
    """Collect the updates of a page that was opened during an export, by element id. The work continues after the first report."""
    async for update in tab.follow["fn"]():
        updates.append({component.elem_id: value for component, value in update.items()})
        if "export-report" in updates[-1]:
            work.going_on.set()


def test_a_page_opened_during_an_export_shows_its_stages_and_its_end() -> None:
    with gr.Blocks():
        tab, work = ExportTab(), Work()
    updates: list[dict[str, Any]] = []
    asyncio.run(follow(tab, work, updates))
    assert updates == [{"export-start": gr.update()}], "nothing changes without an export"
    export = exporting.start("loading", work)
    wait_until(lambda: "writing" in export.report)
    updates.clear()
    asyncio.run(follow(tab, work, updates))
    _, first, *_, last = updates
    assert (first["export-report"], first["export-start"]["interactive"]) == ("loading\nwriting\n…", False)
    assert (last["export-report"], last["export-start"]["interactive"]) == ("loading\nwriting\ncomparing", True)
    assert last["export-folder"].value == "folder"


def test_the_button_works_again_after_an_error() -> None:
    with gr.Blocks():
        tab, work = ExportTab(), Work(ExportError("no"))
    exporting.start("loading", work)
    updates: list[dict[str, Any]] = []
    with pytest.raises(ExportError):
        asyncio.run(follow(tab, work, updates))
    assert updates[-1]["export-start"]["interactive"]
