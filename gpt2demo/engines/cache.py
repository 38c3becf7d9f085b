"""A key/value cache for the PyTorch model, allocated once for the whole context."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2demo.config import ModelConfig


class KeyValueCache:
    """A cache in one preallocated block, so a token allocates nothing and copies only its own keys and values.

    Args:
        config: the model's shape.
        batch: number of rows.
        like: a tensor whose device and dtype the cache uses.

    Attributes:
        layers: (2, B, H, n_positions, D) of each layer, initially zero.
        length: number of positions read before this forward pass.
    """

    def __init__(self, config: ModelConfig, batch: int, like: Tensor) -> None:
        head_dim = config.n_embd // config.n_head
        shape = (config.n_layer, 2, batch, config.n_head, config.n_positions, head_dim)
        block = torch.zeros(shape, dtype=like.dtype, device=like.device)  # `like` may be one process's part of a sharded weight
        self.layers: list[Tensor] = list(block)  # views
        self.length = 0

    def update(self, layer: int, keys_values: Tensor) -> Tensor:
        """Write after the positions already there; return a view of all of them."""
        block = self.layers[layer]
        count = keys_values.shape[3]
        block.narrow(3, self.length, count).copy_(keys_values)
        return block.narrow(3, 0, self.length + count)

    def advance(self, count: int) -> None:
        """Count the positions of a finished forward pass."""
        self.length += count
