"""Turn pydantic fields into controls with a name, default and help text, and read their values back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gpt2demo.config import accepts_auto, limits, plain_type
from gpt2demo.ui.text import unformatted

Controls = dict[str, Component]
"""Field name -> control."""
Values = Mapping[Component, Any]
"""Argument of a handler whose inputs are a set."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of every event listener: no progress overlay, no API endpoint."""


def controls(
    fields: Mapping[str, FieldInfo],
    defaults: Mapping[str, Any] | None = None,
    *,
    prefix: str,
    choices: Mapping[str, Iterable[str]] | None = None,
) -> Controls:
    """Build a row of controls that wraps to the available width.

    Args:
        fields: name -> field of a pydantic class.
        defaults: values that replace the fields' own defaults.
        prefix: start of the element ids, which are `PREFIX-NAME`.
        choices: field name -> the names to choose from, for fields with the name of a plugin's part.

    """
    if not fields:
        return {}
    values, choices = defaults or {}, choices or {}
    with gr.Row(elem_classes="fields"):
        return {
            name: control(name, field, values.get(name, field.default), f"{prefix}-{name}", choices.get(name))
            for name, field in fields.items()
        }


def control(name: str, field: FieldInfo, default: Any, elem_id: str, choices: Iterable[str] | None = None) -> Component:
    """Build one control: a checkbox, dropdown, number, slider (for fractions) or text box."""
    kind, _ = plain_type(field.annotation)
    value = None if default is PydanticUndefined else default
    options: dict[str, Any] = {
        "label": label(name),
        "info": unformatted(field.description or ""),
        "interactive": True,
        "elem_id": elem_id,
    }
    if kind is bool:
        return gr.Checkbox(bool(value), **options)
    if choices or get_origin(kind) is Literal:
        return gr.Dropdown(list(choices or get_args(kind)), value=value, **options)
    if kind in (int, float) and NoneType not in get_args(field.annotation) and not accepts_auto(field):
        return _number(kind, field, value, options)
    return gr.Textbox(shown(value), placeholder="automatic", **options)  # an empty gr.Number would show 0


def _number(kind: type, field: FieldInfo, value: float | None, options: dict[str, Any]) -> Component:
    """Build a slider for a fraction between 0 and 1, otherwise a number box."""
    bounds = limits(field)
    low = bounds.get("ge", bounds.get("gt"))
    if kind is float and value is not None and low == 0 and bounds.get("le") == 1:
        return gr.Slider(0.01 if "gt" in bounds else 0.0, 1.0, value, step=0.01, **options)
    # No bounds here: with them Gradio would refuse the whole form because of a hidden control, without naming it, and round 2.7
    # to 3. The settings classes validate the values that are used, and name the field.
    return gr.Number(value, step=_step(kind, value), **options)


def _step(kind: type, value: float | None) -> float:
    """Return the increment of the arrow buttons: 1 for integers, a tenth of the leading digit for floats."""
    return 1 if kind is int or not value else 10.0 ** (math.floor(math.log10(abs(value))) - 1)


def label(name: str) -> str:
    """Return a field's label; OpenAI's names (`n_layer`) and single letters stay as they are.

    >>> label("batch_size"), label("n_layer"), label("p")
    ('Batch size', 'n_layer', 'p')
    """
    return name if name.startswith("n_") or len(name) == 1 else name.replace("_", " ").capitalize()


def shown(value: Any) -> str:
    """Return a value as a text box shows it."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def read(fields: Controls, values: Values) -> dict[str, Any]:
    """Return the values of controls by field name, without empty ones. Values of text boxes are strings."""
    found = {name: values[component] for name, component in fields.items()}
    return {name: value for name, value in found.items() if shown(value).strip()}


def changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from the defaults."""
    return {name: value for name, value in values.items() if shown(value).strip() != shown(defaults[name])}


class PartOptions:
    """Options of several plugin parts of one kind, such as tokenizers: a group of controls each, shown for the selected part.

    Args:
        parts: part -> its options, as fields of a pydantic class.
        selected: the part selected initially.
        prefix: start of the element ids, which are `PREFIX-PART-FIELD`.

    """

    def __init__(self, parts: Mapping[str, Mapping[str, FieldInfo]], selected: str, *, prefix: str) -> None:
        self._parts = parts
        self._groups: dict[str, gr.Column] = {}
        self._controls: dict[str, Controls] = {}
        for name, fields in parts.items():
            with gr.Column(visible=name == selected and bool(fields)) as self._groups[name]:
                self._controls[name] = controls(fields, prefix=f"{prefix}-{name}")

    @property
    def components(self) -> set[Component]:
        """All controls, as inputs of a handler."""
        return {component for fields in self._controls.values() for component in fields.values()}

    @property
    def groups(self) -> list[gr.Column]:
        """The groups, as outputs of a handler."""
        return list(self._groups.values())

    def show(self, selected: str) -> list[gr.Column]:
        """Return updates of `groups` that show the selected part's group."""
        return [gr.Column(visible=name == selected and bool(fields)) for name, fields in self._parts.items()]

    def changed(self, name: str, values: Values) -> dict[str, Any]:
        """Return the options of a part that differ from their defaults."""
        defaults = {key: field.default for key, field in self._parts[name].items()}
        return changed(read(self._controls[name], values), defaults)
