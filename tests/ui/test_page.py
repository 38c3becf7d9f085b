"""What a browser sends is validated for every event listener, and every error is a message of one line."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr
import pytest
from queue_client import QueueClient, invalid_requests
from webpage import PageServer, make_run

from gpt2demo.errors import RunError
from gpt2demo.memory import ADVICE
from gpt2demo.runs.folder import State
from gpt2demo.ui.page import Page, checked


@pytest.mark.parametrize(("component", "value"), [
    (gr.Textbox, 7),
    (gr.Textbox, ["a"]),
    (gr.Checkbox, 1),
    (gr.Checkbox, None),
    (gr.Number, "7"),
    (gr.Number, True),
    (gr.Slider, None),
    (gr.Slider, {}),
    (lambda: gr.Dropdown(["a"]), None),
    (lambda: gr.Dropdown(["a"]), ["a"]),
    (lambda: gr.Radio(["a"]), {}),
])  # fmt: skip
def test_a_value_of_another_type_is_invalid(component: Any, value: object) -> None:
    with pytest.raises(ValueError, match=r": expected .*, not "):
        checked([component()], [value], [False])


@pytest.mark.parametrize(("component", "value"), [
    (gr.Textbox, None),
    (gr.Number, None),
    (gr.Number, 7),
    (gr.Slider, 0.5),
    (gr.Checkbox, False),
    (lambda: gr.Dropdown(["a"], multiselect=True), ["a"]),
    (gr.State, {"a": 1}),
])  # fmt: skip
def test_values_that_a_page_sends_are_valid(component: Any, value: object) -> None:
    assert checked([component()], [value], [False]) == [value]


def test_nothing_may_be_selected_in_a_list_that_is_empty_at_first() -> None:
    """The list of models: a page that has just been opened may send its value before the server has filled it."""
    assert checked([gr.Dropdown(["filled"])], [None], [True]) == [None]
    with pytest.raises(ValueError, match="expected one of the choices, not a list"):
        checked([gr.Dropdown(["filled"])], [["filled"]], [True])


def test_the_number_of_values_must_match() -> None:
    with pytest.raises(ValueError, match="reload it"):
        checked([gr.Textbox()], [], [False])
    with pytest.raises(ValueError, match="reload it"):
        checked([gr.Textbox()], ["a", "b"], [False])


@pytest.mark.parametrize(("error", "message", "is_bug"), [
    (RunError("run '<b>'\nmissing"), "run &#39;&lt;b&gt;&#39; missing", False),
    (MemoryError(), f"out of memory; {ADVICE}", False),
    (ZeroDivisionError("by zero"), "unexpected ZeroDivisionError (a bug; the terminal shows where): by zero", True),
])  # fmt: skip
def test_errors_become_toasts_and_bugs_also_tracebacks(error: Exception, message: str, is_bug: bool) -> None:
    def fail() -> None:
        raise error

    with Page() as page:
        gr.Button().click(fail)
    with pytest.raises(gr.Error) as raised:
        asyncio.run(page.process_api(page.fns[0], []))
    assert (raised.value.message, raised.value.print_exception) == (message, is_bug)


def test_invalid_requests_are_answered_in_one_line(served: PageServer) -> None:
    """A few of the requests of the test below. The server's fixture checks that it has printed no traceback."""
    client = QueueClient(served)
    for index, requests in invalid_requests(client, every=23):
        for what, answer in client.send(index, requests):
            assert answer is not None, what
            assert answer.success or answer.is_message, (what, answer)


@pytest.mark.slow
def test_every_input_of_every_event_listener_is_validated(start_server: Any, tmp_path: Any) -> None:
    """A training in a terminal seems to run, so that no request can start one."""
    make_run(tmp_path / "runs" / "hostile")
    other = make_run(tmp_path / "runs" / "other")
    other.write_state(State.own("running", 1, 9))
    before = sorted(path for path in tmp_path.rglob("*") if "gpt2demo-" not in str(path))
    server = start_server(tmp_path)
    client = QueueClient(server)
    for index, requests in invalid_requests(client, every=1):
        for what, answer in client.send(index, requests):
            assert answer is not None, what
            assert answer.success or answer.is_message, (what, answer)
    after = sorted(path for path in tmp_path.rglob("*") if "gpt2demo-" not in str(path))
    assert {path.relative_to(tmp_path).parts[:2] for path in set(after) - set(before)} <= {("runs", ".jobs"), ("runs", "other")}
