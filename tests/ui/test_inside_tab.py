"""The Look inside tab: the views of a text, by mouse and keyboard, with hostile text shown as it is."""

from __future__ import annotations

import json

import gradio as gr
import pytest
from hostile import PAYLOADS
from playwright.sync_api import expect
from webpage import BrowserPage, make_run

from gpt2demo.errors import RunError
from gpt2demo.runs.folder import runs_dir
from gpt2demo.ui.models import ModelPool
from gpt2demo.ui.tabs.inside import InsideTab

VIEWS = ["Surprise", "Next token", "Attention", "Logit lens", "Anatomy"]


@pytest.fixture
def tab() -> InsideTab:
    with gr.Blocks():
        return InsideTab(ModelPool())


def test_the_newest_model_is_selected_unless_another_one_is(tab: InsideTab) -> None:
    assert tab.refresh(None).value is None
    for name in ("old", "new"):
        make_run(runs_dir() / name)
    assert (tab.refresh(None).value, tab.refresh("old").value) == ("new", "old")


def test_the_page_receives_an_inspection_as_json(tab: InsideTab) -> None:
    make_run(runs_dir() / "mine")
    values = json.loads(tab._inspect("some text", "mine"))
    assert "".join(token["text"] for token in values["tokens"]) == "some text"


def test_without_a_model_the_tab_says_what_to_do(tab: InsideTab) -> None:
    with pytest.raises(RunError, match="train one first"):
        tab._inspect("some text", None)


@pytest.mark.browser
def test_every_view_shows_the_text_and_can_be_used_with_the_keyboard(visit: BrowserPage) -> None:
    visit.open_tab("Look inside")
    expect(visit.page.locator("#inside-model input")).not_to_have_value("")  # the list is filled after the tab is opened
    visit.page.locator("#inside-text textarea").fill("ab\n${alert(1)} {{value}} <b>x</b>")
    visit.page.locator("#look").click()
    views = visit.page.locator("#views")
    expect(views.get_by_role("tab")).to_have_text(VIEWS)
    tokens = views.locator(".token")
    assert "".join(tokens.all_text_contents()) == "ab⏎\n${alert(1)} {{value}} <b>x</b>"
    tokens.nth(1).focus()
    visit.page.keyboard.press("ArrowRight")
    expect(tokens.nth(2)).to_be_focused()
    expect(views.locator(".card strong")).to_contain_text("⏎")
    views.get_by_role("tab").first.focus()
    for name in VIEWS[1:]:
        visit.page.keyboard.press("ArrowRight")
        expect(views.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        expect(views.locator("[role=tabpanel] .note").first).not_to_be_empty()
    expect(views.get_by_text("model.py:")).not_to_have_count(0)
    assert visit.foreign == []


@pytest.mark.browser
def test_hostile_text_is_shown_and_never_run(visit: BrowserPage) -> None:
    """The model reads bytes, of which other characters than ASCII have several."""
    visit.page.on("dialog", lambda dialog: pytest.fail(f"ran: {dialog.message}"))
    visit.open_tab("Look inside")
    expect(visit.page.locator("#inside-model input")).not_to_have_value("")  # the list is filled after the tab is opened
    views = visit.page.locator("#views")
    payloads = [payload for payload in PAYLOADS if payload.isascii() and payload.isprintable()]
    for start in range(0, len(payloads), 8):
        text = " ".join(payloads[start : start + 8])
        visit.page.locator("#inside-text textarea").fill(text)
        visit.page.locator("#look").click()
        visit.page.wait_for_function(
            "text => document.querySelector('#views [role=tab]')?.click() ||"
            " [...document.querySelectorAll('#views .token')].map(token => token.textContent).join('') === text",
            arg=text,
        )
        for name in VIEWS:
            views.get_by_role("tab", name=name).click()
    assert visit.page.evaluate("window.bad === undefined")
    assert visit.foreign == []
