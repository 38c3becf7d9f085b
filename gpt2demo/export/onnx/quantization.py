"""Quantize weights to 8 or 4 bits, in blocks with one scale each, in the layout of onnxruntime's `MatMulNBits`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import SettingError

BLOCKS = {8: (128, 64, 32, 16), 4: (32, 16)}
"""Block sizes by bits; the first that divides the row length is used. Larger blocks are faster, smaller ones more accurate."""


@dataclass(frozen=True)
class Quantized:
    """A matrix (rows, columns) quantized in blocks along each row: w ≈ (q - 2^(bits-1)) · scale.

    Attributes:
        blocks: (rows, columns / block, bytes per block) uint8; with 4 bits two values per byte, the first in the low half.
        scales: (rows, columns / block) float32.
        bits: 8 or 4.
        block: values per block.
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
        """Dtype of the stored values."""
        return self.blocks.dtype

    def restored(self) -> npt.NDArray[np.float32]:
        """Return the values that the integers stand for, (rows, columns)."""
        integers = self.blocks if self.bits == 8 else np.stack([self.blocks & 15, self.blocks >> 4], -1)
        values = integers.reshape(*self.scales.shape, self.block).astype(np.float32)
        values -= np.float32(2 ** (self.bits - 1))
        values *= self.scales[..., None]
        return values.reshape(self.shape)


def quantize(matrix: npt.NDArray[np.float32], bits: int) -> Quantized:
    """Round a matrix to blocks of `bits`-bit integers, symmetric around zero.

    The value of largest magnitude in a block is represented exactly: it maps to the lowest integer, and the range has one more
    negative integer than positive ones.

    Raises:
        SettingError: the row length is not divisible into blocks.
    """
    rows, columns = matrix.shape
    block = next((size for size in BLOCKS[bits] if columns % size == 0), None)
    if block is None:
        raise SettingError(
            f"a width of {columns} is not divisible by {BLOCKS[bits][-1]}, as {bits} bits need; export fp32 or fp16"
        )
    middle = 2 ** (bits - 1)
    split = matrix.reshape(rows, columns // block, block)
    extreme = np.take_along_axis(split, np.abs(split).argmax(axis=-1, keepdims=True), axis=-1)  # (rows, blocks, 1)
    scales = np.where(extreme == 0, 1, extreme / -middle).astype(np.float32)
    values = split / scales
    np.rint(values, out=values)  # in place: a token embedding may be a third of the model
    values += middle
    np.clip(values, 0, 2 * middle - 1, out=values)
    integers: npt.NDArray[np.uint8] = values.astype(np.uint8)
    blocks = integers if bits == 8 else integers[..., ::2] | (integers[..., 1::2] << np.uint8(4))
    return Quantized(blocks, scales[..., 0], bits, block)
