"""A pydantic field becomes a control with its name, default and help. Ranges are checked by the settings classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gpt2demo.config import limits, plain_type

Controls = dict[str, Component]
"""Field name -> control."""
Values = Mapping[Component, Any]
"""What a handler gets whose inputs are a set."""


def controls(fields: Mapping[str, FieldInfo], defaults: Mapping[str, Any] | None = None, *, prefix: str) -> Controls:
    """Controls for some fields, as many in a row as there is room for.

    Args:
        fields: name -> field of a pydantic class.
        defaults: values in place of the fields' own.
        prefix: what the elements' ids begin with, `PREFIX-NAME`.

    """
    if not fields:
        return {}
    given = defaults or {}
    with gr.Row(elem_classes="fields"):
        return {name: control(name, field, given.get(name, field.default), f"{prefix}-{name}") for name, field in fields.items()}


def control(name: str, field: FieldInfo, default: Any, elem_id: str) -> Component:
    """One control: a checkbox, a list, a number, a slider for a fraction, or a line of text."""
    kind, _ = plain_type(field.annotation)
    value = None if default is PydanticUndefined else default
    words: dict[str, Any] = {"label": label(name), "info": field.description, "interactive": True, "elem_id": elem_id}
    if kind is bool:
        return gr.Checkbox(bool(value), **words)
    if get_origin(kind) is Literal:
        return gr.Dropdown(list(get_args(kind)), value=value, **words)
    if kind in (int, float) and NoneType not in get_args(field.annotation):
        return _number(kind, field, value, words)
    return gr.Textbox(shown(value), placeholder="automatic", **words)  # gr.Number shows 0 where there is nothing


def _number(kind: type, field: FieldInfo, value: float | None, words: dict[str, Any]) -> Component:
    """A slider for a fraction of which 0 and 1 are values or sensible ends; else a number."""
    bounds = limits(field)
    low = bounds.get("ge", bounds.get("gt"))
    if kind is float and value is not None and low == 0 and bounds.get("le") == 1:
        return gr.Slider(0.01 if "gt" in bounds else 0.0, 1.0, value, step=0.01, **words)
    # Without its bounds: Gradio would refuse the whole form for a hidden one, not say which, and make 3 of 2.7. The settings' own
    # class checks what is used, and names it.
    return gr.Number(value, step=_step(kind, value), **words)


def _step(kind: type, value: float | None) -> float:
    """What one press of an arrow adds: 1 to a whole number, a tenth of the leading digit to another."""
    return 1 if kind is int or not value else 10.0 ** (math.floor(math.log10(abs(value))) - 1)


def label(name: str) -> str:
    """A field's name for people; OpenAI's names (`n_layer`) stay as they are."""
    return name if name.startswith("n_") else name.replace("_", " ")


def shown(value: Any) -> str:
    """A value as a text control shows it."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def read(fields: Controls, values: Values) -> dict[str, Any]:
    """The values of controls by field name, without those that are empty. Of text controls they are text."""
    found = {name: values[component] for name, component in fields.items()}
    return {name: value for name, value in found.items() if shown(value).strip()}


def changed(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not the usual ones."""
    return {name: value for name, value in values.items() if shown(value).strip() != shown(usual[name])}


def spec(name: str, options: Mapping[str, Any]) -> str:
    """`NAME:key=value,key=value`, what `config.parse_spec` reads.

    >>> spec("top-p", {"p": 0.9})
    'top-p:p=0.9'
    """
    return name + ("" if not options else ":" + ",".join(f"{key}={value}" for key, value in options.items()))


class PartOptions:
    """Options of plugin parts of one kind: a group of controls for each part, of which the chosen part's is shown.

    Args:
        parts: part -> its options, fields of a pydantic class.
        chosen: the part that is chosen at first.
        prefix: what the elements' ids begin with, `PREFIX-PART-FIELD`.

    """

    def __init__(self, parts: Mapping[str, Mapping[str, FieldInfo]], chosen: str, *, prefix: str) -> None:
        self._parts = parts
        self._groups: dict[str, gr.Column] = {}
        self._controls: dict[str, Controls] = {}
        for name, fields in parts.items():
            with gr.Column(visible=name == chosen and bool(fields)) as self._groups[name]:
                self._controls[name] = controls(fields, prefix=f"{prefix}-{name}")

    @property
    def components(self) -> set[Component]:
        """All controls, for a handler's inputs."""
        return {component for fields in self._controls.values() for component in fields.values()}

    @property
    def groups(self) -> list[gr.Column]:
        """The groups, for a handler's outputs."""
        return list(self._groups.values())

    def show(self, chosen: str) -> list[gr.Column]:
        """Updates of `groups` after another part was chosen."""
        return [gr.Column(visible=name == chosen and bool(fields)) for name, fields in self._parts.items()]

    def changed(self, name: str, values: Values) -> dict[str, Any]:
        """The options of a part that are not its defaults."""
        usual = {key: field.default for key, field in self._parts[name].items()}
        return changed(read(self._controls[name], values), usual)
