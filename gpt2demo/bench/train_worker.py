"""Runners of `bench train`: gpt2demo's training, and the speed of a matrix product. Arguments: name, settings as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gpt2demo.bench.protocol import serve
from gpt2demo.engines.hardware import peak_memory
from gpt2demo.runs.folder import Run
from gpt2demo.training.events import Event, Step
from gpt2demo.training.train import train_run

PRODUCTS = 5
SIZES = {"cuda": 8192}  # rows of the square matrices; elsewhere 2048
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def train_steps(events: Iterator[Event], steps: int, device: torch.device) -> dict[str, float]:
    """Take steps of a training; return the seconds, the mean loss and the peak memory."""
    start = time.perf_counter()
    losses: list[float] = []
    while len(losses) < steps:
        if isinstance(event := next(events), Step):
            losses.append(event.loss)
    synchronize(device)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "loss": sum(losses) / steps, "megabytes": peak_memory(device) / 1e6}


def synchronize(device: torch.device) -> None:
    """Wait for the work of a GPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def matmul_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Return the floating-point operations per second of the fastest of a few products of square matrices."""
    size = SIZES.get(device.type, 2048)
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    times = []
    for _ in range(PRODUCTS):
        synchronize(device)
        start = time.perf_counter()
        matrix @ matrix
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def main(name: str, settings: dict[str, Any]) -> None:
    """Run the runner `train` (of a prepared run folder) or `matmul`."""
    device = torch.device(settings["device"])
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    if name == "matmul":
        serve(lambda request: {dtype: matmul_speed(DTYPES[dtype], device) for dtype in settings["dtypes"]})
    else:
        events = train_run(Run(Path(settings["run"])))
        serve(lambda request: train_steps(events, request["steps"], device))
    sys.stdout.flush()
    os._exit(0)  # without the checkpoint that leaving the training would write


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
