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
RECIPE: dict[str, Any] = {"learning_rate": 3e-4, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99, "grad_clip": 1.0}
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


@dataclass(frozen=True)
class Setup:
    """What is measured.

    Attributes:
        config: the settings; `batch_size` and `device` may be left to their defaults.
        shape: of the model.
        batch_size: sequences per step.
        device: type of the device.
        folder: for all files.
    """

    config: BenchTrainConfig
    shape: ModelConfig
    batch_size: int
    device: str
    folder: Path

    @property
    def steps(self) -> int:
        """Number of optimizer steps of each program, including the warm-up."""
        return self.config.steps * (self.config.rounds + 1)

    @property
    def machine(self) -> dict[str, Any]:
        """The settings of all runners."""
        return {"device": self.device, "threads": self.config.threads}


def bench_train(config: BenchTrainConfig, folder: Path, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure all programs and return a row of results for each.

    Args:
        config: what to measure.
        folder: an empty folder for the run folders and the batches.
        report: called with one line of text at each stage.

    Raises:
        SettingError: a program is unknown or its source code is missing, or the device is not available.
        RunError: a program failed.
    """
    for spec in config.peers:
        check_peer(spec)
    chosen = preset(config.shape)
    shape = chosen.model.with_changes(dropout=config.dropout)
    batch_size = config.batch_size or chosen.train.batch_size
    setup = Setup(config, shape, batch_size, torch_device(config.device).type, folder)
    report(f"preparing a model of {shape.n_parameters:,} parameters and {setup.steps} batches")
    weights = save_weights(setup)
    runs = {dtype: prepare_own(dtype, weights, setup) for dtype in config.dtypes}
    batches = save_batches(runs[config.dtypes[0]], setup)
    matmul = Runner("matmul", worker("matmul", {**setup.machine, "dtypes": config.dtypes}))
    trainers = [own(dtype, run, setup) for dtype, run in runs.items()]
    trainers += [peer(spec, dtype, weights, batches, setup) for spec in config.peers for dtype in config.dtypes]
    take_turns([matmul, *trainers], {"steps": config.steps}, config.rounds, report)
    return rows(matmul, trainers, shape, batch_size * shape.n_positions)


def check_peer(spec: str) -> None:
    """Check that a peer is supported and that its folder has its source code.

    Raises:
        SettingError: the name is unknown, or the folder is missing or has no model.py.
    """
    name, _, folder = spec.partition("=")
    if name not in PEERS:
        raise SettingError(f"peers={spec!r}: unknown program; available: transformers, nanogpt=FOLDER")
    if name == "nanogpt" and not (folder and (Path(folder) / "model.py").is_file()):
        raise SettingError(f"peers={spec!r}: no folder with nanoGPT's model.py; use nanogpt=FOLDER")


# ---------------------------------------------------------------------------------------------- files


def save_weights(setup: Setup) -> Path:
    """Write a checkpoint with the initial weights of all programs; return its folder."""
    torch.manual_seed(0)
    model = GPT2(setup.shape)
    save_tokenizer(ByteTokenizer(), "byte", setup.folder / "tokenizer")
    unused = torch.optim.SGD(model.parameters()), {"step": 0, "validation_loss": None}
    return save_checkpoint(setup.folder / "initial", model, setup.folder / "tokenizer", *unused).path


def prepare_own(dtype: str, weights: Path, setup: Setup) -> Run:
    """Prepare a run that starts with the weights. It is longer than the measurement, which ends before its last evaluation."""
    steps = setup.steps + 1
    config = setup.config
    with runs_in(setup.folder / "runs"):
        return prepare_run(
            dataset="tales:stories=2000",
            preset=config.shape,
            run=dtype,
            init_from=str(weights),
            dropout=config.dropout,
            dtype=dtype,
            steps=steps,
            batch_size=setup.batch_size,
            grad_accumulation=1,
            schedule="constant",
            warmup_steps=0,
            eval_every=steps,
            eval_batches=1,
            sample_tokens=0,
            milestones=0,
            device=setup.device,
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


def save_batches(run: Run, setup: Setup) -> Path:
    """Write the batches that a run reads, (steps, B, T + 1) int32; return the file."""
    T = setup.shape.n_positions
    windows = Windows(load_ids(run.data, "train"), T, run.info()["train"]["seed"])
    file = setup.folder / "batches.npy"
    batches = windows.batch(0, setup.steps * setup.batch_size)  # (steps B, T + 1)
    np.save(file, batches.astype(np.int32).reshape(setup.steps, setup.batch_size, T + 1))
    return file


# ---------------------------------------------------------------------------------------------- programs


def own(dtype: str, run: Run, setup: Setup) -> Trainer:
    """Return the runner of gpt2demo's training of a run."""
    command = worker("train", {**setup.machine, "run": str(run.path)})
    return Trainer(f"{OWN} {dtype}", command, program=OWN, dtype=dtype, steps=setup.config.steps)


def worker(kind: str, settings: dict[str, Any]) -> list[str]:
    """Return the command of a runner of `train_worker`."""
    return [sys.executable, "-m", "gpt2demo.bench.train_worker", kind, json.dumps(settings)]


def peer(spec: str, dtype: str, weights: Path, batches: Path, setup: Setup) -> Trainer:
    """Return the runner of another program.

    Args:
        spec: `transformers`, or `nanogpt=FOLDER`.
        dtype: of the arithmetic.
        weights: the checkpoint folder with the initial weights.
        batches: file with the batches.
        setup: what is measured.
    """
    program, _, source = spec.partition("=")
    wanted = setup.config.compile
    settings = {
        "program": program,
        "folder": source,
        "dtype": dtype,
        "compile": wanted == "on" or (wanted == "auto" and setup.device == "cuda"),
        "checkpoint": str(weights),
        "batches": str(batches),
        "shape": setup.shape.model_dump(),
    }
    script = str(Path(__file__).parent / "peers" / "train_with.py")
    command = [sys.executable, script, json.dumps({**settings, **setup.machine, **RECIPE})]
    return Trainer(f"{program} {dtype}", command, program=program, dtype=dtype, steps=setup.config.steps)


# ---------------------------------------------------------------------------------------------- results


def rows(matmul: Runner, trainers: Sequence[Trainer], shape: ModelConfig, tokens: int) -> list[dict[str, Any]]:
    """Return the results of all programs: medians over the rounds, ratios within each round.

    Args:
        matmul: the runner of the matrix product.
        trainers: the programs.
        shape: of the model.
        tokens: per step.
    """
    return [
        {
            **speed(trainer, matmul, shape.flops_per_token, tokens),
            **learned(trainer, trainers[0]),
            "times": {other.name: compared(trainer, other) for other in trainers if other.program != OWN},
        }
        for trainer in trainers
    ]


def speed(trainer: Trainer, matmul: Runner, flops_per_token: int, tokens: int) -> dict[str, Any]:
    """Return speed and memory of a program. `of_matmul` is the fraction of the speed of a large matrix product in its dtype."""
    times = trainer.seconds_per_step
    flops = [tokens * flops_per_token / seconds for seconds in times]  # per second
    return {
        "name": trainer.name,
        "tokens_per_second": round(tokens / median(times)),
        "slowest": round(tokens / max(times)),
        "fastest": round(tokens / min(times)),
        "ms_per_step": round(median(times) * 1e3, 2),
        "megabytes": round(trainer.results[-1]["megabytes"]),
        "gflops": round(median(flops) / 1e9),
        "of_matmul": round(ratio(flops, [result[trainer.dtype] for result in matmul.results]), 3),
    }


def learned(trainer: Trainer, base: Trainer) -> dict[str, Any]:
    """Return a program's mean loss in the last round, and whether it is that of another program."""
    loss, expected = (program.results[-1]["loss"] for program in (trainer, base))
    return {"loss": round(loss, 4), "same_loss": abs(loss - expected) <= TOLERANCE * expected}


def compared(trainer: Trainer, other: Trainer) -> dict[str, float]:
    """Return how many times faster than another program one is: the median of the rounds, the lowest and the highest."""
    found = ratios(other.seconds_per_step, trainer.seconds_per_step)
    return {name: round(of(found), 2) for name, of in (("median", median), ("lowest", min), ("highest", max))}
