"""`gpt2demo bench generate`: gpt2demo's engines, with and without samplers, and other programs, on the same weights."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from gpt2demo.bench.protocol import Runner, all_started, measure, ratio
from gpt2demo.config import BenchGenerateConfig, ModelConfig, preset
from gpt2demo.engines.exported import CERTIFICATE, Dtype
from gpt2demo.engines.hardware import torch_device
from gpt2demo.errors import RunError, SettingError
from gpt2demo.export.onnx.genai import genai_config
from gpt2demo.export.onnx.write import origin_and_files, write_graphs
from gpt2demo.model import GPT2
from gpt2demo.plugins import registry
from gpt2demo.runs.checkpoint import save_tokenizer
from gpt2demo.runs.weights import save_checkpoint
from gpt2demo.storage import write_json
from gpt2demo.tokenization.byte import ByteTokenizer

STANDARD = ("temperature:value=0.8", "top-k:k=50", "top-p:p=0.9")
SAMPLED = " + samplers"
BYTES = {"fp32": 4, "fp16": 2}
PEERS = ("transformers", "genai", "llama.cpp")


@dataclass
class Generator(Runner):
    """A program that generates text.

    Attributes:
        bytes: size of the weights, which are read for each token.
        largest_batch: the largest batch that it measures.
    """

    bytes: int = 0
    largest_batch: int = sys.maxsize

    @property
    def seconds_per_step(self) -> list[float]:
        """Mean time of a step after the first token, in each round."""
        return [(result["seconds"] - result["first"]) / (len(result["ids"][0]) - 1) for result in self.results]


def bench_generate(config: BenchGenerateConfig, folder: Path, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure all programs and return a row of results for each.

    Args:
        config: what to measure.
        folder: an empty folder for the models.
        report: called with one line of text at each stage.

    Raises:
        SettingError: the prompt and the new tokens exceed the shape's context, or a dtype does not run on the device.
        RunError: a program failed.
    """
    rows = list(bench_grid(config, [(config.batch_size, config.prompt_tokens)], folder, report))
    for row in rows:
        if "error" in row:
            raise RunError(row["error"])
    return rows


def bench_grid(
    config: BenchGenerateConfig, grid: Sequence[tuple[int, int]], folder: Path, report: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Yield the results for several batch sizes and prompt lengths, for which the programs are started only once.

    Args:
        config: what to measure; `batch_size` and `prompt_tokens` are those of the grid.
        grid: batch sizes and prompt lengths.
        folder: an empty folder for the models.
        report: called with one line of text at each stage.

    Yields:
        A row for each point and program; of a program that failed, one with its name and `error`.

    Raises:
        SettingError: as `bench_generate`.
    """
    shape = preset(config.shape).model.with_changes(dropout=0.0)
    for _, prompt_tokens in grid:
        if prompt_tokens + config.new_tokens > shape.n_positions:
            needed = f"{prompt_tokens} + {config.new_tokens} tokens"
            raise SettingError(
                f"shape={config.shape!r}: its context of {shape.n_positions} is shorter than {needed}; use fewer tokens"
            )
    runners = prepare(shape, config, folder, report)
    with all_started(runners) as processes:
        for batch_size, prompt_tokens in grid:
            chosen = [runner for runner in runners if batch_size <= runner.largest_batch and runner.error is None]
            for runner in chosen:
                runner.results.clear()
            prompts = np.random.default_rng(0).integers(0, shape.vocab_size, (batch_size, prompt_tokens)).tolist()
            measure(processes, chosen, {"prompts": prompts, "count": config.new_tokens}, config.rounds, report)
            point = {"batch_size": batch_size, "prompt_tokens": prompt_tokens}
            yield from ({**row, **point} for row in rows([runner for runner in chosen if runner.error is None]))
    yield from ({"name": runner.name, "error": runner.error} for runner in runners if runner.error is not None)


def prepare(shape: ModelConfig, config: BenchGenerateConfig, folder: Path, report: Callable[[str], None]) -> list[Generator]:
    """Write a model with random weights in all formats and return the programs that run it. The first measures the memory."""
    device = torch_device(config.device).type
    dtypes = config.dtypes_on(device)
    for spec in config.peers:
        check_peer(spec)
    torch.manual_seed(0)
    model = GPT2(shape).eval()
    save_tokenizer(ByteTokenizer(), "byte", folder / "tokenizer")
    progress = {"step": 0, "validation_loss": None}
    checkpoint = save_checkpoint(
        folder / "checkpoints", model, folder / "tokenizer", torch.optim.SGD(model.parameters()), progress
    ).path
    exports: dict[Dtype, Path] = {
        dtype: write_export(model, checkpoint, folder / dtype, dtype, report)
        for dtype in dtypes
        if device != "cuda" or dtype == "fp16"
    }
    found = [worker("memory", "memory", folder, device)]
    for dtype in dtypes if device == "cuda" else ("fp32",):
        size = BYTES[dtype] * shape.n_parameters
        found += sampled_too(worker(f"torch {dtype}", "torch", checkpoint, device, size, dtype=dtype))
        if device == "cuda":
            found.append(worker(f"torch {dtype} eager", "torch", checkpoint, device, size, dtype=dtype, eager=True))
    for dtype, path in exports.items():
        found += sampled_too(worker(f"onnx {dtype}", "onnx", path, device, (path / "model.onnx").stat().st_size))
    return found + [runner for spec in config.peers for runner in peers(spec, checkpoint, exports, folder, device, dtypes)]


def worker(name: str, kind: str, folder: Path, device: str, size: int = 0, **options: Any) -> Generator:
    """Return a runner of `worker.py`."""
    command = [sys.executable, "-m", "gpt2demo.bench.worker", kind, str(folder), json.dumps({"device": device, **options})]
    return Generator(name, command, bytes=size)


def sampled_too(runner: Generator) -> list[Generator]:
    """Return a runner of `worker.py`, and directly after it, as they are compared, the same with samplers."""
    *command, options = runner.command
    with_samplers = json.dumps({**json.loads(options), "samplers": STANDARD})
    return [runner, replace(runner, name=runner.name + SAMPLED, command=[*command, with_samplers], results=[])]


def write_export(model: GPT2, checkpoint: Path, folder: Path, dtype: Dtype, report: Callable[[str], None]) -> Path:
    """Write an export without comparison and tokenizer: the weights are random and the prompts are ids."""
    folder.mkdir()
    chain = write_graphs(model, folder, dtype, STANDARD, model.config.vocab_size, report)
    write_json(folder / CERTIFICATE, origin_and_files(checkpoint, folder, model.config, dtype, chain))
    write_json(folder / "genai_config.json", genai_config(model.config, None))
    return folder


def check_peer(spec: str) -> None:
    """Check that a peer is supported and that its Python exists.

    Raises:
        SettingError: the name is unknown, or the Python does not exist.
    """
    name, _, python = spec.partition("=")
    if name not in PEERS:
        raise SettingError(f"peers={spec!r}: unknown program; available: {', '.join(PEERS)}")
    if python and shutil.which(python) is None:
        raise SettingError(f"peers={spec!r}: {python} does not exist; use the python of an environment that has {name}")


def peers(
    spec: str, checkpoint: Path, exports: dict[Dtype, Path], folder: Path, device: str, dtypes: Sequence[str]
) -> list[Generator]:
    """Return the runners of another program, one for each format of the weights.

    Args:
        spec: `NAME`, or `NAME=PYTHON` for a program in another environment.
        checkpoint: the checkpoint folder.
        exports: the ONNX exports by dtype.
        folder: folder for further formats.
        device: where to run.
        dtypes: the dtypes to measure.
    """
    name, _, python = spec.partition("=")
    script = [python or sys.executable, str(Path(__file__).parent / "peers" / f"with_{name.replace('.', '_')}.py")]
    if name == "transformers":
        return _transformers(script, checkpoint, device, dtypes)
    if name == "llama.cpp":
        files = {dtype: gguf(checkpoint, folder / f"gguf-{dtype}", dtype) for dtype in ("fp32", "q8_0")}
        return [Generator(f"{name} {dtype}", [*script, str(file)], bytes=file.stat().st_size) for dtype, file in files.items()]
    sizes = {dtype: (path / "model.onnx").stat().st_size for dtype, path in exports.items()}
    return [Generator(f"{name} {dtype}", [*script, str(path), device], bytes=sizes[dtype]) for dtype, path in exports.items()]


def _transformers(script: list[str], checkpoint: Path, device: str, dtypes: Sequence[str]) -> list[Generator]:
    """Return the runners of transformers: on a GPU, also with the static cache that it compiles, which takes long."""
    found = []
    for dtype in dtypes if device == "cuda" else ("fp32",):
        size = BYTES[dtype] * (checkpoint / "model.safetensors").stat().st_size // BYTES["fp32"]
        command = [*script, str(checkpoint), device, dtype]
        found.append(Generator(f"transformers {dtype}", command, bytes=size))
        if device == "cuda":
            found.append(Generator(f"transformers {dtype} compiled", [*command, "static"], bytes=size, largest_batch=1))
    return found


def gguf(checkpoint: Path, folder: Path, dtype: str) -> Path:
    """Write a file for llama.cpp with the plugin gpt2demo-gguf.

    Raises:
        PluginError: the plugin is not installed.
    """
    folder.mkdir()
    exporter = registry().part("exporters", "gguf")
    exporter().export(checkpoint, folder, dtype=dtype, report=lambda line: None)
    return next(folder.glob("*.gguf"))


def rows(runners: Sequence[Generator]) -> list[dict[str, Any]]:
    """Return the table: medians over the rounds, ratios within each round. The first runner measures the memory bandwidth."""
    memory, *programs = runners
    bandwidths = [result["seconds"] for result in memory.results]  # bytes per second; see `worker.read_memory`
    base = next((runner for runner in programs if runner.name.startswith("transformers")), programs[0])
    by_name = {runner.name: runner for runner in programs}
    table = [row(runner, base, by_name.get(runner.name.removesuffix(SAMPLED)), bandwidths) for runner in programs]
    return [{**entry, "machine_gb_per_second": median(bandwidths) / 1e9} for entry in table]


def row(runner: Generator, base: Generator, greedy: Generator | None, bandwidths: Sequence[float]) -> dict[str, Any]:
    """Return the results of a runner.

    Args:
        runner: the runner.
        base: the runner that all are compared with.
        greedy: the same program without samplers, or None if it failed.
        bandwidths: memory bandwidth in bytes per second, in each round.
    """
    times = runner.seconds_per_step
    rates = [len(result["ids"]) / seconds for result, seconds in zip(runner.results, times, strict=True)]
    cost = None if greedy is None or greedy is runner else round(100 * (ratio(times, greedy.seconds_per_step) - 1), 1)
    fractions = [runner.bytes / bandwidth / seconds for bandwidth, seconds in zip(bandwidths, times, strict=True)]
    return {
        "name": runner.name,
        "tokens_per_second": round(median(rates)),
        "slowest": round(min(rates)),
        "fastest": round(max(rates)),
        "microseconds_per_step": round(median(times) * 1e6),
        "first_token_ms": round(median(result["first"] for result in runner.results) * 1e3, 1),
        "megabytes": round(runner.results[-1]["megabytes"]),
        f"times_{base.name.replace(' ', '_')}": round(ratio(base.seconds_per_step, times), 2),
        "samplers_cost_percent": cost,
        "of_memory_bandwidth": round(median(fractions), 3) if runner.bytes else None,
        "same_ids": runner.results[-1]["ids"] == base.results[-1]["ids"],
        **({"eager": reason} if (reason := runner.results[-1].get("eager")) else {}),
    }
