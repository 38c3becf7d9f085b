"""Runner of gpt2demo's engines for `bench generate`: load a model once, then generate for each request on stdin.

A request is a line {"prompts": [[ids], ...], "count": N}. The result is a line {"ids": [[ids], ...], "first": seconds until each
row has its first new id, "seconds": total time, "megabytes": resident memory}. The runners of other programs, in `peers/`, use
the same protocol.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from gpt2demo.bench.protocol import serve
from gpt2demo.config import GenerateConfig
from gpt2demo.generation.batch import Batch
from gpt2demo.generation.continuation import Continuation
from gpt2demo.generation.streaming import NoText
from gpt2demo.interfaces import Engine
from gpt2demo.sampling.chains import create_chain

Result = tuple[list[list[int]], float, float]
"""New ids of each row, seconds until the first, total seconds."""


def open_engine(kind: str, folder: Path) -> Engine:
    """Load an engine: `torch` from a checkpoint folder, `onnx` from an export."""
    if kind == "onnx":
        from gpt2demo.engines.onnx import OnnxEngine

        return OnnxEngine(folder, "cpu")
    from gpt2demo.engines.torch import TorchEngine
    from gpt2demo.runs.weights import load_model

    return TorchEngine(load_model(folder))


def generate(engine: Engine, config: GenerateConfig, prompts: Sequence[Sequence[int]]) -> Result:
    """Continue prompts with the same loop as `gpt2demo generate`."""
    start = time.perf_counter()
    shared: Any = {"seed": 0, "n_positions": engine.n_positions, "ends": {}}
    rows = [Continuation(NoText(), ids, config, row=row, **shared) for row, ids in enumerate(prompts)]
    batch = Batch(engine, NoText(), rows, config, create_chain(config.chain))
    batch.step()
    first = time.perf_counter() - start
    while batch.running:
        batch.step()
    return [row.ids for row in rows], first, time.perf_counter() - start


def read_memory() -> Result:
    """Read an array that is larger than any cache with all threads; return bytes per second in place of the total time."""
    import torch

    array = torch.ones(2**27)  # 512 MiB
    times = []
    for _ in range(3):
        start = time.perf_counter()
        array.sum()
        times.append(time.perf_counter() - start)
    return [], 0.0, array.nbytes / min(times)


def main(kind: str, folder: str, samplers: Sequence[str]) -> None:
    """Run the runner `memory`, `torch` or `onnx`. Without samplers the generation is greedy."""
    chain: dict[str, Any] = {"samplers": samplers} if samplers else {"temperature": 0}
    engine = None if kind == "memory" else open_engine(kind, Path(folder))

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        config = GenerateConfig.create(max_new_tokens=request["count"], **chain)
        ids, first, seconds = generate(engine, config, request["prompts"]) if engine else read_memory()
        return {"ids": ids, "first": first, "seconds": seconds, "megabytes": psutil.Process().memory_info().rss / 1e6}

    serve(answer)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
