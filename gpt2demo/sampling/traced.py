"""Options that are numbers when a sampler runs, and tensors while it is traced: in an ONNX graph they are inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 3.4028234663852886e38  # of float32
Number = TypeVar("Number", int, float)


def is_traced(option: Any) -> bool:
    """Whether an option stands for an input of the graph that is being traced; then no branch may depend on it."""
    return not isinstance(option, float | int)


def at_least(limit: Number, option: Number) -> Number:
    """The larger of the two."""
    clamped: Any = option
    return clamped.clamp(min=limit) if is_traced(option) else max(limit, option)


def at_most(limit: Number, option: Number) -> Number:
    """The smaller of the two."""
    clamped: Any = option
    return clamped.clamp(max=limit) if is_traced(option) else min(limit, option)


def drawable(logits: Tensor) -> bool:
    """Whether each row of (B, V) has a finite entry, and none that is NaN or +inf."""
    return all(map(math.isfinite, logits.amax(dim=-1).tolist()))  # amax carries NaN and +inf through; all -inf gives -inf
