"""Runner of gpt2demo's engines for `bench generate`: load a model once, then generate for each request on stdin.

A request is a line {"prompts": [[ids], ...], "count": N}. The result is a line {"ids": [[ids], ...], "first": seconds until each
row has its first new id, "seconds": total time, "megabytes": resident memory}, and "eager" where steps on a GPU are not replayed
from a CUDA graph: the reason. The runners of other programs, in `peers/`, use the same protocol.
"""

from __future__ import annotations

import json
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


def open_engine(kind: str, folder: Path, device: str = "cpu", dtype: str = "fp32", *, eager: bool = False) -> Engine:
    """Load an engine.

    Args:
        kind: `torch` or `onnx`.
        folder: a checkpoint for `torch`, an export for `onnx`.
        device: where to run.
        dtype: of the weights in PyTorch.
        eager: without CUDA graphs, in PyTorch.
    """
    if kind == "onnx":
        from gpt2demo.engines.onnx import OnnxEngine

        return OnnxEngine(folder, device)  # type: ignore[arg-type]  # a resolved device
    import torch

    from gpt2demo.engines.torch import TorchEngine
    from gpt2demo.runs.weights import load_model

    model = load_model(folder).to(device, {"fp32": torch.float32, "fp16": torch.float16}[dtype])
    return TorchEngine(model, fixed_steps=False if eager else None)


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


def read_memory(device: str) -> Result:
    """Return bytes per second in place of the total time: of reading with all threads of a CPU, or of a copy on a GPU.

    The array is larger than any cache. A copy reads and writes each byte.
    """
    import torch

    array = torch.ones(2**27 if device == "cpu" else 2**30, device=device)  # 512 MiB, 4 GiB
    target = None if device == "cpu" else torch.empty_like(array)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        if target is None:
            array.sum()
        else:
            target.copy_(array)
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return [], 0.0, array.nbytes * (1 if target is None else 2) / min(times)


def main(kind: str, folder: str, options: dict[str, Any]) -> None:
    """Run a runner.

    Args:
        kind: `memory`, `torch` or `onnx`.
        folder: as for `open_engine`.
        options: `device`, `dtype` and `eager` as for `open_engine`, and `samplers`; without them the generation is greedy.
    """
    samplers = options.pop("samplers", [])
    chain: dict[str, Any] = {"samplers": samplers} if samplers else {"temperature": 0}
    engine = None if kind == "memory" else open_engine(kind, Path(folder), **options)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        config = GenerateConfig.create(max_new_tokens=request["count"], **chain)
        ids, first, seconds = generate(engine, config, request["prompts"]) if engine else read_memory(options["device"])
        reason = engine.eager_reason if options.get("device") == "cuda" and engine else None  # type: ignore[attr-defined]  # both have it
        memory = psutil.Process().memory_info().rss / 1e6
        return {"ids": ids, "first": first, "seconds": seconds, "megabytes": memory, "eager": reason}

    serve(answer)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
