"""Text is shown as it is: no markup, template, formula or script in it is interpreted, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hostile import PAYLOADS, SAMPLES, install
from playwright.sync_api import Browser, expect
from webpage import BrowserPage, PageServer, make_run

from gpt2demo.runs.folder import Run, State
from gpt2demo.ui.text import escape, exactly, unformatted, well_formed
from gpt2demo.ui.toast import refusal

NAMES = [text for text in PAYLOADS if "/" not in text]


def test_text_is_escaped_with_line_breaks_and_leading_space() -> None:
    assert exactly(" <b>\n&") == "&#32;&lt;b&gt;&#10;&amp;"


def test_text_that_utf_8_or_html_cannot_hold_is_replaced() -> None:
    assert well_formed("a\ud800b\U0001f642") == "a\ufffdb\U0001f642"
    assert escape("a\0b\r") == "a\ufffdb&#13;"


def test_help_texts_lose_their_formatting_and_nothing_else() -> None:
    assert unformatted("n_embd * 4, [0, 1) or a_b_c") == "n_embd * 4, [0, 1) or a_b_c"
    assert unformatted("`a` **b** _c_") == "ˋaˋ ∗∗b∗∗ ˍcˍ"
    assert unformatted("[x](http://example.org)") == "[x]\u2060(http://example.org)"


def test_a_message_is_one_short_line() -> None:
    message = refusal(ValueError("a\n<b>\ud800" + "x" * 9999)).message
    assert message.startswith("a &lt;b&gt;\ufffdxxx")
    assert len(message) < 600


@pytest.fixture(scope="module")
def hostile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """Start a server with the hostile plugin, runs with hostile names, and a failed run `zz` with hostile texts."""
    folder = tmp_path_factory.mktemp("hostile")
    install(folder)
    for name in NAMES:
        (folder / "runs" / name).mkdir(parents=True)
        Run(folder / "runs" / name).write_info({})
    failed = make_run(folder / "runs" / "zz", *SAMPLES)
    failed.write_state(State("failed", 1, 1.0, 1, 1, " ".join(PAYLOADS)))
    server = PageServer(folder)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def hostile(browser: Browser, hostile_server: PageServer) -> Iterator[BrowserPage]:
    """Open the page of the hostile server; check after the test that no script ran and nothing was fetched."""
    visitor = BrowserPage(browser, hostile_server.url)
    yield visitor
    assert visitor.page.evaluate("window.bad") is None
    assert visitor.foreign == []


Texts = Callable[[str], list[Any]]


@pytest.fixture
def texts(hostile: BrowserPage) -> Texts:
    """Return the texts of all elements of a selector."""
    return lambda selector: hostile.page.evaluate(
        "selector => [...document.querySelectorAll(selector)].map(one => one.textContent)", selector
    )


@pytest.mark.browser
def test_runs(hostile: BrowserPage, texts: Texts) -> None:
    hostile.expect_text("#progress .badge", "failed")
    expect(hostile.page.locator("#samples pre")).to_have_count(len(SAMPLES))
    assert texts("#samples pre") == SAMPLES[::-1]
    assert texts("#progress .wrong") == [" ".join(PAYLOADS)]
    hostile.page.get_by_text("Show another run").click()
    hostile.page.locator("#show-run input").click()
    hostile.page.get_by_role("option", name="zz").wait_for()
    assert sorted(text.removeprefix("✓ ") for text in texts("[role=option]")) == sorted([*NAMES, "zz"])


@pytest.mark.browser
def test_plugins(hostile: BrowserPage, texts: Texts) -> None:
    assert hostile.page.get_by_role("tab").all_text_contents()[-1] == "<b>$$x$$ **tab** ${window.bad=1}"
    hostile.page.get_by_role("tab").last.click()
    hostile.expect_text(".wrong", f"ValueError: {' '.join(PAYLOADS[:20])}"[:150])
    hostile.open_tab("Chat")
    expect(hostile.page.locator("#use-s1 .info-text")).to_be_attached()
    assert texts("[id^=use-s] .info-text") == [unformatted(text) for text in PAYLOADS]
    for number in range(0, len(PAYLOADS), 9):
        hostile.page.locator(f"#use-s{number} input").check()
        option = hostile.page.locator(f"#sampler-s{number}-option")
        expect(option.locator("input, textarea")).to_have_value(PAYLOADS[number])
        assert unformatted(PAYLOADS[number]) in option.text_content()


@pytest.mark.browser
def test_toasts_and_files(hostile: BrowserPage, texts: Texts) -> None:
    hostile.page.get_by_text("More settings").click()
    for name in PAYLOADS[:20:4]:
        hostile.page.locator("#run-name textarea").fill(name)
        hostile.page.locator("#start").click()
        hostile.expect_toast(repr(name)[1:-1])
    hostile.select("#dataset", "my own text")
    files = [f"{text.replace('/', '_')}.txt" for text in PAYLOADS]
    upload: Any = [{"name": name, "mimeType": "text/plain", "buffer": b"x"} for name in files]
    hostile.page.locator("#files input[type=file]").set_input_files(upload)
    expect(hostile.page.locator("#files tr")).to_have_count(len(files))
