"""Record what happens inside a model while it reads a text: the residual stream, queries, keys and attention.

The text is read by a twin, a new module that shares the model's weights. Only the twin has hooks. Therefore several threads can
trace a model at the same time, also while it generates or trains.

Legend for shapes: T = positions, L = layers, H = heads, C = width, D = width of a head, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2demo.config import ModelConfig
from gpt2demo.errors import Error, SettingError
from gpt2demo.model import GPT2, Block, attention_weights
from gpt2demo.runs.weights import meta_model, with_weights

TOLERANCE = 1e-3
"""Largest difference, relative to the largest value, that the check of a trace accepts. Rounding causes 1e-6."""


@dataclass(frozen=True)
class Trace:
    """A recorded forward pass.

    Attributes:
        model: a twin of the model, see `twin`.
        ids: (T,) int64.
        stream: (L + 1, T, C) the residual stream: the embeddings, then after each layer.
        qkv: for each layer (T, 3 C), queries, keys and values side by side.
        logits: (T, V) of the token after each position.
    """

    model: GPT2
    ids: Tensor
    stream: Tensor
    qkv: tuple[Tensor, ...]
    logits: Tensor

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    def attention(self, layer: int) -> Tensor:
        """Return how much each position attends to each in one layer: (H, T, T), 0 above the diagonal; rows sum to 1."""
        query, key, _ = self._heads(layer)
        return attention_weights(query[None], key[None])[0]

    def _heads(self, layer: int) -> Tensor:
        """Return queries, keys and values of one layer: (3, H, T, D)."""
        T, H = len(self.ids), self.config.n_head
        return self.qkv[layer].view(T, 3, H, -1).permute(1, 2, 0, 3)

    def attention_output(self, layer: int) -> Tensor:
        """Compute from the recorded parts what the attention of one layer adds to the stream: (T, C)."""
        mixed = self.attention(layer) @ self._heads(layer)[2]  # (H, T, D)
        output: Tensor = blocks(self.model)[layer].attn.c_proj(mixed.transpose(0, 1).flatten(1))
        return output


@torch.no_grad()
def trace(model: GPT2, ids: Sequence[int]) -> Trace:
    """Read a text and record the pass. The record is checked against what the layers have written to the stream.

    Args:
        model: the model; it is not changed.
        ids: the text, from 1 to `n_positions` tokens.

    Raises:
        SettingError: there are no tokens, or more than the context holds.
        Error: the record does not agree with the model.
    """
    if not 1 <= len(ids) <= model.config.n_positions:
        raise SettingError(f"{len(ids)} tokens: the model reads from 1 to {model.config.n_positions} at once")
    copy = twin(model)
    stream: list[Tensor] = []
    qkv: list[Tensor] = []
    written: list[Tensor] = []
    for block in blocks(copy):
        block.register_forward_pre_hook(lambda module, inputs: stream.append(inputs[0][0]))
        block.attn.c_attn.register_forward_hook(lambda module, inputs, output: qkv.append(output[0]))
        block.attn.register_forward_hook(lambda module, inputs, output: written.append(output[0]))
    copy.ln_f.register_forward_pre_hook(lambda module, inputs: stream.append(inputs[0][0]))
    row = torch.tensor([list(ids)], device=model.wte.weight.device)
    logits = copy(row)[0].float()
    found = Trace(twin(model), row[0], torch.stack(stream), tuple(qkv), logits)
    for layer, output in enumerate(written):
        _check(layer, found.attention_output(layer), output)
    return found


def blocks(model: GPT2) -> list[Block]:
    """Return the layers of a model."""
    return [block for block in model.h if isinstance(block, Block)]


def twin(model: GPT2) -> GPT2:
    """Return a model in evaluation mode that shares the weights of another, without its hooks."""
    return with_weights(meta_model(model.config), model.state_dict(), "the model")


def _check(layer: int, computed: Tensor, written: Tensor) -> None:
    """Raise an Error if the attention that is shown is not the one that the model computed."""
    difference = float((computed - written).abs().max() / written.abs().max().clamp(min=1e-6))
    if not difference <= TOLERANCE:
        raise Error(f"layer {layer}: the recorded attention differs from the model's by {difference:.1e} (a bug)")
