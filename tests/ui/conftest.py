"""Fixtures for tests of the web page: one server for all tests of a session, a browser, and a plugin with tabs."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from webpage import BrowserPage, PageServer, make_run

from gpt2demo.ui import server

HOSTILE_TEXT = (
    '<img src="http://evil.example/a"> ![b](http://evil.example/b) <script>window.bad = 1</script> ${7*7}\n  two  spaces\n\n &'
)
PLUGIN = """
import gradio as gr
from pydantic import Field
from gpt2demo import hookimpl
from gpt2demo.interfaces import Sampler

class Whim(Sampler):
    '''Follow a whim.'''
    strength: float = Field(0.25, ge=0, le=1, description="how much")
    tokens: int = Field(7, ge=1, le=99, description="how many")
    often: bool = Field(True, description="how often")
    def __call__(self, logits, context):
        return logits

def broken():
    gr.Textbox(label="half a tab")
    raise ValueError("no <b>luck</b>")

@hookimpl
def gpt2demo_samplers():
    return {"whim": Whim}

@hookimpl
def gpt2demo_tabs():
    return {"Broken": broken, "Working": lambda: gr.Textbox(label="all is well", elem_id="working")}
"""


@pytest.fixture(scope="module", autouse=True)
def closed_event_loops() -> Iterator[None]:
    """Close the event loops that Gradio creates for its locks and leaves open."""
    created: list[asyncio.AbstractEventLoop] = []
    create = asyncio.new_event_loop
    server.isolate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", lambda: created.append(create()) or created[-1])
        yield
    for loop in created:
        loop.close()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_plugins: None) -> None:
    """Install a plugin with a sampler, a working tab and a broken one."""
    (tmp_path / "gpt2demo_whim.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("gpt2demo.plugins.loading.installed", lambda: [EntryPoint("whim", "gpt2demo_whim", "gpt2demo")])


@pytest.fixture
def start_server() -> Iterator[Callable[[Path], PageServer]]:
    """Start a server with its own folders: `start_server(folder)`. It is stopped, and its exit checked, after the test."""
    yield from _servers()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """Start one server for all tests of a session. It has one finished run, `hostile`, with `HOSTILE_TEXT` as its sample."""
    folder = tmp_path_factory.mktemp("served")
    make_run(folder / "runs" / "hostile", HOSTILE_TEXT)
    for start in _servers():
        yield start(folder)


def _servers() -> Iterator[Callable[[Path], PageServer]]:
    started: list[PageServer] = []
    try:
        yield lambda folder: started.append(PageServer(folder)) or started[-1]
        for running in started:
            running.stop()
    finally:
        for running in started:
            running.kill()


@pytest.fixture
def hostile_text() -> str:
    """The sample of the run `hostile`."""
    return HOSTILE_TEXT


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Start a real browser that can reach this machine alone."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("Chromium is not in PATH")
    arguments = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Browser, served: PageServer) -> BrowserPage:
    """Open the page of the shared server."""
    return BrowserPage(browser, served.url)
