"""The parts of `gpu.py`. Arguments: the part's name, the file for its result, and options as JSON.

A result has `rows` for a table and `notes`. It is saved whenever there is more of it, so that a part that is ended keeps what it
has measured.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = 77
GRID = [(batch, context) for batch in (1, 8, 64) for context in (1000, 256, 32)]  # a static cache grows: the largest first
RECIPE = {
    "tokenizer": "char", "n_layer": 6, "n_head": 6, "n_embd": 384, "n_positions": 256, "dropout": 0.2, "batch_size": 64,
    "steps": 5000, "learning_rate": 1e-3, "beta2": 0.99, "warmup_steps": 100, "eval_every": 250, "validation_fraction": 0.1,
}  # fmt: skip
"""nanoGPT's config/train_shakespeare_char.py."""


class Result:
    """The result of a part, in a file.

    Args:
        file: the file.
        gpu: whether there is a GPU; otherwise parts run in a small form.
        text: a text file, or None.
    """

    def __init__(self, file: Path, *, gpu: bool, text: str | None) -> None:
        self.gpu, self.text = gpu, text
        self._file = file
        self._content: dict[str, Any] = {"rows": [], "notes": []}

    def row(self, **values: Any) -> None:
        """Add a row of the table."""
        self._content["rows"].append(values)
        self.save()

    def note(self, line: str) -> None:
        """Add a line."""
        self._content["notes"].append(line)
        self.save()

    def save(self, **more: Any) -> None:
        """Write the file."""
        self._content |= more
        self._file.write_text(json.dumps(self._content), encoding="utf-8")

    def skip(self, reason: str) -> None:
        """End the part: it cannot run here."""
        self.save(reason=reason)
        sys.exit(SKIPPED)


def environment(result: Result) -> None:
    """Record versions and the speed of the machine."""
    import onnxruntime
    import torch

    names = ("torch", "onnxruntime-gpu", "onnxruntime", "onnxruntime-genai-cuda", "transformers", "onnx", "onnx-ir", "numpy")
    result.row(what="python", value=f"{platform.python_version()} on {platform.platform()}")
    for name in names:
        result.row(what=name, value=installed(name))
    result.row(what="onnxruntime providers", value=", ".join(onnxruntime.get_available_providers()))
    result.row(what="CUDA of torch, of onnxruntime", value=f"{torch.version.cuda}, {getattr(onnxruntime, 'cuda_version', None)}")
    if result.gpu:
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            result.row(what=f"card {index}", value=f"{card.name}, {card.total_memory / 1e9:.0f} GB, sm_{card.major}{card.minor}")
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.draw", "--format=csv,noheader"]
        result.row(what="driver, clocks, power", value=output(query))
    device = "cuda" if result.gpu else "cpu"
    from gpt2demo.bench.train_worker import matmul_speed
    from gpt2demo.bench.worker import read_memory

    result.row(what="memory, GB/s", value=round(read_memory(device)[2] / 1e9))
    for dtype in (torch.bfloat16, torch.float32):
        result.row(what=f"matrix product in {dtype}, TFLOP/s", value=round(matmul_speed(dtype, torch.device(device)) / 1e12, 2))


def installed(name: str) -> str:
    """Return the version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def output(command: list[str]) -> str:
    """Return what a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def tests(result: Result) -> None:
    """Run `pytest -m gpu` in the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        plain = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]  # without plugins that may be missing
        options = [*plain, "-m", "gpu", f"--junitxml={report}"]
        code = subprocess.run([sys.executable, "-m", "pytest", *options, "tests/gpu"], cwd=ROOT, check=False).returncode
        if not report.is_file():
            raise SystemExit(f"pytest ended with {code}")
        for case in ET.parse(report).getroot().iter("testcase"):  # our own file
            found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
            state, message = ("passed", "") if found is None else (found.tag, found.get("message", ""))
            result.row(test=case.get("name"), state=state, seconds=round(float(case.get("time", 0)), 1), message=message[:300])
    if code:
        raise SystemExit(f"pytest ended with {code}")


def decode(result: Result, shape: str, grid: list[tuple[int, int]], **settings: Any) -> None:
    """Measure decoding over a grid of batch sizes and contexts."""
    from gpt2demo.bench.generate import bench_grid
    from gpt2demo.config import BenchGenerateConfig

    peers = ["transformers"] + (["genai"] if importlib.util.find_spec("onnxruntime_genai") else [])
    config = BenchGenerateConfig.create(shape=shape, peers=tuple(peers), **settings)
    with tempfile.TemporaryDirectory() as folder:
        for row in bench_grid(config, grid, Path(folder), lambda line: print(line, flush=True)):
            point = {"batch": row.pop("batch_size", None), "context": row.pop("prompt_tokens", None)}
            result.row(name=row.pop("name"), **point, **row)


def decode_small(result: Result) -> None:
    """Measure a small shape; on a CPU, only that everything runs."""
    if result.gpu:
        decode(result, "seed", [(1, 64), (8, 64), (64, 32)], new_tokens=32, rounds=5, device="cuda")
    else:
        decode(result, "nano", [(1, 8), (2, 8)], new_tokens=4, rounds=1, device="cpu", dtypes=("fp32",))


def decode_gpt2(result: Result) -> None:
    """Measure GPT-2's shape."""
    decode(result, "gpt2", GRID, new_tokens=24, rounds=5, device="cuda")


def decode_xl(result: Result) -> None:
    """Measure gpt2-xl's shape."""
    decode(result, "gpt2-xl", [(1, 256), (8, 256), (64, 256)], new_tokens=24, rounds=3, device="cuda")


def training(result: Result) -> None:
    """Measure training; model FLOPs utilization is relative to the peak that the maker states."""
    import torch

    from gpt2demo.bench.train import bench_train
    from gpt2demo.config import BenchTrainConfig
    from gpt2demo.engines.hardware import peak_flops

    settings: dict[str, Any] = {"shape": "gpt2", "dtypes": ("bf16",), "rounds": 3, "steps": 10, "batch_size": 32}
    if not result.gpu:
        settings = {"shape": "nano", "dtypes": ("fp32",), "rounds": 1, "steps": 2, "batch_size": 2}
    config = BenchTrainConfig.create(peers=("transformers",), **settings)
    peak = peak_flops(torch.device("cuda"), torch.bfloat16) if result.gpu else None
    with tempfile.TemporaryDirectory() as folder:
        for row in bench_train(config, Path(folder), lambda line: print(line, flush=True)):
            times = {f"times {name}": ratio["median"] for name, ratio in row.pop("times").items()}
            utilization = round(row["gflops"] * 1e9 / peak, 3) if peak else None
            result.row(**row, utilization=utilization, **times)


def memory(result: Result) -> None:
    """Find the largest batch that trains, and compare it with what `--batch-size auto` chooses."""
    if importlib.util.find_spec("gpt2demo.training.fit") is None:
        result.skip("this version has no --batch-size auto")
    from gpt2demo.config import preset
    from gpt2demo.training.fit import largest_batch

    for shape in ("gpt2", "gpt2-xl") if result.gpu else ("nano",):
        chosen = preset(shape)
        for checkpointing in (False, True) if result.gpu else (True,):
            train = chosen.train.with_changes(batch_size=1, grad_accumulation=1, checkpoint_activations=checkpointing)
            start = time.perf_counter()
            largest = largest_that_runs(chosen.model, train, 4096 if result.gpu else 2)
            measured = time.perf_counter() - start
            start = time.perf_counter()
            fitted, _ = largest_batch(chosen.model, train.with_changes(batch_size=largest, grad_accumulation=1))
            seconds = {"seconds of search": round(measured, 1), "seconds of auto": round(time.perf_counter() - start, 1)}
            share = round(fitted.batch_size / largest, 3)
            result.row(shape=shape, checkpointing=checkpointing, largest=largest, auto=fitted.batch_size, share=share, **seconds)


def largest_that_runs(model: Any, train: Any, limit: int) -> int:
    """Return the largest batch size up to a limit that trains a step: doubled until memory runs out, then bisected."""
    from gpt2demo.training.fit import probe

    def runs(size: int) -> bool:
        with probe(model, train) as process:  # a new one: memory may have run out in the last
            return process.measure(size) is not None

    low, high = 0, 1
    while high <= limit and runs(high):
        low, high = high, 2 * high
    while high <= limit and high - low > max(1, low // 32):
        middle = (low + high) // 2
        low, high = (middle, high) if runs(middle) else (low, middle)
    return low


def quality(result: Result) -> None:
    """Train nanoGPT's character recipe on the text; its published validation loss is 1.4697."""
    if result.text is None:
        result.skip("needs --text, tiny Shakespeare for a comparison")
    import gpt2demo
    from gpt2demo.events import Evaluation, Step

    start, best, speeds = time.perf_counter(), float("inf"), []
    for event in gpt2demo.train(result.text, run="quality", device="cuda", sample_tokens=0, **RECIPE):
        if isinstance(event, Step):
            speeds.append(event.tokens_per_second)
        if isinstance(event, Evaluation):
            best = min(best, event.validation_loss)
            seconds = round(time.perf_counter() - start, 1)
            result.row(step=event.step, validation_loss=round(event.validation_loss, 4), best=round(best, 4), seconds=seconds)
    result.note(f"best validation loss {best:.4f}, {sorted(speeds)[len(speeds) // 2]:,.0f} tokens/s in the median step")


def processes(result: Result) -> None:
    """Train in several processes with the command line; on a CPU in two."""
    import torch

    cards = torch.cuda.device_count() if result.gpu else 0
    if result.gpu and cards < 2:
        result.skip(f"needs at least 2 GPUs; there is {cards}")
    counts = [count for count in (1, 2, 4, 8) if count <= cards] if result.gpu else [1, 2]
    small = ["--preset", "nano", "--n-layer", "1", "--steps", "4", "--batch-size", "2", "--grad-accumulation", "2"]
    large = ["--preset", "gpt2", "--tokenizer", "byte", "--steps", "20", "--batch-size", "16", "--grad-accumulation", "8"]
    for count in counts:
        options = ["--nproc", str(count), "--run", f"processes-{count}", "--sample-tokens", "0", "--eval-batches", "1"]
        command = [sys.executable, "-m", "gpt2demo", "train", "--dataset", "tales:stories=2000"]
        subprocess.run([*command, *(large if result.gpu else small), *options], check=True)
        lines = Path("runs", f"processes-{count}", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [entry for entry in map(json.loads, lines) if "tokens_per_second" in entry]
        half = sorted(entry["tokens_per_second"] for entry in steps[len(steps) // 2 :])
        result.row(processes=count, tokens_per_second=round(half[len(half) // 2]), last_loss=steps[-1]["loss"])


def profile(result: Result) -> None:
    """Record the kernels of a decoding step and of a training step with PyTorch's profiler."""
    import numpy as np
    import torch

    from gpt2demo.config import preset
    from gpt2demo.engines.torch import TorchEngine
    from gpt2demo.metrics import token_losses
    from gpt2demo.model import GPT2

    shape = preset("gpt2").model.with_changes(dropout=0.0)
    model = GPT2(shape).cuda()
    engine = TorchEngine(GPT2(shape).cuda().half().eval())
    engine.feed(np.zeros((1, 256), np.int64))
    one = np.zeros((1, 1), np.int64)
    for _ in range(3):
        engine.feed(one)
    compiled = torch.compile(token_losses)
    ids = torch.randint(0, shape.vocab_size, (16, shape.n_positions + 1), device="cuda")

    def train_step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(model, ids).mean()
        loss.backward()
        model.zero_grad()

    train_step()
    tables = {name: kernels(work) for name, work in (("decode", lambda: engine.feed(one)), ("train", train_step))}
    result.save(rows=tables["decode"], more_rows=tables["train"])


def kernels(work: Callable[[], Any]) -> list[dict[str, Any]]:
    """Return the kernels of a piece of work with the most time."""
    import torch
    from torch.profiler import ProfilerActivity

    work()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        start = time.perf_counter()
        for _ in range(5):
            work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    found = sorted(recorded.key_averages(), key=lambda entry: -entry.self_device_time_total)[:15]
    rows = [
        {"kernel": entry.key[:90], "calls": entry.count // 5, "µs": round(entry.self_device_time_total / 5, 1)} for entry in found
    ]
    return [{"kernel": "all of it, by the clock", "calls": 1, "µs": round(seconds / 5 * 1e6, 1)}, *rows]


PARTS: dict[str, Callable[[Result], None]] = {
    "environment": environment,
    "tests": tests,
    "decode-gpt2": decode_gpt2,
    "training": training,
    "memory": memory,
    "decode-small": decode_small,
    "profile": profile,
    "quality": quality,
    "processes": processes,
    "decode-gpt2-xl": decode_xl,
}


if __name__ == "__main__":
    PARTS[sys.argv[1]](Result(Path(sys.argv[2]), **json.loads(sys.argv[3])))
