"""Refuse to export values that are too large for a dtype: float16 has no finite value above 65504.

Values that are too small become zero or lose digits, which the comparison with the original measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gpt2demo.errors import ExportError
from gpt2demo.model import GPT2


def check_weights(model: GPT2, dtype: torch.dtype, alternatives: str) -> None:
    """Check that every weight of a model stays finite in another dtype.

    Args:
        model: its weights are float32.
        dtype: the dtype of the export.
        alternatives: values of `--dtype` with a larger range, for the message.

    Raises:
        ExportError: a weight is too large; the message names it.
    """
    for name, tensor in model.state_dict().items():
        _check(f"the weight {name}", tensor, dtype, alternatives)


@contextmanager
def activations_within(model: GPT2, dtype: torch.dtype, alternatives: str) -> Iterator[None]:
    """Check the input and output of every module whenever a float32 model runs in the block. Arguments as in `check_weights`.

    Running the float16 graph would not find all of them: on a CPU, onnxruntime computes it mostly in float32.

    Raises:
        ExportError: an activation is too large; the message names its module.
    """

    def check(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        for tensor in (*inputs, output):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                _check(f"an activation of {names[module]}", tensor, dtype, alternatives)

    names = {module: name or "the output head" for name, module in model.named_modules()}
    hooks = [module.register_forward_hook(check) for module in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_logits(logits: Tensor) -> None:
    """Check the logits of the original model.

    Raises:
        ExportError: one is NaN or infinite.
    """
    if not _largest(logits).isfinite():
        raise ExportError("the logits of the model are not finite; its weights are too large, or its training diverged")


def _check(what: str, tensor: Tensor, dtype: torch.dtype, alternatives: str) -> None:
    largest = _largest(tensor)
    if not largest.to(dtype).isfinite():
        limit = f"the largest finite value is {torch.finfo(dtype).max:.5g}"
        raise ExportError(f"{what} reaches {float(largest):.3g}, and {limit}; export {alternatives}")


def _largest(tensor: Tensor) -> Tensor:
    """Return the largest magnitude, without a copy of the tensor; NaN if it contains one."""
    return torch.stack(torch.aminmax(tensor)).abs().max()
