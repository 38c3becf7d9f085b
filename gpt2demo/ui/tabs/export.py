"""The tab Export: write a run in another format and prove it, with the report as it comes."""

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
from gpt2demo.ui.toast import toasting

_one_at_a_time = threading.Lock()


class ExportTab:
    """Builds the tab in the present gr.Tab.

    Attributes:
        done: a gr.State that changes whenever an export is done.

    """

    def __init__(self) -> None:
        self.done = gr.State(0)
        formats = list(plugins.exporters())
        with gr.Row():
            self._run = gr.Dropdown(
                [], label="Run", info="its newest checkpoint is exported", min_width=280, elem_id="export-run"
            )
            self._format = gr.Dropdown(
                formats, value="onnx", label="Format", info=_summary("onnx"), min_width=280, elem_id="export-format"
            )
            self._dtype = gr.Dropdown(
                list(_dtypes("onnx")), value="fp32", label="Numbers", info="fewer bits: smaller, faster", elem_id="export-dtype"
            )
        with gr.Row():
            self._start = gr.Button("Export", variant="primary", scale=0, min_width=200, elem_id="export-start")
        self._report = gr.Textbox(label="Report", lines=6, max_lines=24, interactive=False, elem_id="export-report")
        self._folder = gr.Textbox(label="Folder", interactive=False, visible=False, buttons=["copy"], elem_id="export-folder")
        self._format.change(_chosen, self._format, [self._format, self._dtype], api_visibility="private", show_progress="hidden")
        inputs = [self._run, self._format, self._dtype, self.done]
        self._start.click(
            self._export, inputs, [self._report, self._folder, self.done], show_progress="hidden", api_visibility="private"
        )

    def refresh(self, chosen: str | None) -> Any:
        """An update of the list of runs."""
        runs = models.runs()
        return gr.Dropdown(runs, value=chosen if chosen in runs else next(iter(runs), None))

    def in_progress(self) -> Any:
        """An update of the report for a page that has just been opened."""
        return gr.Textbox("An export is being written; wait until it is done.") if _one_at_a_time.locked() else gr.skip()

    @property
    def report(self) -> gr.Textbox:
        """The report, output of `in_progress`."""
        return self._report

    @property
    def run(self) -> gr.Dropdown:
        """The list of runs, input and output of `refresh`."""
        return self._run

    @toasting
    def _export(self, run: str | None, format: str, dtype: str, done: int) -> Iterator[Any]:  # noqa: A002  # the exporter's word for it
        from gpt2demo.export.export import export_model

        if run is None:
            raise RunError("there is nothing to export yet; train a model first")
        lines: list[str] = []
        yield "", gr.Textbox(visible=False), done
        if not _one_at_a_time.acquire(blocking=False):
            raise RunError("another export is being written; wait until it is done")
        for line in reported(lambda report: export_model(run, format, dtype=dtype, report=report), _one_at_a_time.release):
            if isinstance(line, Path):
                yield "\n".join(lines), gr.Textbox(str(line), visible=True), done + 1
            else:
                lines.append(line)
                yield "\n".join(lines), gr.skip(), gr.skip()


def _dtypes(exporter: str) -> tuple[str, ...]:
    """The number formats of an exporter."""
    return plugins.exporters()[exporter].dtypes


def _summary(exporter: str) -> str:
    """What an exporter says of itself."""
    return plugins.exporters()[exporter].summary


def _chosen(exporter: str) -> tuple[Any, Any]:
    """What the choice of a format changes: what is said of it, and the number formats that it has."""
    return gr.Dropdown(info=_summary(exporter)), gr.Dropdown(list(_dtypes(exporter)), value=_dtypes(exporter)[0])


def reported(work: Callable[[Callable[[str], None]], Path], finally_: Callable[[], None]) -> Iterator[str | Path]:
    """Do work in a thread and give its report lines as they come, then its result. Raises what the work raises.

    The work goes on when nobody listens any more.
    """
    channel: queue.SimpleQueue[str | Path | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            channel.put(work(channel.put))
        except BaseException as error:  # handed over to the listener, whatever it is
            channel.put(error)
        finally:
            finally_()

    threading.Thread(target=run, daemon=True).start()
    while not isinstance(item := channel.get(), Path):
        if isinstance(item, BaseException):
            raise item
        yield item
    yield item
