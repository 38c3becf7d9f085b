"""The Export tab: export a run, with its report stage by stage, in every browser."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from gradio.components import Component

from gpt2demo import plugins
from gpt2demo.errors import RunError
from gpt2demo.export.export import export_model
from gpt2demo.ui import exporting, models
from gpt2demo.ui.controls import QUIET
from gpt2demo.ui.exporting import Export
from gpt2demo.ui.text import unformatted

PRECISION = "lower precision: smaller and faster"
POLL_SECONDS = 0.1


class ExportTab:
    """Build the tab in the current gr.Tab.

    Attributes:
        done: a gr.State that changes after each export.
        run: the list of runs, input and output of `refresh`.
        follow: arguments of an event listener that shows an export in progress.

    """

    def __init__(self) -> None:
        self.done = gr.State(0)
        formats, dtypes = list(plugins.exporters()), list(_dtypes("onnx"))
        row: dict[str, Any] = {"min_width": 280}
        with gr.Row():
            self.run = gr.Dropdown([], label="Run", info="the newest checkpoint is exported", elem_id="export-run", **row)
            self._format = gr.Dropdown(
                formats, value="onnx", label="Format", info=_summary("onnx"), elem_id="export-format", **row
            )
            self._dtype = gr.Dropdown(dtypes, label="Precision", info=PRECISION, elem_id="export-dtype", **row)
        with gr.Row():
            self._start = gr.Button("Export", variant="primary", scale=0, min_width=200, elem_id="export-start")
        self._report = gr.Textbox(label="Report", lines=6, max_lines=24, interactive=False, elem_id="export-report")
        self._folder = gr.Textbox(label="Folder", interactive=False, visible=False, buttons=["copy"], elem_id="export-folder")
        self._format.change(_select_format, self._format, [self._format, self._dtype], **QUIET)
        options: dict[str, Any] = {
            "outputs": [self._report, self._folder, self._start, self.done],
            "concurrency_limit": None,  # otherwise a second browser would wait without a message
            **QUIET,
        }
        self._start.click(self._export, [self.run, self._format, self._dtype], **options)
        self.follow: dict[str, Any] = {"fn": self._follow, "inputs": None, **options}

    def refresh(self, selected: str | None) -> Any:
        """Return an update of the list of runs. The selection stays if it still exists."""
        runs = models.runs()
        return gr.Dropdown(runs, value=selected if selected in runs else next(iter(runs), None))

    async def _export(self, run: str | None, format: str, dtype: str) -> AsyncIterator[Any]:  # noqa: A002  # as in export_model
        """Start an export and yield its progress."""
        if run is None:
            raise RunError("no model yet; train one first")
        work: exporting.Work = lambda report: export_model(run, format, dtype=dtype, report=report)  # noqa: E731
        export = exporting.start(f"loading the newest checkpoint of {run}", work)
        async for update in self._progress(export):
            yield update

    async def _follow(self) -> AsyncIterator[Any]:
        """Yield the progress of an export that is running when the page is opened."""
        yield {self._start: gr.update()}  # without any update Gradio would empty all outputs, the label of the button too
        if export := exporting.running():
            async for update in self._progress(export):
                yield update

    async def _progress(self, export: Export) -> AsyncIterator[dict[Component, Any]]:
        """Yield the report whenever it changes, then the folder or the error. Does not occupy a thread while it waits."""
        yield {self._report: export.report, self._folder: gr.Textbox(visible=False), self._start: gr.update(interactive=False)}
        shown = export.report
        while not export.ended:
            await asyncio.sleep(POLL_SECONDS)
            if (report := export.report) != shown:
                shown = report
                yield {self._report: report}
        ready = {self._report: export.report, self._start: gr.update(interactive=True)}
        if export.error is None:
            yield {**ready, self._folder: gr.Textbox(str(export.folder), visible=True), self.done: time.monotonic()}
        else:
            yield ready
            raise export.error


def _dtypes(exporter: str) -> tuple[str, ...]:
    """Return the dtypes of an exporter."""
    return plugins.exporters()[exporter].dtypes


def _summary(exporter: str) -> str:
    """Return an exporter's summary."""
    return unformatted(plugins.exporters()[exporter].summary)


def _select_format(exporter: str) -> tuple[Any, Any]:
    """Return updates with the summary and dtypes of the selected format."""
    return gr.Dropdown(info=_summary(exporter)), gr.Dropdown(list(_dtypes(exporter)), value=_dtypes(exporter)[0])
