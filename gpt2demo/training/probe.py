"""Measure a few training steps of random tokens. `fit.py` runs this in a process of its own, which memory may run out of.

stdin: a line with the settings, then a line with batch size and number of steps for each measurement. stdout: a line with what
is available, then a line for each measurement, null if memory ran out. All lines are JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from gpt2demo import plugins
from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.data.windows import Windows
from gpt2demo.engines.hardware import keep_freed_memory, peak_memory, torch_device, training_dtype
from gpt2demo.errors import Error
from gpt2demo.memory import available_memory, require_memory
from gpt2demo.metrics import token_losses
from gpt2demo.model import GPT2
from gpt2demo.training.batches import Batches
from gpt2demo.training.optimizers import freeze
from gpt2demo.training.parallel import Replicated
from gpt2demo.training.processes import Group
from gpt2demo.training.step import OptimizerStep


class Trial:
    """A model and its optimizer, as a training has them, for steps that are only measured.

    Args:
        shape: of the model.
        config: training settings.
    """

    def __init__(self, shape: ModelConfig, config: TrainConfig) -> None:
        require_memory(4 * shape.n_parameters)
        self.config, self.device = config, torch_device(config.device)
        self.dtype = training_dtype(config.dtype, self.device)
        model = GPT2(shape)
        freeze(model, config.freeze_layers)
        model.checkpoint_activations = config.checkpoint_activations
        self.layout = Replicated(Group(), self.device)
        self.model = self.layout.place(model).train()
        self.optimizer = plugins.create_optimizer(config.optimizer, self.model, config)
        self._ids = np.random.default_rng(0).integers(0, shape.vocab_size, 4 * shape.n_positions + 1, dtype=np.uint32)

    def measure(self, batch_size: int, steps: int) -> dict[str, float]:
        """Take some steps of up to two micro-batches, after a first one that allocates, and evaluate a batch.

        Returns:
            `memory`, the peak of this process in bytes; `micro_batch_seconds` and `evaluation_seconds` of a batch; and `state`,
            the bytes of the optimizer state.
        """
        count = min(self.config.grad_accumulation, 2)
        config = self.config.with_changes(batch_size=batch_size, grad_accumulation=count)
        windows = Windows(self._ids, self.model.config.n_positions, config.seed)
        batches = Batches(windows, batch_size, self.model.config.vocab_size, self.device, Path())
        step = OptimizerStep(self.model, self.optimizer, batches, config, self.dtype, self.layout)
        times = list(_durations(step, steps + 1))
        self.model.eval()
        started = time.perf_counter()
        with torch.inference_mode(), step.autocast():
            float(token_losses(self.model, batches.batch(0)).mean())
        seconds = time.perf_counter() - started
        self.model.train()
        tensors = (
            value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
        )
        return {
            "memory": peak_memory(self.device),
            "micro_batch_seconds": float(np.median(times[1:])) / count,
            "evaluation_seconds": seconds,
            "state": sum(tensor.nbytes for tensor in tensors),
        }


def _durations(step: OptimizerStep, count: int) -> Iterator[float]:
    """Take steps with a learning rate of 0, and yield the seconds of each."""
    for number in range(count):
        started = time.perf_counter()
        step.take(number, 0.0)
        yield time.perf_counter() - started


def available(config: TrainConfig) -> dict[str, Any]:
    """Return the device, the dtype, and the memory that a training may use there, in bytes."""
    device = torch_device(config.device)
    own = psutil.Process().memory_info().rss  # part of the peak, too
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory() + own
    dtype = training_dtype(config.dtype, device)
    return {"device": device.type, "dtype": str(dtype).removeprefix("torch."), "available": free}


def main() -> None:
    """Answer the requests on stdin."""
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what plugins print
    settings = json.loads(sys.stdin.readline())
    config = TrainConfig.create(**settings["train"])
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    print(json.dumps(available(config)), file=results)
    try:
        trial = Trial(ModelConfig.create(**settings["model"]), config)
        for line in sys.stdin:
            batch_size, steps = json.loads(line)
            print(json.dumps(trial.measure(batch_size, steps)), file=results)
    except MemoryError:
        print(json.dumps(None), file=results)
    except Error as error:
        print(json.dumps(None if "out of memory" in str(error) else {"error": str(error)}), file=results)


if __name__ == "__main__":
    main()
