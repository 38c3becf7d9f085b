"""The parts of a model: every tensor with its shape, size, work for a token, and where it stands in the code."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from functools import cache

import torch

from gpt2demo import model as code
from gpt2demo.config import ModelConfig
from gpt2demo.model import GPT2
from gpt2demo.runs.weights import meta_model


@dataclass(frozen=True)
class Part:
    """A tensor of the model.

    Attributes:
        name: its name, as in the checkpoint.
        shape: its dimensions.
        parameters: number of its elements.
        bytes: its size in float32.
        flops: operations for one token: 2 for each element of a matrix, 1 for each bias and scale; 0 for embeddings.
        line: of `gpt2demo/model.py`, where it is created.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    bytes: int
    flops: int
    line: int


@dataclass(frozen=True)
class Anatomy:
    """All parts in the order in which a token passes them.

    Attributes:
        parts: the tensors. The output layer is `wte` again and has no entry of its own.
        head_flops: operations of the output layer for one token.
        attention_flops: operations of the attention itself for one token at a full context, all layers together.
    """

    parts: list[Part]
    head_flops: int
    attention_flops: int


def anatomy(config: ModelConfig) -> Anatomy:
    """Return the parts of a model of this shape."""
    model = meta_model(config)
    return Anatomy(
        parts=[_part(model, name, tensor) for name, tensor in model.state_dict().items()],
        head_flops=2 * config.vocab_size * config.n_embd,
        attention_flops=4 * config.n_layer * config.n_positions * config.n_embd,  # q kᵀ and the mixture of the values
    )


def _part(model: GPT2, name: str, tensor: torch.Tensor) -> Part:
    path, _, _ = name.rpartition(".")
    parent, _, attribute = path.rpartition(".")
    owner = type(model.get_submodule(parent)).__name__
    elements = tensor.numel()
    operations = 0 if owner == "GPT2" and attribute != "ln_f" else elements * tensor.dim()
    return Part(name, tuple(tensor.shape), elements, 4 * elements, operations, lines()[owner, attribute])


@cache
def lines() -> dict[tuple[str, str], int]:
    """Return the lines of `model.py` that create the modules, by class and attribute."""
    found = {}
    for owner in (node for node in ast.parse(inspect.getsource(code)).body if isinstance(node, ast.ClassDef)):
        for node in ast.walk(owner):
            if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Attribute):
                found[owner.name, target.attr] = node.lineno
    return found
