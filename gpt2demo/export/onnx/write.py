"""Writes an exported folder: model.onnx, generate.onnx, what other runtimes want to know, and the certificate."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from gpt2demo.config import DEFAULT_CHAIN, GenerateConfig, ModelConfig
from gpt2demo.engines.exported import CERTIFICATE, FORMAT, GENERATE, MODEL, Dtype, head_dim
from gpt2demo.errors import ExportError
from gpt2demo.export.onnx.certificate import prove
from gpt2demo.export.onnx.genai import genai_config
from gpt2demo.export.onnx.graph import OPSET, Weights, generate_graph, model_graph, padded_heads
from gpt2demo.export.onnx.protobuf import weight_places
from gpt2demo.export.onnx.quantization import quantize
from gpt2demo.export.onnx.sampling import trace
from gpt2demo.export.onnx.summary import summary
from gpt2demo.model import GPT2
from gpt2demo.runs.checkpoint import load_tokenizer, write_tokenizer_json
from gpt2demo.runs.folder import Run, now
from gpt2demo.runs.weights import load_model
from gpt2demo.sampling.saved import with_own_chains
from gpt2demo.storage import read_json, require_space, sha256, write_json

BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.1, "int4": 0.7}  # of a weight on disk, with the blocks' scales
FILE_LIMIT = 2**31 - 2**20
"""A protobuf message ends at 2 GiB, and weights in a second file would not be one file to check and to ship."""
TRANSFORMERS_JS = {"transformers.js_config": {"dtype": "fp32"}}
"""For transformers.js, whose "dtype" chooses nothing but the file's name: fp32 is model.onnx, whatever the weights in it are."""
SHARED = 1024  # bytes; smaller weights and constants stand in generate.onnx itself


def write_export(checkpoint: Path, folder: Path, dtype: Dtype, samplers: Sequence[str], report: Callable[[str], None]) -> None:
    """Write a verified checkpoint as an export into an empty folder, and prove it. The contract is `interfaces.Exporter`'s.

    Args:
        checkpoint: the folder of the checkpoint.
        folder: where to write.
        dtype: how the weights are stored.
        samplers: the chain inside generate.onnx, each `NAME:key=value`; the default chain when empty.
        report: called with one line of text at each stage.

    Raises:
        ExportError: the written model is not the same model, or too large for one file.
        SettingError: a sampler cannot be part of a graph, or the model's width cannot be cut into blocks.
    """
    model = load_model(checkpoint)
    tokenizer, _ = load_tokenizer(checkpoint / "tokenizer")
    chosen = with_own_chains(GenerateConfig.create(samplers=tuple(samplers)), checkpoint).samplers
    chain = write_graphs(model, folder, dtype, chosen, tokenizer.vocab_size, report)
    write_json(folder / "config.json", {**read_json(checkpoint / "config.json"), **TRANSFORMERS_JS})
    shutil.copyfile(checkpoint / "generation_config.json", folder / "generation_config.json")
    shutil.copytree(checkpoint / "tokenizer", folder / "tokenizer")
    if write_tokenizer_json(tokenizer, model.config.n_positions, folder):
        shutil.copyfile(Path(__file__).with_name("run.py"), folder / "run.py")
    else:
        report("this tokenizer cannot be written as tokenizer.json: other programs get ids, not text, and there is no run.py")
    write_json(folder / "genai_config.json", genai_config(model.config, tokenizer.eos_id))
    identity = describe(checkpoint, folder, model.config, dtype, chain)
    write_json(folder / CERTIFICATE, identity)  # from here on the engine loads it
    report("comparing it with the PyTorch model")
    certificate = {**identity, **prove(model, folder, checkpoint, tokenizer)}
    write_json(folder / CERTIFICATE, certificate)
    for line in summary(certificate):
        report(line)


def write_graphs(
    model: GPT2, folder: Path, dtype: Dtype, samplers: Sequence[str], vocab_size: int, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Write model.onnx and generate.onnx; give the chain inside the latter for the certificate. Arguments as `write_export`'s.

    `vocab_size` is the tokenizer's: ids behind it are never drawn.
    """
    report(f"writing {MODEL} ({model.config.n_parameters:,} parameters, {dtype})")
    weights = stored_weights(model, dtype)
    write_model(model.config, weights, folder / MODEL, dtype)
    report(f"writing {GENERATE} (samplers: {', '.join(samplers or DEFAULT_CHAIN)})")
    return write_generate(model.config, weights, folder, samplers or DEFAULT_CHAIN, vocab_size)


def describe(checkpoint: Path, folder: Path, config: ModelConfig, dtype: Dtype, chain: list[dict[str, Any]]) -> dict[str, Any]:
    """The first part of the certificate: what was made from what, with what."""
    weights = checkpoint / "model.safetensors"
    run = Run.of_checkpoint(checkpoint)
    packages = ("gpt2demo", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")
    return {
        "format": FORMAT,
        "created": now(),
        "files": {file.relative_to(folder).as_posix(): listed(file) for file in certified(folder)},
        "dtype": dtype,
        "opset": OPSET,
        "shape": config.model_dump(exclude={"dropout"}),
        "head_dim": head_dim(config),
        "samplers": chain,
        "source": {
            "run": run.name if run else None,
            "checkpoint": checkpoint.name,
            "step": read_json(checkpoint / "trainer.json").get("step"),
            "bytes": weights.stat().st_size,
            "sha256": sha256(weights),
        },
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def certified(folder: Path) -> list[Path]:
    """The files of an export that decide what it writes: graphs and tokenizer."""
    return sorted([*folder.glob("*.onnx"), *folder.glob("tokenizer.json"), *folder.glob("tokenizer/*")])


def listed(file: Path) -> dict[str, Any]:
    """What the certificate says of a file."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _version(package: str) -> str | None:
    """An installed package's version, or None."""
    try:
        return version(package)
    except ModuleNotFoundError:  # PackageNotFoundError is one
        return None


def stored_weights(model: GPT2, dtype: Dtype) -> Weights:
    """The model's weights as they will be stored. Of the matrices only those that are multiplied are quantized: not `wpe`."""
    arrays = padded_heads({name: tensor.numpy() for name, tensor in model.state_dict().items()}, model.config)
    if dtype in ("fp32", "fp16"):
        return {name: array.astype(np.float16 if dtype == "fp16" else np.float32, copy=False) for name, array in arrays.items()}
    multiplied = {name for name, array in arrays.items() if array.ndim == 2} - {"wpe.weight"}
    bits = {"int8": 8, "int4": 4}[dtype]
    # The embedding is also the head: with 4 bits it would cost more than all layers together, so it has 8.
    return {
        name: quantize(array, 8 if name == "wte.weight" else bits) if name in multiplied else array
        for name, array in arrays.items()
    }


def write_model(config: ModelConfig, weights: Weights, file: Path, dtype: Dtype) -> None:
    """Write a model as one ONNX file.

    Raises:
        ExportError: it would be larger than ONNX can keep in one file.
    """
    size = int(BYTES[dtype] * config.n_parameters)
    if size > FILE_LIMIT:
        raise ExportError(f"{size:,} bytes of {dtype} weights are more than one ONNX file can hold ({FILE_LIMIT:,})")
    require_space(file.parent, size)
    ir.save(model_graph(config, weights), file)


def write_generate(
    config: ModelConfig, weights: Weights, folder: Path, samplers: Sequence[str], vocab_size: int
) -> list[dict[str, Any]]:
    """Write the graph with samplers inside; its weights are the bytes in model.onnx. Gives the chain for the certificate."""
    traced = trace(samplers, vocab_size)
    model = generate_graph(config, weights, traced.graph, vocab_size)
    places = weight_places(folder / MODEL)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= SHARED and name in places:
            offset, length = places[name]
            value.const_value = ir.ExternalTensor(
                MODEL, offset, length, tensor.dtype, shape=ir.Shape(tensor.numpy().shape), name=name, base_dir=folder
            )
    ir.save(model, folder / GENERATE)
    return traced.chain
