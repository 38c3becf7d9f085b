"""Helpers for tests of the web page: the program in its own process, a page in Chromium, and a run without training."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
from playwright.sync_api import Browser, Page, expect
from samples import BYTES, save_checkpoint

from gpt2demo.config import TrainConfig
from gpt2demo.runs.folder import Run, State

TIMEOUT = 60_000  # milliseconds until the page shows a state; an idle machine needs a tenth, a busy one may need most of it
expect.set_options(timeout=TIMEOUT)
HOSTILE_ENVIRONMENT = {
    "GRADIO_SHARE": "True",
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_ALLOWED_PATHS": "/",
    "GRADIO_MCP_SERVER": "True",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
}
"""Variables that would make Gradio public, if it read them, or unable to reach itself."""


def by_id(page: gr.Blocks) -> dict[str, Any]:
    """Return the components of a page by element id."""
    return {block.elem_id: block for block in page.blocks.values() if block.elem_id}


def make_run(path: Path, *samples: str) -> Run:
    """Create a finished run with a checkpoint of random weights and the given samples."""
    run = Run(path)
    save_checkpoint(path)
    run.write_info({"model": BYTES.model_dump(), "train": TrainConfig(steps=1).model_dump()})
    run.write_state(State("finished", 1, 1.0, 1, 1))
    run.append(run.metrics, {"step": 1, "split": "batch", "loss": 5.5, "tokens_per_second": 100.0})
    for text in samples:
        run.append(run.samples, {"step": 1, "text": text})
    return run


@dataclass
class Response:
    """A response of the server."""

    status: int
    headers: dict[str, str]
    body: bytes


class PageServer:
    """`gpt2demo ui` in its own process, on a free port, with its own folders and without a browser.

    Args:
        folder: holds the runs and exports, uploads, and modules of plugins.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs, self.exports = folder, folder / "runs", folder / "exports"
        folders = {"GPT2DEMO_RUNS_DIR": str(self.runs), "GPT2DEMO_EXPORTS_DIR": str(self.exports), "TMPDIR": str(folder)}
        modules = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, **HOSTILE_ENVIRONMENT, **folders, "PYTHONPATH": modules, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "gpt2demo", "ui", "--port", "0", "--no-browser"]
        self._process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        first_line = self._process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", first_line)
        assert found, first_line + self._process.communicate(timeout=20)[1]
        self.url, self.port = found[0], int(found[1])

    def request(self, method: str, path: str, body: str = "", headers: dict[str, str] | None = None) -> Response:
        """Send one request exactly as given: no redirects, no normalized path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(
                method, path, body.encode("utf-8", "surrogatepass"), {"Content-Type": "application/json", **(headers or {})}
            )
            response = connection.getresponse()
            return Response(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def stop(self) -> None:
        """Send SIGTERM; check exit code 143, no warning or traceback since the start, and no uploads left."""
        self._process.send_signal(signal.SIGTERM)
        _, stderr = self._process.communicate(timeout=20)
        assert (self._process.returncode, stderr) == (143, ""), stderr
        assert not list(self.folder.glob("gpt2demo-*"))

    def kill(self) -> None:
        """End the process, and the training that it started, after a failed test."""
        if self._process.poll() is not None:
            return
        self._process.kill()
        self._process.communicate()
        with suppress(OSError, psutil.Error):
            psutil.Process(json.loads((self.runs / ".jobs" / "job.json").read_bytes())["pid"]).kill()


class BrowserPage:
    """The page in a browser session of its own. `foreign` lists the URLs requested from other servers."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(TIMEOUT)
        self.foreign: list[str] = []
        self.page.on("request", self._on_request)
        self.page.goto(url)
        expect(self.page.locator("#start")).to_be_visible()

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.foreign.append(request.url)

    def fill(self, **fields: object) -> None:
        """Fill in fields of the training form by the names of their settings."""
        for name, value in fields.items():
            self.page.locator(f"#train-{name}").locator("input, textarea").first.fill(str(value))

    def open_tab(self, name: str) -> None:
        """Select a tab."""
        self.page.get_by_role("tab", name=name).click()

    def select(self, dropdown: str, option: str) -> None:
        """Select an option of a dropdown."""
        self.page.locator(f"{dropdown} input").click()
        self.page.get_by_role("option", name=option).click()

    def expect_text(self, selector: str, text: str | re.Pattern[str]) -> None:
        """Wait until the last element of the selector contains a text."""
        expect(self.page.locator(selector).last).to_contain_text(text)

    def expect_toast(self, text: str) -> None:
        """Wait until the newest toast contains a text."""
        self.expect_text("[data-testid=toast-body]", text)

    def answer_to(self, prompt: str) -> str:
        """Send a prompt, wait for the complete answer and return it."""
        prompts = self.page.locator("#chat .message.user")
        count = prompts.count()
        self.page.locator("#prompt textarea").fill(prompt)
        self.page.locator("#send").click()
        expect(prompts).to_have_count(count + 1)  # the page clears the statistics at the same time
        self.expect_text("#stats", "seed")
        return self.page.locator("#chat .message").last.inner_text()
