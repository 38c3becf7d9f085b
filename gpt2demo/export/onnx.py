"""Writes model.onnx and the folder around it.

The graph has the names and axes that Optimum, onnxruntime-genai and transformers.js look for:

    input_ids                    int64   batch_size, sequence_length
    attention_mask               int64   batch_size, past_sequence_length + sequence_length
    position_ids                 int64   batch_size, sequence_length
    past_key_values.N.key|value  float   batch_size, n_head, past_sequence_length, head_dim
    logits                       float   batch_size, sequence_length, vocab_size
    present.N.key|value          float   batch_size, n_head, past_sequence_length + sequence_length, head_dim
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from gpt2demo.checkpoint import load_tokenizer, write_tokenizer_json
from gpt2demo.config import ModelConfig
from gpt2demo.engines.onnx import CERTIFICATE, FORMAT, MODEL, cache_names
from gpt2demo.errors import ExportError
from gpt2demo.export.certificate import prove
from gpt2demo.export.genai import genai_config
from gpt2demo.model import GPT2
from gpt2demo.run import now
from gpt2demo.storage import read_json, require_space, sha256, write_json
from gpt2demo.weights import load_model

OPSET = 18
FILE_LIMIT = 2**31 - 2**20
"""A protobuf message ends at 2 GiB, and weights in a second file would not be one file to check and to ship."""


def write_export(checkpoint: Path, folder: Path, report: Callable[[str], None]) -> None:
    """Write a verified checkpoint as an export into an empty folder, and prove it. The contract is `interfaces.Exporter`'s.

    Raises:
        ExportError: the written model is not the same model, or too large for one file.
    """
    model = load_model(checkpoint)
    tokenizer, _ = load_tokenizer(checkpoint / "tokenizer")
    report(f"writing {MODEL} ({model.config.n_parameters:,} parameters)")
    write_graph(model, folder / MODEL)
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(checkpoint / name, folder / name)
    shutil.copytree(checkpoint / "tokenizer", folder / "tokenizer")
    if not write_tokenizer_json(tokenizer, model.config.n_positions, folder):
        report("this tokenizer cannot be written as tokenizer.json: other programs get ids, not text")
    write_json(folder / "genai_config.json", genai_config(model.config, tokenizer.eos_id))
    identity = describe(checkpoint, folder / MODEL, model.config)
    write_json(folder / CERTIFICATE, identity)  # from here on the engine loads it
    report("comparing it with the PyTorch model")
    write_json(folder / CERTIFICATE, {**identity, **prove(model, folder, checkpoint, tokenizer)})


def describe(checkpoint: Path, file: Path, config: ModelConfig) -> dict[str, Any]:
    """The first part of the certificate: what was made from what, with what."""
    weights = checkpoint / "model.safetensors"
    run = checkpoint.parent.parent
    packages = ("gpt2demo", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")
    return {
        "format": FORMAT,
        "created": now(),
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}},
        "dtype": "fp32",
        "opset": OPSET,
        "shape": config.model_dump(exclude={"dropout"}),
        "source": {
            "run": run.name if (run / "run.json").is_file() else None,
            "checkpoint": checkpoint.name,
            "step": read_json(checkpoint / "trainer.json").get("step"),
            "bytes": weights.stat().st_size,
            "sha256": sha256(weights),
        },
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    """An installed package's version, or None."""
    try:
        return version(package)
    except ModuleNotFoundError:  # PackageNotFoundError is one
        return None


# ---------------------------------------------------------------------------------------------- the graph


class GrowingCache:
    """A `model.Cache` as a graph wants it: tensors in, longer tensors out, nothing changed in place.

    Args:
        past: keys and values by turns, (B, H, P, D) each.
    """

    def __init__(self, past: list[Tensor]) -> None:
        self.length = past[0].shape[2]
        self._past = past
        self.present: list[Tensor] = []

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Past and new ones, (B, H, S, D)."""
        grown = (torch.cat([self._past[2 * layer], key], 2), torch.cat([self._past[2 * layer + 1], value], 2))
        self.present += grown
        return grown

    def advance(self, count: int) -> None:
        """There is nothing to count: the tensors' length says it."""


class Graph(nn.Module):
    """The model with everything that a host passes in: mask, positions, and the cache as a flat list."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, attention_mask: Tensor, positions: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        """Logits (B, T, V), then the cache grown by T: keys and values by turns."""
        cache = GrowingCache(past)
        end = cache.length + ids.shape[1]
        causal = torch.arange(end) <= torch.arange(cache.length, end)[:, None]  # (T, S)
        visible = causal & (attention_mask[:, None, None] > 0)  # (B, 1, T, S)
        # A finite number, not -inf: a padded position sees nothing, and a softmax over nothing but -inf is NaN.
        mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)
        return self.model(ids, cache, positions=positions, mask=mask), *cache.present


def write_graph(model: GPT2, file: Path) -> None:
    """Write a model as one ONNX file.

    Raises:
        ExportError: it would be larger than ONNX can keep in one file.
    """
    size = 4 * model.config.n_parameters
    if size > FILE_LIMIT:
        raise ExportError(f"{size:,} bytes of float32 weights are more than one ONNX file can hold ({FILE_LIMIT:,})")
    require_space(file.parent, 2 * size)
    with _quiet(), torch.no_grad():
        graph = _trace(model)
        _tidy(graph)
        onnx_ir.save(graph, file)


def _trace(model: GPT2) -> onnx_ir.Model:
    """Run torch's exporter. Its example sizes are neither 0 nor 1 and all different, so that none is taken for a constant."""
    config = model.config
    B, T, P = 2, 3, 5
    past = [torch.zeros(B, config.n_head, P, config.n_embd // config.n_head) for _ in range(2 * config.n_layer)]
    ids = torch.zeros(B, T, dtype=torch.int64)
    past_axes = {0: "batch_size", 2: "past_sequence_length"}
    id_axes = {0: "batch_size", 1: "sequence_length"}
    program = torch.onnx.export(
        Graph(model).eval(),
        (ids, torch.ones(B, P + T, dtype=torch.int64), ids.clone(), past),
        input_names=["input_ids", "attention_mask", "position_ids", *cache_names("past_key_values", config.n_layer)],
        output_names=["logits", *cache_names("present", config.n_layer)],
        dynamic_shapes=(id_axes, {0: "batch_size", 1: "total_sequence_length"}, id_axes, [past_axes] * len(past)),
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    assert program is not None  # it is None only where a file is written
    return program.model


def _tidy(model: onnx_ir.Model) -> None:
    """Simplify the graph, name the mask's axis as others do, and drop what tells of the machine that exported."""
    _transpose_weights(model.graph)
    optimizer.optimize(model, input_size_limit=1024)
    mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
    mask.shape = onnx_ir.Shape(["batch_size", "past_sequence_length + sequence_length"])
    values = [*model.graph.initializers.values(), *model.graph.inputs, *model.graph.outputs]
    parts: list[Any] = [model, model.graph, *model.graph.all_nodes(), *values]
    for part in parts:
        part.metadata_props.clear()
        part.doc_string = None


def _transpose_weights(graph: onnx_ir.Graph) -> None:
    """Store matrices as they are multiplied, so that no runtime has to turn them round.

    The embedding stays as it is: it is also the head, and stored once.
    """
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.const_value is None or len(weight.uses()) > 1:
            continue
        turned = np.ascontiguousarray(weight.const_value.numpy().T)
        weight.const_value, weight.shape = onnx_ir.tensor(turned, name=weight.name), onnx_ir.Shape(turned.shape)
        onnx_ir.convenience.replace_all_uses_with(node.outputs[0], weight)
        graph.remove(node, safe=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings and log lines to ourselves: they are about its own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
