"""GPT-2: ids in, logits out, with an optional key/value cache. No optimizer, no sampling, no weight files.

The model of Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.3: the decoder of Vaswani et
al., "Attention Is All You Need" (2017), with layer norms at the inputs of the sub-blocks, learned position embeddings, the tanh
form of GELU, and an output head that shares its weights with the token embedding.

Parameter names follow OpenAI's released code, so weights map one to one: `wte` and `wpe` are the token and position embeddings,
`h` the layers, `c_attn` the query, key and value projections, `c_fc` and `c_proj` further projections, `ln_*` layer norms.
Matrices are (out, in) as in `nn.Linear`; OpenAI stores them (in, out), and `runs/weights.py` transposes them.

Legend for shapes: B = batch, T = new positions, S = all positions (cached and new), C = width (n_embd), H = heads,
D = width of a head (C / H), V = vocabulary.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gpt2demo.config import ModelConfig
from gpt2demo.layers import Dropout, Linear, drop, linear


class Cache(Protocol):
    """Keys and values of the positions read so far, for every layer; `engines/cache.py` implements it."""

    length: int
    """Number of positions read before this forward pass."""

    def update(self, layer: int, keys_values: Tensor) -> Tensor:
        """Append one layer's keys and values, (2, B, H, T, D); return all of them, (2, B, H, S, D)."""
        ...

    def advance(self, count: int) -> None:
        """Advance `length` by `count`; called once, at the end of a forward pass."""
        ...


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)  # query, key and value in one product
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.attn_dropout = config.dropout
        self.resid_dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Attend to all earlier positions: (B, T, C) -> (B, T, C). `mask` as in `attention_weights`."""
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        query, keys_values = qkv[0], qkv[1:]
        key, value = keys_values if cache is None else cache.update(self.layer, keys_values)  # (B, H, S, D) each
        y = attend(query, key, value, mask, self.attn_dropout if self.training else 0.0)  # (B, H, T, D)
        out: Tensor = self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))
        return out


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute softmax(q kᵀ / √D + mask): how much each new position attends to each position.

    Args:
        query: (B, H, T, D).
        key: (B, H, S, D).
        mask: (T, S) or (B, 1, T, S), 0 where a position may attend and -inf where not; causal if omitted.

    Returns:
        (B, H, T, S); each row sums to 1.
    """
    T, S = query.shape[2], key.shape[2]
    if mask is None:
        mask = causal_mask(T, S - T, query.device)
    scale = 1 / math.sqrt(query.shape[-1])
    scores = (query * scale) @ key.transpose(-2, -1)  # (B, H, T, S); scaling q takes fewer products than scaling the scores
    return torch.softmax(scores + mask, dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Compute softmax(q kᵀ / √D + mask) v (Vaswani et al. 2017, equation 1).

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        mask: as in `attention_weights`; if omitted, T must be 1 or S.
        dropout: probability of dropping an attention weight.

    Returns:
        (B, H, T, D).
    """
    if torch.is_grad_enabled() and query.device.type == "cpu":
        # On a CPU, plain operators train a third faster in bf16: the fused kernel's backward pass is slow.
        return drop(attention_weights(query, key, mask), dropout) @ value
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=mask is None and query.shape[2] > 1)


class MLP(nn.Module):
    """Two linear layers with a GELU between them and a hidden width of 4 C."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position alone: (B, T, C) -> (B, T, C)."""
        x = F.gelu(self.c_fc(x), approximate="tanh")  # GPT-2 uses the tanh form; the exact one differs by up to 5e-4
        out: Tensor = self.dropout(self.c_proj(x))
        return out


class Block(nn.Module):
    """One layer: attention, then MLP. Each reads the normalized residual stream and adds its output to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Return the residual stream after this layer: (B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x), mask, cache)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT2(nn.Module):
    """The model: embeddings, layers, and the output head. Initial weights are drawn from torch's global generator.

    Args:
        config: its shape.

    Attributes:
        checkpoint_activations: while training, store the input of each layer instead of its activations, and compute these again
            in the backward pass (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016). The gradients are the same.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # also the output head
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """Draw matrices from a normal distribution with standard deviation `initializer_range`, and set biases to 0.

        Position embeddings have half of it, as in OpenAI's code. Projections into the residual stream are scaled by 1/√N, where N
        counts the two additions of each layer (Radford et al. 2019, section 2.3). OpenAI's 0.02 suits widths of 768 and more; a
        narrow model learns faster from a larger value. Layer norms keep PyTorch's initial weights, 1 and 0.
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
        """Compute the logits of the token after each new position.

        Args:
            ids: (B, T) int64, new tokens after those in the cache.
            cache: keys and values of earlier tokens; grows by T.
            last_only: compute the logits of the last position only, which is much cheaper when T is large.
            positions: (B, T) or (T,) int64; if omitted, they follow those in the cache.
            mask: (B, 1, T, S) of 0 and -inf; causal if omitted.

        Returns:
            (B, T, V), or (B, 1, V) with `last_only`.

        Raises:
            ValueError: `positions` is omitted, and cached and new positions together exceed `n_positions`.
        """
        T = ids.shape[1]
        past = cache.length if cache is not None else 0
        if positions is None:
            if past + T > self.config.n_positions:
                raise ValueError(f"{past + T} positions are more than n_positions={self.config.n_positions}")
            positions = torch.arange(past, past + T, device=ids.device)
        if mask is None and past and T > 1:  # `attend` is causal by itself only if T is 1 or S
            mask = causal_mask(T, past, ids.device).to(self.wte.weight.dtype)
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, C), the residual stream
        recompute = self.checkpoint_activations and self.training and cache is None
        for block in self.h:
            x = checkpoint(block, x, mask, use_reentrant=False) if recompute else block(x, mask, cache)
        if cache is not None:
            cache.advance(T)
        x = self.ln_f(x[:, -1:] if last_only else x)
        return linear(x, self.wte.weight)  # (B, T, V), or (B, 1, V) with last_only


def causal_mask(count: int, past: int, device: torch.device) -> Tensor:
    """Return (count, past + count) float32 of 0 and -inf: new position i attends to everything up to past + i."""
    return torch.full((count, past + count), float("-inf"), device=device).triu(past + 1)  # 0 below the diagonal
