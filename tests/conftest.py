"""Fixtures for all tests: folders of their own, plugins that are looked up anew, and the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from samples import TEXT, Cli

from gpt2demo import plugins


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


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A file with the text."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


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
