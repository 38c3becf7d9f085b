"""A contestant's process: loads a model once, then writes whenever a line on stdin asks for it.

A line is {"prompts": [[ids], ...], "count": N}; the answer {"ids": [[ids], ...], "first": seconds until every row has its first
new id, "seconds": all of them, "megabytes": resident memory}. Contestants of other programs, in `peers/`, do the same.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig
from gpt2demo.generation.batch import Batch
from gpt2demo.generation.continuation import Continuation
from gpt2demo.generation.streaming import NoText
from gpt2demo.interfaces import Engine

Answer = tuple[list[list[int]], float, float]


def open_engine(kind: str, folder: Path) -> Engine:
    """An engine of ours: `torch` on a checkpoint folder, `onnx` on an export."""
    if kind == "onnx":
        from gpt2demo.engines.onnx import OnnxEngine

        return OnnxEngine(folder, "cpu")
    from gpt2demo.engines.torch import TorchEngine
    from gpt2demo.runs.weights import load_model

    return TorchEngine(load_model(folder))


def write(engine: Engine, config: GenerateConfig, prompts: Sequence[Sequence[int]]) -> Answer:
    """Write behind prompts through the loop that `generate` has."""
    start = time.perf_counter()
    shared: Any = {"seed": 0, "n_positions": engine.n_positions, "ends": {}}
    rows = [Continuation(NoText(), ids, config, row=row, **shared) for row, ids in enumerate(prompts)]
    batch = Batch(engine, NoText(), rows, config, [plugins.create_sampler(spec) for spec in config.chain])
    batch.step()
    first = time.perf_counter() - start
    while batch.running:
        batch.step()
    return [row.ids for row in rows], first, time.perf_counter() - start


def read_memory() -> Answer:
    """Read an array that no cache holds, with all threads; the bytes a second stand where others say how long it took."""
    import torch

    array = torch.ones(2**27)  # 512 MiB
    times = []
    for _ in range(3):
        start = time.perf_counter()
        array.sum()
        times.append(time.perf_counter() - start)
    return [], 0.0, array.nbytes / min(times)


def serve(answer: Callable[[list[list[int]], int], Answer]) -> None:
    """Answer line by line until stdin ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        ids, first, seconds = answer(asked["prompts"], asked["count"])
        megabytes = psutil.Process().memory_info().rss / 1e6
        print(json.dumps({"ids": ids, "first": first, "seconds": seconds, "megabytes": megabytes}), flush=True)


def main(kind: str, folder: str, samplers: Sequence[str]) -> None:
    """Be the contestant `memory`, `torch` or `onnx`; the chain is greedy without samplers."""
    if kind == "memory":
        return serve(lambda prompts, count: read_memory())
    engine = open_engine(kind, Path(folder))
    chain: dict[str, Any] = {"samplers": samplers} if samplers else {"temperature": 0}
    return serve(lambda prompts, count: write(engine, GenerateConfig.create(max_new_tokens=count, **chain), prompts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
