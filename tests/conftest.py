"""What the tests share: small texts, small settings, and folders of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gpt2demo import plugins
from gpt2demo.config import ModelConfig
from gpt2demo.model import GPT2

SMALL = {
    "tokenizer": "byte",
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "n_positions": 32,
    "batch_size": 8,
    "steps": 12,
    "eval_batches": 2,
}
"""Settings of a training that takes a second."""

SHAPE = ModelConfig(vocab_size=97, n_positions=24, n_embd=32, n_head=4, n_layer=2)
"""A shape in which no two sizes are equal."""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and exports of a test live in its own folder; plugins are looked up anew."""
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(tmp_path / "exports"))
    monkeypatch.delenv("GPT2DEMO_NO_PLUGINS", raising=False)


@pytest.fixture
def fresh_plugins() -> Iterator[None]:
    """Forget the plugins before and after a test that changes which there are."""
    plugins.registry.cache_clear()
    yield
    plugins.registry.cache_clear()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads of torch wait for each other when the machine is busy; a model this small gains nothing from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decided_model(n_positions: int) -> GPT2:
    """A model with random weights, decided enough that its text neither repeats one token nor is mere noise."""
    torch.manual_seed(3)
    gpt2 = GPT2(ModelConfig(n_positions=n_positions, n_embd=32, n_head=2, n_layer=2)).eval()
    with torch.no_grad():
        for parameter in gpt2.h.parameters():
            parameter.mul_(12)
        gpt2.wpe.weight.mul_(50)
    return gpt2


TEXT = "".join(f"Line {n}: the quick brown fox jumps over {n % 7} lazy dogs, said Zoë.\n" for n in range(300))
"""Twenty thousand characters of text with some structure."""


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A file with the text."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the real program: `cli("train", "my.txt")` gives its exit code, stdout and stderr."""

    def run(
        *words: object, stdin: str = "", env: dict[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpt2demo", *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120, check=False
        )

    return run
