"""The page as a whole: tabs of plugins, errors as toasts, and narrow screens."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pytest
from webpage import BrowserPage, by_id

from gpt2demo import plugins
from gpt2demo.errors import RunError
from gpt2demo.ui import create_app
from gpt2demo.ui.toast import toast, toasting


def test_a_broken_tab_shows_its_error_and_the_other_tabs_work(plugin: None) -> None:
    page = create_app()
    texts = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML) and isinstance(block.value, str)]
    assert any("could not fill this tab: ValueError: no &lt;b&gt;luck&lt;/b&gt;" in text for text in texts)
    assert by_id(page)["working"]
    assert plugins.registry().owner("tabs", "Broken").status == "failed"


def test_errors_become_toasts_and_bugs_also_tracebacks() -> None:
    def fail(error: Exception) -> Iterator[int]:
        yield 1
        raise error

    for handler in (lambda error: list(toasting(fail)(error)), toasting(lambda error: list(fail(error)))):
        with pytest.raises(gr.Error, match="^'busy'$") as expected:
            handler(RunError("busy"))
        with pytest.raises(gr.Error, match="unexpected ZeroDivisionError: by zero") as unexpected:
            handler(ZeroDivisionError("by zero"))
        assert (expected.value.print_exception, unexpected.value.print_exception) == (False, True)


def test_a_toast_escapes_names_of_the_user() -> None:
    assert toast(RunError("run '<img>'")).message == "run '&lt;img&gt;'"


@pytest.mark.browser
def test_every_tab_fits_a_phone(visit: BrowserPage) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    for tab, element in (("Train", "#start"), ("Chat", "#send"), ("Export", "#export-start")):
        visit.open_tab(tab)
        visit.page.locator(element).wait_for()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390, tab
