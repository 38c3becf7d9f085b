"""`gpt2demo bench train`: gpt2demo's training, and plain loops of transformers and nanoGPT, on the same weights and batches.

A request is {"steps": N}. The result is {"seconds": total time, "loss": mean over the steps, "megabytes": peak of the memory, of
an NVIDIA GPU or else resident}. gpt2demo's training is the whole loop of `gpt2demo train`, including records and events.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from gpt2demo.bench.protocol import Runner, ratio, ratios, take_turns
from gpt2demo.config import BenchTrainConfig, ModelConfig, preset
from gpt2demo.data.tokens import load_ids
from gpt2demo.data.windows import Windows
from gpt2demo.engines.hardware import torch_device
from gpt2demo.errors import SettingError
from gpt2demo.model import GPT2
from gpt2demo.runs.checkpoint import save_tokenizer
from gpt2demo.runs.folder import RUNS_DIR, Run
from gpt2demo.runs.weights import save_checkpoint
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.training.prepare import prepare_run

OWN = "gpt2demo"
PEERS = ("transformers", "nanogpt")
RECIPE = {"learning_rate": 3e-4, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99, "grad_clip": 1.0}
"""The same for all programs; the learning rate is constant."""
TOLERANCE = 0.01
"""Relative difference of two losses that counts as none: that of bf16 and fp32 is below."""


@dataclass
class Trainer(Runner):
    """A program that trains.

    Attributes:
        program, dtype: what trains, and the dtype of the arithmetic.
        steps: optimizer steps per round.
    """

    program: str = OWN
    dtype: str = "fp32"
    steps: int = 1

    @property
    def seconds_per_step(self) -> list[float]:
        """Mean time of a step in each round."""
        return [result["seconds"] / self.steps for result in self.results]


def bench_train(config: BenchTrainConfig, folder: Path, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure all programs and return a row of results for each.

    Args:
        config: what to measure.
        folder: an empty folder for the run folders and the batches.
        report: called with one line of text at each stage.

    Raises:
        SettingError: a program is unknown or its folder is not its source code, or the device is not available.
        RunError: a program failed.
    """
    for spec in config.peers:
        check_peer(spec)
    chosen = preset(config.shape)
    shape = chosen.model.with_changes(dropout=config.dropout)
    config = config.with_changes(batch_size=config.batch_size or chosen.train.batch_size, device=torch_device(config.device).type)
    report(f"preparing {shape.n_parameters:,} parameters and {config.steps * (config.rounds + 1)} batches")
    matmul, trainers = prepare(shape, config, folder)
    take_turns([matmul, *trainers], {"steps": config.steps}, config.rounds, report)
    return rows(matmul, trainers, shape, int(config.batch_size or 0) * shape.n_positions)


def check_peer(spec: str) -> None:
    """Check that a peer is supported and that its folder has its source code.

    Raises:
        SettingError: the name is unknown, or the folder is missing or has no model.py.
    """
    name, _, folder = spec.partition("=")
    if name not in PEERS:
        raise SettingError(f"peers={spec!r}: unknown program; available: transformers, nanogpt=FOLDER")
    if name == "nanogpt" and not (Path(folder) / "model.py").is_file():
        raise SettingError(f"peers={spec!r}: {folder or '.'} has no model.py; use nanogpt=FOLDER with nanoGPT's source code")


def prepare(shape: ModelConfig, config: BenchTrainConfig, folder: Path) -> tuple[Runner, list[Trainer]]:
    """Write initial weights, run folders and batches; return the runner of the matrix product and the programs."""
    torch.manual_seed(0)
    save_tokenizer(ByteTokenizer(), "byte", folder / "tokenizer")
    model, unused = GPT2(shape), {"step": 0, "validation_loss": None}
    weights = save_checkpoint(folder / "initial", model, folder / "tokenizer", torch.optim.SGD(model.parameters()), unused).path
    runs = {dtype: prepare_own(dtype, weights, shape, config, folder / "runs") for dtype in config.dtypes}
    save_batches(next(iter(runs.values())), shape, config, folder / "batches.npy")
    worker = [sys.executable, "-m", "gpt2demo.bench.train_worker"]
    machine = {"device": config.device, "threads": config.threads}
    matmul = Runner("matmul", [*worker, "matmul", json.dumps({**machine, "dtypes": config.dtypes})])
    commands = {(OWN, dtype): [*worker, "train", json.dumps({**machine, "run": str(run.path)})] for dtype, run in runs.items()}
    script = str(Path(__file__).parent / "peers" / "train_with.py")
    files = {"checkpoint": str(weights), "batches": str(folder / "batches.npy"), "shape": shape.model_dump()}
    compiled = config.compile == "on" or (config.compile == "auto" and config.device == "cuda")
    for name, _, source in (spec.partition("=") for spec in config.peers):
        for dtype in config.dtypes:
            settings = {"program": name, "folder": source, "dtype": dtype, "compile": compiled, **machine, **files, **RECIPE}
            commands[name, dtype] = [sys.executable, script, json.dumps(settings)]
    trainers = [
        Trainer(f"{name} {dtype}", command, program=name, dtype=dtype, steps=config.steps)
        for (name, dtype), command in commands.items()
    ]
    return matmul, trainers


def prepare_own(dtype: str, weights: Path, shape: ModelConfig, config: BenchTrainConfig, runs: Path) -> Run:
    """Prepare a run that starts with the weights. It is longer than the measurement, which ends before its last evaluation."""
    steps = config.steps * (config.rounds + 1) + 1
    stories = 2000 + 2 * steps * int(config.batch_size or 0) * shape.n_positions // 300  # at most an epoch
    with runs_in(runs):
        return prepare_run(
            dataset=f"tales:stories={stories}",
            preset=config.shape,
            run=dtype,
            init_from=str(weights),
            dropout=config.dropout,
            dtype=dtype,
            steps=steps,
            batch_size=config.batch_size,
            grad_accumulation=1,
            schedule="constant",
            warmup_steps=0,
            eval_every=steps,
            eval_batches=1,
            sample_tokens=0,
            device=config.device,
            compile=config.compile,
            threads=config.threads,
            **RECIPE,
        )


@contextmanager
def runs_in(folder: Path) -> Iterator[None]:
    """Use another folder of the runs inside the block."""
    before = os.environ.get(RUNS_DIR)
    os.environ[RUNS_DIR] = str(folder)
    try:
        yield
    finally:
        del os.environ[RUNS_DIR]
        if before is not None:
            os.environ[RUNS_DIR] = before


def save_batches(run: Run, shape: ModelConfig, config: BenchTrainConfig, file: Path) -> None:
    """Write the batches that a run reads: (steps, B, T + 1) int32."""
    count = config.steps * (config.rounds + 1)
    windows = Windows(load_ids(run.data, "train"), shape.n_positions, run.info()["train"]["seed"])
    size = int(config.batch_size or 0)
    np.save(file, windows.batch(0, count * size).astype(np.int32).reshape(count, size, shape.n_positions + 1))


def rows(matmul: Runner, trainers: Sequence[Trainer], shape: ModelConfig, tokens: int) -> list[dict[str, Any]]:
    """Return the table: medians over the rounds, ratios within each round.

    Args:
        matmul: the runner of the matrix product.
        trainers: the programs.
        shape: of the model.
        tokens: per step.
    """
    return [row(trainer, matmul, trainers, shape.flops_per_token, tokens) for trainer in trainers]


def row(trainer: Trainer, matmul: Runner, trainers: Sequence[Trainer], flops_per_token: int, tokens: int) -> dict[str, Any]:
    """Return the results of a program."""
    times = trainer.seconds_per_step
    speeds = [tokens * flops_per_token / seconds for seconds in times]
    peaks = [result[trainer.dtype] for result in matmul.results]
    losses = [other.results[-1]["loss"] for other in (trainer, trainers[0])]
    found = {
        "name": trainer.name,
        "tokens_per_second": round(tokens / median(times)),
        "slowest": round(tokens / max(times)),
        "fastest": round(tokens / min(times)),
        "milliseconds_per_step": round(median(times) * 1e3, 2),
        "megabytes": round(trainer.results[-1]["megabytes"]),
        "gflops_per_second": round(median(speeds) / 1e9, 1),
        "of_matmul_speed": round(median(ratios(speeds, peaks)), 3),
        "loss": round(losses[0], 4),
        "same_loss": abs(losses[0] - losses[1]) <= TOLERANCE * losses[1],
    }
    for name in dict.fromkeys(other.program for other in trainers if other.program != OWN):
        by_dtype = {other.dtype: other for other in trainers if other.program == name}
        first = next(iter(by_dtype))
        found |= compared(f"times_{name}_{first}", trainer, by_dtype[first])
        if len(by_dtype) > 1:
            found[f"times_{name}_same_dtype"] = round(ratio(by_dtype[trainer.dtype].seconds_per_step, times), 2)
    return found


def compared(column: str, trainer: Trainer, other: Trainer) -> dict[str, Any]:
    """Return how many times faster than another program one is: the median of the rounds, and the lowest and highest."""
    found = ratios(other.seconds_per_step, trainer.seconds_per_step)
    return {column: round(median(found), 2), f"{column}_range": f"{min(found):.2f} to {max(found):.2f}"}
