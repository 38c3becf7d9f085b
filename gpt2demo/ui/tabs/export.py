"""The Export tab: export a run, with the report of the verification while it is written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from gpt2demo import plugins
from gpt2demo.errors import RunError
from gpt2demo.ui import models
from gpt2demo.ui.controls import QUIET
from gpt2demo.ui.toast import toasting

PRECISION = "lower precision: smaller and faster"
_exporting = threading.Lock()


class ExportTab:
    """Build the tab in the current gr.Tab.

    Attributes:
        done: a gr.State that changes after each export.
        run: the list of runs, input and output of `refresh`.
        report: the report, output of `in_progress`.

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
        self.report = gr.Textbox(label="Report", lines=6, max_lines=24, interactive=False, elem_id="export-report")
        self._folder = gr.Textbox(label="Folder", interactive=False, visible=False, buttons=["copy"], elem_id="export-folder")
        self._format.change(_select_format, self._format, [self._format, self._dtype], **QUIET)
        inputs, outputs = [self.run, self._format, self._dtype, self.done], [self.report, self._folder, self.done]
        self._start.click(self._export, inputs, outputs, **QUIET)

    def refresh(self, selected: str | None) -> Any:
        """Return an update of the list of runs. The selection stays if it still exists."""
        runs = models.runs()
        return gr.Dropdown(runs, value=selected if selected in runs else next(iter(runs), None))

    def in_progress(self) -> Any:
        """Return an update of the report for a page that was opened during an export."""
        return gr.Textbox("Another export is running; wait until it is done.") if _exporting.locked() else gr.skip()

    @toasting
    def _export(self, run: str | None, format: str, dtype: str, done: int) -> Iterator[Any]:  # noqa: A002  # as in export_model
        from gpt2demo.export.export import export_model

        if run is None:
            raise RunError("no model yet; train one first")
        lines: list[str] = []
        yield "", gr.Textbox(visible=False), done
        if not _exporting.acquire(blocking=False):
            raise RunError("another export is running; wait until it is done")
        for line in in_background(lambda report: export_model(run, format, dtype=dtype, report=report), _exporting.release):
            if isinstance(line, Path):
                yield "\n".join(lines), gr.Textbox(str(line), visible=True), done + 1
            else:
                lines.append(line)
                yield "\n".join(lines), gr.skip(), gr.skip()


def _dtypes(exporter: str) -> tuple[str, ...]:
    """Return the dtypes of an exporter."""
    return plugins.exporters()[exporter].dtypes


def _summary(exporter: str) -> str:
    """Return an exporter's summary."""
    return plugins.exporters()[exporter].summary


def _select_format(exporter: str) -> tuple[Any, Any]:
    """Return updates with the summary and dtypes of the selected format."""
    return gr.Dropdown(info=_summary(exporter)), gr.Dropdown(list(_dtypes(exporter)), value=_dtypes(exporter)[0])


def in_background(work: Callable[[Callable[[str], None]], Path], on_end: Callable[[], None]) -> Iterator[str | Path]:
    """Run work in a thread; yield the lines that it reports, then its result.

    The work continues to its end if the iterator is closed.

    Args:
        work: function that takes a `report` function and returns a path.
        on_end: called after the work, whether it succeeded or not.

    Raises:
        BaseException: any exception of the work.

    """
    channel: queue.SimpleQueue[str | Path | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            channel.put(work(channel.put))
        except BaseException as error:  # raised again in the iterator
            channel.put(error)
        finally:
            on_end()

    threading.Thread(target=run, daemon=True).start()
    while not isinstance(item := channel.get(), Path):
        if isinstance(item, BaseException):
            raise item
        yield item
    yield item
