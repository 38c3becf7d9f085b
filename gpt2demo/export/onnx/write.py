"""Write the export folder: model.onnx, generate.onnx, configuration for other runtimes, and the certificate."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from gpt2demo.config import DEFAULT_CHAIN, GenerateConfig, ModelConfig
from gpt2demo.engines.exported import CERTIFICATE, FORMAT, GENERATE, MODEL, Dtype, head_dim
from gpt2demo.errors import ExportError
from gpt2demo.export.onnx.certificate import verify
from gpt2demo.export.onnx.genai import genai_config
from gpt2demo.export.onnx.graph import OPSET, generate_graph, model_graph
from gpt2demo.export.onnx.protobuf import LARGE, save, weight_ranges
from gpt2demo.export.onnx.sampling import trace
from gpt2demo.export.onnx.summary import summary
from gpt2demo.export.onnx.weights import Weights, convert_weights
from gpt2demo.export.overflow import check_weights
from gpt2demo.model import GPT2
from gpt2demo.runs.checkpoint import load_tokenizer, write_tokenizer_json
from gpt2demo.runs.folder import Run, now
from gpt2demo.runs.weights import load_model
from gpt2demo.sampling.chains import create_chain, resolve_chains
from gpt2demo.storage import read_json, require_space, sha256, write_json

BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "int8": 1.1, "int4": 0.7}
"""Average size on disk, including the scales of quantized blocks."""
FILE_LIMIT = 2**31 - 2**20
"""A protobuf message is at most 2 GiB. Weights in a second file would allow more, but the model should be one file."""
TRANSFORMERS_JS = {"transformers.js_config": {"dtype": "fp32"}}
"""transformers.js derives only the file name from this "dtype": fp32 means model.onnx, whatever dtype its weights have."""


def write_export(checkpoint: Path, folder: Path, dtype: Dtype, samplers: Sequence[str], report: Callable[[str], None]) -> None:
    """Write a verified checkpoint into an empty folder and verify the result. See `gpt2demo.interfaces.Exporter`.

    Args:
        checkpoint: the checkpoint folder.
        folder: the folder to write.
        dtype: dtype of the stored weights.
        samplers: the chain inside generate.onnx, each `NAME:key=value`; empty for the default chain.
        report: called with one line of text at each stage.

    Raises:
        ExportError: the exported model differs from the original, is too large for one file, or has values too large for fp16.
        SettingError: a sampler cannot be traced, or the model's width is not divisible into quantization blocks.
    """
    model = load_model(checkpoint, mapped=True)
    if dtype == "fp16":
        check_weights(model, torch.float16, "fp32 or int8")
    tokenizer, _ = load_tokenizer(checkpoint / "tokenizer")
    chosen = resolve_chains(GenerateConfig.create(samplers=tuple(samplers)), checkpoint).samplers
    chain = write_graphs(model, folder, dtype, chosen, tokenizer.vocab_size, report)
    write_json(folder / "config.json", {**read_json(checkpoint / "config.json"), **TRANSFORMERS_JS})
    shutil.copyfile(checkpoint / "generation_config.json", folder / "generation_config.json")
    shutil.copytree(checkpoint / "tokenizer", folder / "tokenizer")
    if write_tokenizer_json(tokenizer, model.config.n_positions, folder):
        shutil.copyfile(Path(__file__).with_name("run.py"), folder / "run.py")
    else:
        report("this tokenizer cannot be written as tokenizer.json; other programs can only use ids, and run.py is left out")
    write_json(folder / "genai_config.json", genai_config(model.config, tokenizer.eos_id))
    origin = origin_and_files(checkpoint, folder, model.config, dtype, chain)
    write_json(folder / CERTIFICATE, origin)  # the engine needs it to load the folder
    del model  # `verify` loads it, and releases it before it opens the export
    report("comparing the export with the PyTorch model")
    certificate = {**origin, **verify(folder, checkpoint, tokenizer)}
    write_json(folder / CERTIFICATE, certificate)
    for line in summary(certificate):
        report(line)


def write_graphs(
    model: GPT2, folder: Path, dtype: Dtype, samplers: Sequence[str], vocab_size: int, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Write model.onnx and generate.onnx, and return the description of the sampler chain for the certificate.

    Args:
        model: the model to export.
        folder, dtype, samplers, report: see `write_export`.
        vocab_size: vocabulary size of the tokenizer. If the model has further ids, they are never sampled.
    """
    report(f"writing {MODEL} ({model.config.n_parameters:,} parameters, {dtype})")
    weights = convert_weights(model, dtype)
    write_model(model.config, weights, folder / MODEL, dtype)
    report(f"writing {GENERATE} (samplers: {', '.join(samplers or DEFAULT_CHAIN)})")
    return write_generate(model.config, weights, folder, samplers or DEFAULT_CHAIN, vocab_size)


def origin_and_files(
    checkpoint: Path, folder: Path, config: ModelConfig, dtype: Dtype, chain: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the first part of the certificate: source checkpoint, written files, shape, dtype, samplers and versions."""
    weights = checkpoint / "model.safetensors"
    run = Run.of_checkpoint(checkpoint)
    packages = ("gpt2demo", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")
    return {
        "format": FORMAT,
        "created": now(),
        "files": {file.relative_to(folder).as_posix(): size_and_checksum(file) for file in graphs_and_tokenizer(folder)},
        "dtype": dtype,
        "opset": OPSET,
        "shape": config.model_dump(exclude={"dropout"}),
        "head_dim": head_dim(config),
        "samplers": chain,
        "tokenizer": {"special_tokens_in_text": special_tokens(folder)},
        "source": {
            "run": run.name if run else None,
            "checkpoint": checkpoint.name,
            "step": read_json(checkpoint / "trainer.json").get("step"),
            "bytes": weights.stat().st_size,
            "sha256": sha256(weights),
        },
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def special_tokens(folder: Path) -> dict[str, int]:
    """Return the special tokens that programs with tokenizer.json find in a text, and their ids.

    For gpt2demo, a literal `<|endoftext|>` in a text is ordinary text. The format of tokenizer.json has no setting for this:
    every program that reads it replaces an added token in a text by its id.
    """
    file = folder / "tokenizer.json"
    added = read_json(file).get("added_tokens") if file.is_file() else None
    return {token["content"]: token["id"] for token in added or []}


def graphs_and_tokenizer(folder: Path) -> list[Path]:
    """Return the files that determine the generated text. The certificate has their checksums."""
    return sorted([*folder.glob("*.onnx"), *folder.glob("tokenizer.json"), *folder.glob("tokenizer/*")])


def size_and_checksum(file: Path) -> dict[str, Any]:
    """Return the certificate's entry for a file."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except ModuleNotFoundError:  # base class of PackageNotFoundError
        return None


def write_model(config: ModelConfig, weights: Weights, file: Path, dtype: Dtype) -> None:
    """Write model.onnx.

    Raises:
        ExportError: the weights exceed the size limit of one ONNX file.
    """
    size = int(BYTES_PER_WEIGHT[dtype] * config.n_parameters)
    if size > FILE_LIMIT:
        raise ExportError(f"{size:,} bytes of {dtype} weights are more than one ONNX file can hold ({FILE_LIMIT:,})")
    require_space(file.parent, size)
    save(model_graph(config, weights), file)


def write_generate(
    config: ModelConfig, weights: Weights, folder: Path, samplers: Sequence[str], vocab_size: int
) -> list[dict[str, Any]]:
    """Write generate.onnx, the graph with samplers. Its large weights refer to their bytes in model.onnx.

    Returns:
        The description of the sampler chain for the certificate.
    """
    traced = trace(create_chain(samplers), vocab_size)
    model = generate_graph(config, weights, traced.graph, vocab_size)
    ranges = weight_ranges(folder / MODEL)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= LARGE and name in ranges:
            offset, length = ranges[name]
            value.const_value = ir.ExternalTensor(
                MODEL, offset, length, tensor.dtype, shape=ir.Shape(list(tensor.shape.numpy())), name=name, base_dir=folder
            )
    ir.save(model, folder / GENERATE)
    return traced.samplers
