"""GPT-2: ids in, logits out, with an optional key/value cache. No optimizer, no sampling, no weight files.

The model of Radford et al., "Language Models are Unsupervised Multitask Learners" (2019): the decoder of "Attention is all you
need" (Vaswani et al. 2017) with layer norms at the inputs of the sub-blocks (section 2.3), learned positions, the tanh form of
GELU, and a head that shares its weights with the token embedding. Parameters have the names of OpenAI's released code (`wte`,
`c_attn`, `ln_f`), so weights map one to one. Matrices are (out, in) as in `nn.Linear`; OpenAI stores them (in, out), and
`runs/weights.py` transposes them.

Legend for shapes: B = batch, T = new positions, S = all positions (cached and new), C = width (n_embd), H = heads,
D = width of a head (C / H), V = vocabulary.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2demo.config import ModelConfig
from gpt2demo.layers import Dropout, Linear, linear


class Cache(Protocol):
    """Keys and values of the positions read so far, for every layer; `engines/cache.py` has one."""

    length: int
    """Positions read before this forward pass."""

    def update(self, layer: int, keys_values: Tensor) -> Tensor:
        """Append one layer's keys and values, (2, B, H, T, D); return all of them, (2, B, H, S, D)."""
        ...

    def advance(self, count: int) -> None:
        """Count `count` new positions; called once at the end of a forward pass."""
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
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        query, keys_values = qkv[0], qkv[1:]
        key, value = keys_values if cache is None else cache.update(self.layer, keys_values)  # (B, H, S, D)
        y = attend(query, key, value, mask, self.attn_dropout if self.training else 0.0)  # (B, H, T, D)
        out: Tensor = self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))
        return out


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute softmax(q kᵀ / √D + mask), how much each position attends to each other one.

    Args:
        query: (B, H, T, D).
        key: (B, H, S, D).
        mask: (T, S) or (B, 1, T, S), 0 where a position may attend and -inf where not; causal when left out.

    Returns:
        (B, H, T, S); each row sums to 1.
    """
    T, S = query.shape[2], key.shape[2]
    if mask is None:
        mask = causal_mask(T, S - T, query.device)
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)  # (B, H, T, S)
    return torch.softmax(scores + mask, dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Compute softmax(q kᵀ / √D + mask) v (Vaswani et al. 2017, equation 1).

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        mask: as in `attention_weights`; when left out, T is 1 or S.
        dropout: probability of dropping an attention weight.

    Returns:
        (B, H, T, D).
    """
    if torch.is_grad_enabled() and query.device.type == "cpu":
        # Plain operators train faster on a CPU than the fused kernel, whose backward pass is slow in bf16 (by a third).
        return F.dropout(attention_weights(query, key, mask), dropout) @ value
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=mask is None and query.shape[2] > 1)


class MLP(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = F.gelu(self.c_fc(x), approximate="tanh")  # GPT-2 uses the tanh form; the exact one differs by up to 5e-4
        out: Tensor = self.dropout(self.c_proj(x))
        return out


class Block(nn.Module):
    """One layer: attention, then MLP, each on a normalised input and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x), mask, cache)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT2(nn.Module):
    """The whole model.

    Args:
        config: its shape. Weights are drawn from torch's global generator, as in OpenAI's code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # also the head
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draw weights from Normal(0, initializer_range), positions from half of it; set biases to 0.

        Projections into the residual stream are scaled by 1/√N, where N counts the two additions of each layer (section 2.3).
        The paper's 0.02 suits widths of 768 and more; a narrow model learns faster from a larger value.
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
        """Compute the logits of the next token.

        Args:
            ids: (B, T) int64, new tokens after those in the cache.
            cache: keys and values of earlier tokens; grows by T.
            last_only: compute the logits of the last position only, which is much cheaper when T is large.
            positions: (B, T) or (T,) int64; when left out, they follow those in the cache.
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
        if mask is None and past and T > 1:
            mask = causal_mask(T, past, ids.device).to(self.wte.weight.dtype)
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, C), the residual stream
        for block in self.h:
            x = block(x, mask, cache)
        if cache is not None:
            cache.advance(T)
        x = self.ln_f(x[:, -1:] if last_only else x)
        return linear(x, self.wte.weight)  # (B, T, V)


def causal_mask(count: int, past: int, device: torch.device) -> Tensor:
    """Return (count, past + count) float32 of 0 and -inf: new position i attends to everything up to past + i."""
    return torch.full((count, past + count), float("-inf"), device=device).triu(past + 1)
