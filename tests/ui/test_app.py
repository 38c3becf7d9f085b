"""The page as a whole: tabs of plugins, and narrow screens."""

from __future__ import annotations

import gradio as gr
import pytest
from webpage import BrowserPage, by_id

from gpt2demo import plugins
from gpt2demo.ui import create_app


def test_a_broken_tab_shows_its_error_and_the_other_tabs_work(plugin: None) -> None:
    page = create_app()
    texts = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML) and isinstance(block.value, str)]
    assert any("could not fill this tab: ValueError: no &lt;b&gt;luck&lt;/b&gt;" in text for text in texts)
    assert by_id(page)["working"]
    assert plugins.registry().owner("tabs", "Broken").status == "failed"


@pytest.mark.browser
def test_every_tab_fits_a_phone(visit: BrowserPage) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    for tab, element in (("Train", "#start"), ("Chat", "#send"), ("Export", "#export-start")):
        visit.open_tab(tab)
        visit.page.locator(element).wait_for()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390, tab


@pytest.mark.browser
def test_a_page_opens_with_all_labels_and_without_a_message(visit: BrowserPage) -> None:
    """The listeners that fill the page when it opens neither empty a button nor refuse a value that is not there yet."""
    visit.page.locator("#progress .badge").wait_for()
    for tab, labels in (("Train", "Start Stop Resume"), ("Chat", "Send Clear"), ("Export", "Export")):
        visit.open_tab(tab)
        for label in labels.split():
            visit.page.get_by_role("button", name=label, exact=True).first.wait_for()
    assert visit.page.locator(".toast-body").count() == 0
