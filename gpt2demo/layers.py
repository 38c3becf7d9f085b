"""Linear and Dropout, with faster paths on a CPU. The layers of the transformer are in `model.py`.

They subclass PyTorch's modules and are called as modules, so forward hooks, LoRA and quantization tools work with them.

Legend for shapes: B = batch, T = positions, in and out = the widths of a linear layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_ELEMENTS_PER_THREAD = 2**18 if torch.cpu.get_capabilities().get("amx_tile") else 2**15
"""Minimum elements of a matrix per thread for `linear` to split it. Measured on two cores: with AMX, PyTorch's own product is 8%
faster at width 256; without AMX, splitting takes 34% less time at width 256 and 45% less at width 768."""


FAST_BERNOULLI = "Intel" in torch.cpu.get_capabilities().get("cpu_name", "")
"""Whether PyTorch draws dropout masks fast on this CPU: with MKL, which it uses for that on Intel's CPUs only."""


class Linear(nn.Linear):
    """`nn.Linear` that uses all threads of a CPU for a single position and a large matrix."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Linear
        """Map (..., in) to (..., out)."""
        return linear(input, self.weight, self.bias)


class Dropout(nn.Dropout):
    """`nn.Dropout` that returns its input at once when nothing is dropped; then its hooks are not called either.

    Nine calls of modules that do nothing would be 2% of the time per token of a small model.
    """

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Dropout
        """Apply dropout while training; any shape."""
        if not (self.training and self.p):
            return input
        output: Tensor = super().__call__(input)
        return output

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Dropout
        """Apply dropout while training; any shape."""
        return drop(input, self.p) if self.training else input


def drop(x: Tensor, p: float) -> Tensor:
    """Set elements to zero with probability p, rounded to a multiple of 2⁻¹⁶, and scale the others to keep the expected value.

    Without MKL, PyTorch draws masks element by element on one thread, which takes 13% of a training step of the `seed` preset on
    one core, and more on several. Here, one draw of 64 bits is enough for four elements.

    Args:
        x: any shape.
        p: at least 0, below 1.
    """
    if not p or not x.is_cpu or FAST_BERNOULLI or torch.compiler.is_compiling():
        return F.dropout(x, p)
    dropped = min(round(p * 2**16), 2**16 - 1)  # of the 2¹⁶ values
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    values = draws.view(torch.int16)[: x.numel()].view(x.shape)  # uniform in [-2¹⁵, 2¹⁵)
    mask = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(values, dropped - 2**15, out=mask)
    return x * mask.mul_(2**16 / (2**16 - dropped))


def dropout_masks(p: float, device: torch.device) -> str:
    """Return what draws the masks of `drop`: `torch` or `gpt2demo`. The two draw different ones from the same seed."""
    return "torch" if not p or device.type != "cpu" or FAST_BERNOULLI else "gpt2demo"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x Wᵀ + b.

    Decoding one token at a time is limited by memory bandwidth, and PyTorch multiplies a matrix by a vector on one thread of a
    CPU. Therefore a large matrix is split by rows, one block per thread.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,).

    Returns:
        (..., out).
    """
    single_position = x.dim() == 3 and x.numel() == x.shape[-1]  # (1, 1, in)
    # torch.compile cannot trace get_num_threads(): it must not be reached while training.
    if torch.is_grad_enabled() or not x.is_cpu or not single_position:
        return F.linear(x, weight, bias)
    if type(weight) not in (Tensor, nn.Parameter):  # a quantized tensor, which cannot be split
        return F.linear(x, weight, bias)
    blocks = min(torch.get_num_threads(), weight.numel() // MIN_ELEMENTS_PER_THREAD)
    return F.linear(x, weight, bias) if blocks < 2 else _linear_by_blocks(x, weight, bias, blocks)


def _linear_by_blocks(x: Tensor, weight: Tensor, bias: Tensor | None, blocks: int) -> Tensor:
    """Compute x Wᵀ + b for a single position, (1, 1, in) -> (1, 1, out), as a batch of `blocks` products."""
    rows, columns = weight.shape
    if remainder := rows % blocks:
        y = torch.cat([_linear_by_blocks(x, weight[:-remainder], None, blocks), F.linear(x, weight[-remainder:])], dim=-1)
        return y if bias is None else y + bias
    matrices = weight.view(blocks, -1, columns).transpose(1, 2)  # (blocks, in, out / blocks)
    vectors = x.expand(blocks, 1, columns)
    y = torch.bmm(vectors, matrices) if bias is None else torch.baddbmm(bias.view(blocks, 1, -1), vectors, matrices)
    return y.view(1, 1, rows)
