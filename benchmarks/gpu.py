"""Prove and measure gpt2demo on an NVIDIA GPU, in one command. Needs this checkout, PyTorch for CUDA, and no network.

    python benchmarks/gpu.py --wheels wheels --text tinyshakespeare.txt --output results

Each part runs in a process of its own with a time limit; if it fails or hangs, the others still run. `results/gpu.json` has all
results, `results/gpu.md` the tables, `results/gpu.log` what the parts printed. They are written after each part. Without a GPU,
parts that need one are skipped, and the others run in a small form, to show that they work. `--list` shows the parts.

The wheels that PyTorch's environment lacks are installed into a temporary folder; see docs/gpu.md. gpt2demo is used from the
checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wheels import join

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 6
"""Factor of the time limits without a GPU, where the parts show only that they work: a CPU may be slow or shared."""
SKIPPED = 77
"""Exit code of a part that cannot run here; its result has the reason."""


@dataclass(frozen=True)
class Part:
    """A part of the measurements.

    Attributes:
        summary: what it does.
        seconds: time limit.
        needs_gpu: whether it is skipped without one.
    """

    summary: str
    seconds: int
    needs_gpu: bool = False


PARTS = {
    "environment": Part("driver, card, versions, providers; memory bandwidth and speed of matrix products", 60),
    "tests": Part("pytest -m gpu", 150),
    "decode-gpt2": Part("decoding beside transformers and genai: batch 1, 8, 64; context 32, 256, 1000", 170, needs_gpu=True),
    "training": Part(
        "training of gpt2 at context 1,024 in bf16 beside transformers: speed, model FLOPs utilization, memory", 110
    ),
    "memory": Part("largest batch of gpt2 with and without activation checkpointing, and what --batch-size auto chooses", 80),
    "decode-small": Part("decoding of a small shape, where launches dominate", 60),
    "profile": Part("kernels of a decoding step and of a training step by time", 60, needs_gpu=True),
    "quality": Part("nanoGPT's character recipe on --text: validation loss and time", 150, needs_gpu=True),
    "processes": Part("training in 2, 4, 8 processes, one GPU each", 90),
    "decode-gpt2-xl": Part("decoding of gpt2-xl", 170, needs_gpu=True),
}


@dataclass
class Kit:
    """A run of the kit.

    Attributes:
        output: folder of the results.
        options: for the parts.
        environment: variables of their processes.
        gpu: whether there is one.
        results: of the parts so far.
    """

    output: Path
    options: dict[str, Any]
    environment: dict[str, str]
    gpu: bool
    results: dict[str, dict[str, Any]]

    def run(self, name: str, seconds: float) -> None:
        """Run a part within a time limit, and record its result."""
        part, started = PARTS[name], time.perf_counter()
        if part.needs_gpu and not self.gpu:
            self._record(name, {"state": "skipped", "reason": "needs an NVIDIA GPU"})
            return
        limit = min(part.seconds if self.gpu else PATIENCE * part.seconds, seconds)
        if limit < 10:
            self._record(name, {"state": "skipped", "reason": f"no time left; run it with --parts {name}"})
            return
        with tempfile.TemporaryDirectory(prefix="gpt2demo-gpu-") as folder:
            result = Path(folder) / "result.json"
            state, reason = self._process(name, result, limit)
            found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
        found |= {"state": state, "seconds": round(time.perf_counter() - started, 1)}
        self._record(name, found if reason is None else {"reason": reason, **found})

    def _process(self, name: str, result: Path, limit: float) -> tuple[str, str | None]:
        """Run a part in a process that is ended with all of its own; return state and reason."""
        command = [sys.executable, str(ROOT / "benchmarks" / "parts.py"), name, str(result), json.dumps(self.options)]
        with (self.output / "gpu.log").open("a", encoding="utf-8") as log:
            print(f"\n===== {name}", file=log, flush=True)
            settings: dict[str, Any] = {"stdout": log, "stderr": log, "env": self.environment, "cwd": result.parent}
            process = subprocess.Popen(command, start_new_session=True, **settings)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                return "timeout", f"ended after {limit:.0f} seconds"
            finally:
                if os.name == "posix":
                    end_group(process.pid)
                process.kill()
                process.wait()
        if code == SKIPPED:
            return "skipped", None
        return ("done", None) if code == 0 else ("failed", f"exit code {code}; see gpu.log")

    def _record(self, name: str, result: dict[str, Any]) -> None:
        """Keep a result and write all of them."""
        self.results[name] = result
        print(f"{name}: {result['state']} {result.get('reason', '')} {result.get('seconds', '')}".rstrip(), flush=True)
        (self.output / "gpu.json").write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        (self.output / "gpu.md").write_text(document(self.results), encoding="utf-8")


def end_group(pid: int) -> None:
    """End the processes that a part has started."""
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(pid, signal.SIGKILL)


# ---------------------------------------------------------------------------------------------- results


def document(results: dict[str, dict[str, Any]]) -> str:
    """Return all results as Markdown."""
    lines = ["# gpt2demo on a GPU", "", *table([{"part": name, **_state(result)} for name, result in results.items()])]
    for name, result in results.items():
        lines += ["", f"## {name}", "", PARTS[name].summary, ""]
        lines += [f"- {line}" for line in result.get("notes", [])]
        for rows in (result.get("rows"), result.get("more_rows")):
            lines += ["", *table(rows)] if rows else []
    return "\n".join(lines) + "\n"


def _state(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result.get(key, "") for key in ("state", "seconds", "reason")}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *cells)]


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.replace("|", "/").split())


# ---------------------------------------------------------------------------------------------- start


def packages(wheels: Path | None, target: Path) -> list[str]:
    """Install wheels into a folder, describe gpt2demo in it, and return the import paths.

    An installation from the checkout would need a build tool; the package's name and version are all that gpt2demo reads of it.
    """
    if wheels is not None:
        files = [str(wheel) for wheel in join(wheels, target / "wheels")]
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", str(target / "site"), *files], check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    described = target / "site" / f"gpt2demo-{project['version']}.dist-info"
    described.mkdir(parents=True)
    described.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.4\nName: gpt2demo\nVersion: {project['version']}\n", encoding="utf-8"
    )
    return [str(target / "site"), str(ROOT)]


def has_gpu(environment: dict[str, str]) -> bool:
    """Return whether PyTorch can use an NVIDIA GPU."""
    code = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description="Prove and measure gpt2demo on an NVIDIA GPU.")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help="folder of the results")
    parser.add_argument("--wheels", type=Path, help="folder with wheels, or parts of them, to install")
    parser.add_argument("--text", type=Path, help="text file for the quality part")
    parser.add_argument("--parts", help="comma-separated parts (default: all)")
    parser.add_argument("--seconds", type=float, help="time for all parts (default: 530 with a GPU, 3000 without)")
    parser.add_argument("--list", action="store_true", help="show the parts")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{name:15} {part.seconds:4} s  {part.summary}" for name, part in PARTS.items()))
        return
    names = given.parts.split(",") if given.parts else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; available: {', '.join(PARTS)}")
    started = time.perf_counter()
    output = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpt2demo-packages-") as folder:
        paths = packages(given.wheels, Path(folder))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)}
        gpu = has_gpu(environment)
        kit = Kit(output, {"gpu": gpu, "text": str(given.text.resolve()) if given.text else None}, environment, gpu, {})
        total = given.seconds or (530 if kit.gpu else 3000)
        for name in names:
            kit.run(name, total - (time.perf_counter() - started))
    failed = [name for name, result in kit.results.items() if result["state"] in ("failed", "timeout")]
    print((output / "gpu.md").read_text(encoding="utf-8"))
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
