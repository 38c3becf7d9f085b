"""GPT-2: ids in, logits out, with an optional key/value cache. Nothing else: no optimizer, no sampling, no weight files.

The model of Radford et al., "Language Models are Unsupervised Multitask Learners" (2019): the decoder of "Attention is all you
need" with the layer norms moved to the inputs of the sub-blocks (section 2.3), learned positions, the tanh form of GELU and a
head that shares its weights with the token embedding. Parameters carry the names of OpenAI's released code (`wte`, `c_attn`,
`ln_f`), so that weights map one to one. Matrices are `nn.Linear` (out, in); OpenAI stores them (in, out): `weights.py`
transposes.

Legend for shapes: B = batch, T = new positions, S = all positions seen (cached and new), C = width (n_embd),
H = heads, D = width of one head (C / H), V = vocabulary.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2demo.config import ModelConfig

PART = 2**15
"""Numbers of a matrix that are worth a thread's while."""


class Cache(Protocol):
    """Keys and values of the positions already read, for every layer."""

    length: int
    """Positions read before this forward pass."""

    def update(self, layer: int, keys_values: Tensor) -> Tensor:
        """Append one layer's keys and values, (2, B, H, T, D); give all of them, (2, B, H, S, D)."""
        ...

    def advance(self, count: int) -> None:
        """Called once at the end of a forward pass that read `count` positions."""
        ...


class KeyValueCache:
    """A cache in one block of memory that is allocated once: nothing is copied or allocated per token.

    Args:
        config: the model's shape.
        batch: rows.
        like: a tensor whose device and dtype the cache takes.
    """

    def __init__(self, config: ModelConfig, batch: int, like: Tensor) -> None:
        head_dim = config.n_embd // config.n_head
        self._block = like.new_empty(config.n_layer, 2, batch, config.n_head, config.n_positions, head_dim)
        self.length = 0

    def update(self, layer: int, keys_values: Tensor) -> Tensor:
        """Write behind the positions already there; give a view of all of them."""
        block = self._block[layer]
        count = keys_values.shape[3]
        block.narrow(3, self.length, count).copy_(keys_values)
        return block.narrow(3, 0, self.length + count)

    def advance(self, count: int) -> None:
        """Count the positions of a finished pass."""
        self.length += count


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # query, key and value in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.dropout = config.dropout

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        heads = linear(x, self.c_attn.weight, self.c_attn.bias).view(B, T, 3, self.n_head, C // self.n_head)
        heads = heads.permute(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        if cache is None:
            query, key, value = heads
        else:
            query, (key, value) = heads[0], cache.update(self.layer, heads[1:])  # (B, H, T, D) and (B, H, S, D) twice
        y = attend(query, key, value, mask, self.dropout if self.training else 0.0)
        y = y.transpose(1, 2).reshape(B, T, C)
        return drop(linear(y, self.c_proj.weight, self.c_proj.bias), self.dropout if self.training else 0.0)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """softmax(q kᵀ / √D + mask) v (Vaswani et al. 2017, equation 1).

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        mask: (T, S) or (B, 1, T, S), 0 where a position may look and -inf where not; None is causal, with T = 1 or T = S.
        dropout: probability of dropping an attention weight.

    Returns:
        (B, H, T, D).
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=mask is None and query.shape[2] > 1)
    # On the CPU the plain steps train faster than PyTorch's fused kernel: in bf16 by a third, its backward pass is slow.
    weights = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)  # (B, H, T, S)
    if mask is not None:
        weights = weights + mask
    return drop(torch.softmax(weights, dim=-1), dropout) @ value


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product x Wᵀ + b; for a single position a CPU reads a large matrix with all threads.

    PyTorch's product of a matrix and a vector runs on one thread, and the time of a token is that of reading the weights: a batch
    of one part of the rows for each thread takes two thirds of it on two threads.

    Args:
        x: (B, T, in).
        weight: (out, in).
        bias: (out,).

    Returns:
        (B, T, out).
    """
    rows, columns = weight.shape
    threads = min(torch.get_num_threads(), weight.numel() // PART)
    if threads < 2 or x.device.type != "cpu" or torch.is_grad_enabled() or x.numel() > columns:
        return F.linear(x, weight, bias)
    if over := rows % threads:
        parts = linear(x, weight[:-over]), F.linear(x, weight[-over:])
        return torch.cat(parts, dim=-1) if bias is None else torch.cat(parts, dim=-1) + bias
    shares = weight.view(threads, -1, columns).transpose(1, 2)  # (threads, in, out / threads)
    copies = x.expand(threads, 1, columns)
    y = torch.bmm(copies, shares) if bias is None else torch.baddbmm(bias.view(threads, 1, -1), copies, shares)
    return y.view(1, 1, rows)


def drop(x: Tensor, probability: float) -> Tensor:
    """Dropout. Where there is none, not even the call: twelve of them would be a thirtieth of a small model's token."""
    return F.dropout(x, probability) if probability else x


class MLP(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = linear(x, self.c_fc.weight, self.c_fc.bias)
        x = F.gelu(x, approximate="tanh")  # the tanh form is GPT-2's; the exact one differs by up to 5e-4
        return drop(linear(x, self.c_proj.weight, self.c_proj.bias), self.dropout if self.training else 0.0)


class Block(nn.Module):
    """One layer: attention, then MLP, each on a normed input and added to the stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x), mask, cache)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT2(nn.Module):
    """The whole model.

    Args:
        config: its shape. Weights are drawn from torch's global generator as OpenAI's code does.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # also the head
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Normal(0, 0.02), positions half of that, biases 0; projections into the stream scaled by 1/√(2·n_layer).

        Section 2.3 of the paper scales "the weights of residual layers" by 1/√N; N counts two additions to the stream per
        layer. 0.02 suits the paper's widths of 768 and more; a narrow model learns faster from a larger start.
        """
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * self.config.n_layer))
            elif name == "wpe.weight":
                nn.init.normal_(parameter, std=std / 2)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)

    def forward(
        self,
        ids: Tensor,
        cache: Cache | None = None,
        *,
        last_only: bool = False,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of the next token.

        Args:
            ids: (B, T) int64, further tokens behind those in the cache.
            cache: keys and values of the tokens before; grows by T.
            last_only: give the logits of the last position alone; much cheaper when T is large.
            positions: (B, T) or (T,) int64; counts on from the cache when left out.
            mask: (B, 1, T, S) of 0 and -inf; causal when left out.

        Returns:
            (B, T, V), or (B, 1, V) with `last_only`.

        Raises:
            ValueError: there are more positions than the model has.
        """
        T = ids.shape[1]
        past = cache.length if cache is not None else 0
        if positions is None:
            if past + T > self.config.n_positions:
                raise ValueError(f"{past + T} positions are more than n_positions={self.config.n_positions}")
            positions = torch.arange(past, past + T, device=ids.device)
        if mask is None and T > 1 and (past or ids.device.type == "cpu"):
            mask = causal_mask(T, past, self.wte.weight)
        x = self.wte(ids) + self.wpe(positions)  # (B, T, C)
        x = drop(x, self.config.dropout if self.training else 0.0)
        for block in self.h:
            x = block(x, mask, cache)
        if cache is not None:
            cache.advance(T)
        x = self.ln_f(x[:, -1:] if last_only else x)
        return linear(x, self.wte.weight)  # (B, T, V)


def causal_mask(count: int, past: int, like: Tensor) -> Tensor:
    """(count, past + count) of 0 and -inf: new position i looks at everything up to past + i."""
    mask = like.new_full((count, past + count), float("-inf"))
    return mask.triu(past + 1)
