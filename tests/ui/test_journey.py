"""A first visit in a real browser: train, stop, resume, chat, export, and chat with the export."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from webpage import BrowserPage, PageServer

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 32, "batch_size": 4, "eval_batches": 1, "threads": 1}


@pytest.mark.browser
def test_a_newcomer_trains_chats_and_exports(
    start_server: Callable[[Path], PageServer], tmp_path: Path, browser: Browser
) -> None:
    """One test, because each step needs the one before it. It starts the program three times and exports once."""
    server = start_server(tmp_path)
    one = BrowserPage(browser, server.url)
    one.expect_text("#progress", "Press Start")
    _start(one)
    _follow(one, BrowserPage(browser, server.url))
    _stop_and_resume(one)
    assert [path.name for path in server.runs.iterdir() if path.name[0] != "."] == ["tales-nano"]
    assert list(server.runs.glob("tales-nano/checkpoints/step-*/manifest.json"))

    one.open_tab("Chat")
    expect(one.page.locator("#model input")).to_have_value("tales-nano")
    one.page.locator("#chat-seed textarea").fill("7")
    by_torch = one.answer_to("Once upon a time")
    assert by_torch
    one.expect_text("#stats", "seed 7")
    one.expect_text("#stats", "torch on cpu")
    _ask_for_a_missing_export(one)

    one.open_tab("Export")
    expect(one.page.locator("#export-run input")).to_have_value("tales-nano")
    one.page.locator("#export-start").click()
    expect(one.page.locator("#export-folder textarea")).to_have_value(re.compile("tales-nano"))
    one.open_tab("Chat")
    assert one.answer_to("Once upon a time") == by_torch
    one.expect_text("#stats", "onnx on CPU")
    assert one.foreign == []


def _start(visitor: BrowserPage) -> None:
    """Start a training that ends only when it is stopped, and wait for its plot and first sample."""
    visitor.page.get_by_text("More settings").click()
    visitor.fill(steps=100_000, eval_every=50, sample_tokens=20, **TINY)
    visitor.page.locator("#dataset-tales-stories input").fill("100")
    visitor.select("#tokenizer", "byte")
    visitor.page.locator("#start").click()
    visitor.expect_text("#progress", "running")
    expect(visitor.page.locator("#plot canvas, #plot svg").first).to_be_visible()
    visitor.expect_text("#samples", re.compile(r"step \d+"))


def _follow(one: BrowserPage, two: BrowserPage) -> None:
    """Show the running training after a reload and in another browser, which cannot start a second one."""
    one.page.reload()
    one.expect_text("#progress", "running")
    expect(one.page.locator("#plot canvas, #plot svg").first).to_be_visible()
    two.expect_text("#progress", "running")
    two.page.locator("#start").click()
    two.expect_toast("run 'tales-nano' is being trained")
    assert two.foreign == []


def _stop_and_resume(visitor: BrowserPage) -> None:
    """Stop, resume while the stopped process may still be ending, and stop again."""
    visitor.page.locator("#stop").click()
    visitor.expect_text("#progress", "stopped")
    visitor.page.locator("#resume").click()
    visitor.expect_text("#progress", "running")
    visitor.page.locator("#stop").click()
    visitor.expect_text("#progress", "stopped")


def _ask_for_a_missing_export(visitor: BrowserPage) -> None:
    """Select the engine onnx without an export: a toast, and the prompt is kept."""
    visitor.page.get_by_label("onnx", exact=True).check()
    visitor.page.locator("#prompt textarea").fill("Once")
    visitor.page.locator("#send").click()
    visitor.expect_toast("export")
    expect(visitor.page.locator("#prompt textarea")).to_have_value("Once")
