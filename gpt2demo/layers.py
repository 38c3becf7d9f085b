"""Layers that are faster than PyTorch's on a CPU: a linear layer and a dropout.

They subclass PyTorch's modules and are called as modules, so forward hooks, LoRA and quantisation tools work with them.

Legend for shapes: B = batch, T = positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ELEMENTS_PER_THREAD = 2**18 if torch.cpu.get_capabilities().get("amx_tile") else 2**15
"""Minimum elements of a matrix per thread. On two cores with AMX, PyTorch's own product is 8 % faster below 2**19 elements (width
256); on two cores without AMX, cutting takes 0.66 of the time at width 256 and 0.55 at width 768."""


class Linear(nn.Linear):
    """`nn.Linear` that reads a large matrix with all threads when a single position is computed on a CPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Linear
        """(B, T, in) -> (B, T, out)."""
        return linear(input, self.weight, self.bias)


class Dropout(nn.Dropout):
    """`nn.Dropout` that is not even called when nothing is dropped: nine calls are 2 % of a small model's token."""

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Dropout
        """Zero elements with probability `p` while training; any shape."""
        if not (self.training and self.p):
            return input
        output: Tensor = super().__call__(input)
        return output


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x Wᵀ + b.

    PyTorch multiplies a matrix and a vector on one thread of a CPU. For a single position, decoding takes as long as reading
    the weights, so a large matrix is cut into one part of rows for each thread.

    Args:
        x: (B, T, in).
        weight: (out, in).
        bias: (out,).

    Returns:
        (B, T, out).
    """
    # Gradients and the device are checked first: torch.compile cannot trace get_num_threads().
    if torch.is_grad_enabled() or not x.is_cpu or x.numel() > x.shape[-1]:
        return F.linear(x, weight, bias)
    if type(weight) not in (Tensor, nn.Parameter):  # a quantised tensor, which has no views
        return F.linear(x, weight, bias)
    threads = min(torch.get_num_threads(), weight.numel() // ELEMENTS_PER_THREAD)
    return F.linear(x, weight, bias) if threads < 2 else _linear_by_parts(x, weight, bias, threads)


def _linear_by_parts(x: Tensor, weight: Tensor, bias: Tensor | None, parts: int) -> Tensor:
    """Compute x Wᵀ + b for one position, (1, 1, in) -> (1, 1, out), as a batch of `parts` products."""
    rows, columns = weight.shape
    if over := rows % parts:
        halves = [_linear_by_parts(x, weight[:-over], None, parts), F.linear(x, weight[-over:])]
        y = torch.cat(halves, dim=-1)
        return y if bias is None else y + bias
    matrices = weight.view(parts, -1, columns).transpose(1, 2)  # (parts, in, out / parts)
    copies = x.expand(parts, 1, columns)
    y = torch.bmm(copies, matrices) if bias is None else torch.baddbmm(bias.view(parts, 1, -1), copies, matrices)
    return y.view(1, 1, rows)
