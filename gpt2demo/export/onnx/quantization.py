"""Weights in 8 or 4 bits, in blocks with a scale each, as onnxruntime's `MatMulNBits` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import SettingError

BLOCKS = {8: (128, 64, 32, 16), 4: (32, 16)}
"""Sizes of a block by bits, the first that divides a row is taken: large ones are faster, small ones more exact."""


@dataclass(frozen=True)
class Quantized:
    """A matrix (rows, columns) in blocks along its columns: w ≈ (q - 2^(bits-1)) · scale.

    Attributes:
        blocks: (rows, columns / block, bytes of a block) uint8; with 4 bits two numbers a byte, the earlier one in the low half.
        scales: (rows, columns / block) float32.
        bits: 8 or 4.
        block: numbers in a block.
    """

    blocks: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    bits: int
    block: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.scales.shape[0], self.scales.shape[1] * self.block

    @property
    def dtype(self) -> np.dtype[Any]:
        """How its numbers are stored."""
        return self.blocks.dtype


def quantize(matrix: npt.NDArray[np.float32], bits: int) -> Quantized:
    """Round a matrix to blocks of `bits`-bit numbers, symmetric around zero.

    The number of largest magnitude in a block is met exactly: it becomes the lowest of the range, which is one longer there.

    Raises:
        SettingError: the rows cannot be cut into blocks.
    """
    rows, columns = matrix.shape
    block = next((size for size in BLOCKS[bits] if columns % size == 0), None)
    if block is None:
        raise SettingError(f"a width of {columns} is not divisible by {BLOCKS[bits][-1]}, as {bits} bits need; export fp32")
    middle = 2 ** (bits - 1)
    cut = matrix.reshape(rows, columns // block, block)
    extreme = np.take_along_axis(cut, np.abs(cut).argmax(axis=-1, keepdims=True), axis=-1)  # (rows, blocks, 1)
    scales = np.where(extreme == 0, 1, extreme / -middle).astype(np.float32)
    numbers = np.clip(np.rint(cut / scales) + middle, 0, 2 * middle - 1).astype(np.uint8)
    if bits == 4:
        numbers = numbers[..., ::2] | (numbers[..., 1::2] << 4)
    return Quantized(numbers, scales[..., 0], bits, block)
