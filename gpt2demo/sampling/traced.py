"""Sampler options that are numbers in eager execution and tensors while a graph is traced, where they are inputs."""

from __future__ import annotations

from typing import Any, TypeVar

Number = TypeVar("Number", int, float)


def is_traced(option: Any) -> bool:
    """Return whether an option is a tensor that stands for an input of the traced graph; no branch may depend on its value."""
    return not isinstance(option, float | int)


def at_least(limit: Number, option: Number) -> Number:
    """Return the maximum of the two."""
    clamped: Any = option
    return clamped.clamp(min=limit) if is_traced(option) else max(limit, option)


def at_most(limit: Number, option: Number) -> Number:
    """Return the minimum of the two."""
    clamped: Any = option
    return clamped.clamp(max=limit) if is_traced(option) else min(limit, option)
