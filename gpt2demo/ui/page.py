"""The page as Gradio blocks that validate what a browser sends and report every error as a toast of one line.

The queue accepts any values for any event listener, also without the page. Gradio alone checks little, reports other errors than
gr.Error as null, and prints a traceback for each invalid value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block

from gpt2demo.errors import Error
from gpt2demo.ui.text import well_formed
from gpt2demo.ui.toast import refusal, toast, unexpected

OUTDATED = "the page does not match the running program; reload it"
KINDS: tuple[tuple[type[Block], tuple[type, ...], str], ...] = (
    (gr.Textbox, (str,), "a text"),
    (gr.Checkbox, (bool,), "true or false"),
    (gr.Number, (int, float), "a number"),
    (gr.Slider, (int, float), "a number"),
    (gr.Radio, (str, int, float), "one of the choices"),
    (gr.Dropdown, (str, int, float), "one of the choices"),
)
"""Components, the types of their values, and their description."""
NULLABLE = (gr.Textbox, gr.Number)


class Page(gr.Blocks):
    """Blocks whose event listeners receive valid values alone."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False) -> list[Any]:
        """Validate the values that a browser sent, and convert them for the event listener.

        Raises:
            gr.Error: a value is invalid.
        """
        try:
            current = [state[block._id] if state and block._id in state else block for block in block_fn.inputs]
            filled_later = [getattr(block, "choices", None) == [] for block in block_fn.inputs]
            values = checked(current, inputs, filled_later)
            return list(await super().preprocess_data(block_fn, values, state, explicit_call))
        except Exception as error:
            raise refusal(error) from None

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run an event listener, or continue a generator.

        Raises:
            gr.Error: any error. Unexpected ones are bugs: Gradio prints their tracebacks in the terminal.
        """
        try:
            return dict(await super().process_api(*args, **kwargs))
        except gr.Error:
            raise
        except Error as error:
            raise toast(error) from None
        except Exception as bug:
            raise unexpected(bug) from bug


class Selection(gr.EventData):
    """What was selected in a component: its index and value.

    Args:
        target: the component.
        data: what the browser sent.

    Raises:
        gr.Error: index or value is missing.
    """

    def __init__(self, target: Block | None, data: Any) -> None:
        super().__init__(target, data)
        if not isinstance(data, dict) or not {"index", "value"} <= data.keys():
            raise refusal(ValueError("nothing is selected"))
        self.index, self.value = data["index"], data["value"]


def checked(components: Sequence[Block], values: Sequence[Any], filled_later: Sequence[bool]) -> list[Any]:
    """Return values of components, with strings that can be written as UTF-8.

    Args:
        components: as the browser's session shows them.
        values: what it sent.
        filled_later: whether a component is a list that is empty at first, in which nothing need be selected yet.

    Raises:
        ValueError: the number of values or the type of a value is wrong.
    """
    if len(values) != len(components):
        raise ValueError(OUTDATED)
    for component, value, nullable in zip(components, values, filled_later, strict=True):
        if value is not None or not nullable:
            _check(component, value)
    return [well_formed(value) if isinstance(value, str) else value for value in values]


def _check(component: Block, value: Any) -> None:
    """Raise a ValueError if a value does not have the type of its component. Gradio checks choices and ranges."""
    types, description = next((kind[1:] for kind in KINDS if isinstance(component, kind[0])), ((object,), ""))
    empty = value is None and isinstance(component, NULLABLE)
    several = isinstance(value, list) and getattr(component, "multiselect", None)
    boolean = isinstance(value, bool) and bool not in types and object not in types
    if not (empty or several) and (boolean or not isinstance(value, types)):
        name = getattr(component, "label", None) or type(component).__name__
        raise ValueError(f"{name}: expected {description}, not {_kind(value)}")


def _kind(value: Any) -> str:
    """Return the type of a JSON value in plain words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")
