"""Memory that runs out is recognized wherever it happens, and reported in one line with advice."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from battery import Trials
from samples import TEXT, Cli, assert_one_line_error, save_checkpoint

from gpt2demo.config import ModelConfig
from gpt2demo.errors import Error, PluginFailure
from gpt2demo.memory import memory_advice, out_of_memory
from gpt2demo.runs import weights
from gpt2demo.runs.folder import Run
from gpt2demo.runs.importing import import_model

RECOGNIZED = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("unable to mmap 172481992 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("Failed to allocate memory for requested buffer of size 9"),
    RuntimeError("CUDA failure 2: out of memory ; GPU=0"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]
OTHER = [
    ValueError("memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    PluginFailure("raised MemoryError"),
    Error("bad_alloc"),
]


@pytest.mark.parametrize("error", RECOGNIZED, ids=repr)
def test_memory_that_ran_out_is_recognized(error: Exception) -> None:
    assert out_of_memory(error)
    with pytest.raises(Error, match="^reading: out of memory; use less$"), memory_advice("reading", "use less"):
        raise error


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_other_errors_are_unchanged(error: Exception) -> None:
    assert not out_of_memory(error)
    with pytest.raises(type(error), match=re.escape(str(error))), memory_advice("reading", "use less"):
        raise error


# ---------------------------------------------------------------------------------------------- injected


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")], ids=repr)
@pytest.mark.parametrize(
    ("failing", "words"),
    [
        ("gpt2demo.generation.generate.create_chain", ["generate", "mine", "--max-new-tokens=3"]),
        ("gpt2demo.engines.torch.TorchEngine.feed", ["generate", "mine", "--max-new-tokens=3"]),
        ("gpt2demo.generation.load.checkpoint.load_tokenizer", ["generate", "mine", "--max-new-tokens=3"]),
        ("gpt2demo.runs.weights.with_weights", ["generate", "mine", "--max-new-tokens=3"]),
        ("gpt2demo.engines.torch.TorchEngine.feed", ["chat", "mine", "--max-new-tokens=3"]),
        ("gpt2demo.engines.torch.TorchEngine.logits", ["eval", "mine"]),
        ("gpt2demo.runs.importing.with_weights", ["import", "theirs"]),
        ("gpt2demo.runs.importing.read_tokenizer", ["import", "theirs"]),
        ("gpt2demo.runs.importing.save_checkpoint", ["import", "theirs"]),
        ("gpt2demo.tokenization.byte.ByteTokenizer.encode", ["generate", "mine", "--max-new-tokens=3"]),
        ("gpt2demo.data.preparation.prepare_corpus", ["data", "text.txt"]),
        ("gpt2demo.runs.find.list_runs", ["runs"]),
    ],
)
def test_every_command_gives_advice(
    run_copy: Run,
    hf_folder: Path,
    text_file: Path,
    invoke: Cli,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    words: list[str],
    error: Exception,
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(failing, fail)
    assert_one_line_error(invoke(*words, stdin="x\n"), 1, "out of memory", "; ")


# ---------------------------------------------------------------------------------------------- files larger than the memory


def test_weights_larger_than_the_memory_are_refused_before_they_are_read(
    tmp_path: Path, hf_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system would kill a process that reads them."""
    path = save_checkpoint(tmp_path / "run")
    for name in ("virtual_memory", "swap_memory"):
        monkeypatch.setattr(psutil, name, lambda: SimpleNamespace(total=40_000))
    monkeypatch.setattr(weights, "check_finite", lambda *args: pytest.fail("a weight was read"))
    actions: list[Callable[[], Any]] = [lambda: weights.load_model(path), lambda: import_model(str(hf_folder), report=print)]
    for action in actions:
        with pytest.raises(Error, match="loading the weights: out of memory; close other programs, or use a smaller model"):
            action()


# ---------------------------------------------------------------------------------------------- real limits

COMMANDS = {
    "generate": ["generate", "big", "--max-new-tokens=2"],
    "batch": ["generate", "big", "--max-new-tokens=2", "--samples=64"],
    "chat": ["chat", "big", "--max-new-tokens=2"],
    "eval": ["eval", "big", "text.txt"],
    "import": ["import", "runs/big/checkpoints/step-00000001"],
    "train": [
        "train",
        "text.txt",
        "--n-embd=512",
        "--n-head=8",
        "--n-layer=6",
        "--steps=1",
        "--tokenizer=bpe",
        "--vocab-size=400",
    ],
}
PEAK = "import atexit; atexit.register(lambda: open('peak', 'w').write(open('/proc/self/status').read()))\n"
MAIN = "from gpt2demo.cli import main\nmain()"


def run_limited(
    folder: Path, code: str, words: list[str], limit: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess[str]:
    """Run a command with an address space of at most `limit` bytes."""
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, "GPT2DEMO_RUNS_DIR": "runs", "MALLOC_ARENA_MAX": "1"},
        input="x\n",
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        timeout=600,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of memory")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_enough_memory_gives_advice_and_leaves_nothing(tmp_path: Path, trial: Trials, command: str) -> None:
    """Limits from what the imports of torch need to what the whole command needs. Below, not even the imports can say why."""
    shape = ModelConfig(vocab_size=256, n_positions=256, n_embd=768, n_head=12, n_layer=6)
    save_checkpoint(tmp_path / "runs" / "big", shape=shape)
    (tmp_path / "runs" / "big" / "run.json").write_text('{"format": 1}', encoding="utf-8")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    done = run_limited(tmp_path, PEAK + MAIN, COMMANDS[command])
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(re.findall(r"VmPeak:\s+(\d+)", (tmp_path / "peak").read_text(encoding="utf-8"))[0])
    least = 700 * 2**20
    for step in range(8):
        limit = least + (peak - least) * step // 8
        before = set((tmp_path / "runs").iterdir())
        with trial(f"{limit / 2**20:.0f} MiB"):
            done = run_limited(tmp_path, MAIN, COMMANDS[command], limit)
            if done.returncode:
                assert_one_line_error(done, 1, "out of memory")
                left = set((tmp_path / "runs").iterdir()) - before
                assert all(Run(path).exists for path in left), left
