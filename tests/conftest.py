"""Shared fixtures: separate folders for each test, a trained run, and the command line in this or in a process of its own."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

# Tests use tiny models, for which a second thread only waits. Set before torch is imported, and inherited by child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GPT2DEMO_TRACKERS", "none")  # an installed gpt2demo-trackers does not record the trainings of tests

import numpy as np
import pytest
import torch
from battery import pytest_collection_modifyitems, pytest_runtest_call, pytest_terminal_summary, trial  # noqa: F401
from hypothesis import settings
from samples import SMALL, TEXT, Cli, save_checkpoint

import gpt2demo
from gpt2demo import plugins
from gpt2demo.cli import main
from gpt2demo.export.export import export_model
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run

settings.register_profile("no deadline", deadline=None)  # a busy machine is no reason to fail
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the runs and exports of a test in its `tmp_path`, and enable plugins."""
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("GPT2DEMO_EXPORTS_DIR", str(tmp_path / "exports"))
    monkeypatch.delenv("GPT2DEMO_NO_PLUGINS", raising=False)


@pytest.fixture
def fresh_plugins() -> Iterator[None]:
    """Clear the plugin registry before and after a test that changes the installed plugins."""
    plugins.registry.cache_clear()
    yield
    plugins.registry.cache_clear()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread of torch, whatever earlier tests have set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Write `samples.TEXT` to a file."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------- a trained run


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a run on `samples.TEXT` with the settings `samples.SMALL`, once per test process.

    It has finished and has checkpoints at steps 6 and 12. A test that changes it, or that refers to it by name, uses `run_copy`.
    """
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2DEMO_RUNS_DIR", str(folder / "runs"))
        list(gpt2demo.train(text, run="mine", **{**SMALL, "sample_tokens": 20, "threads": 1}))
        return find_run("mine")


@pytest.fixture
def run_copy(trained_run: Run, tmp_path: Path) -> Run:
    """Copy `trained_run` into the test's runs folder, as `mine`."""
    shutil.copytree(trained_run.path, tmp_path / "runs" / "mine")
    return find_run("mine")


# ---------------------------------------------------------------------------------------------- a small disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB."""
    if os.name == "nt" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("needs root to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


# ---------------------------------------------------------------------------------------------- an export


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a checkpoint of a tiny model in a run `tiny` with validation text, once per test process. Tests do not change it."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    path = save_checkpoint(run)
    (run / "run.json").write_text("{}")
    (run / "data").mkdir()
    np.save(run / "data" / "validation.npy", np.random.default_rng(0).integers(0, 256, 500).astype(np.uint16))
    return path


@pytest.fixture(scope="session")
def tiny_export(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export `tiny_checkpoint` to ONNX in float32 with the default chain, once per test process. Tests do not change it."""
    return export_model(tiny_checkpoint, output=tmp_path_factory.mktemp("exports") / "tiny", report=lambda line: None)


@pytest.fixture
def export_copy(tiny_export: Path, tmp_path: Path) -> Path:
    """Copy `tiny_export` for a test that changes it."""
    return Path(shutil.copytree(tiny_export, tmp_path / "copy"))


# ---------------------------------------------------------------------------------------------- Hugging Face


@pytest.fixture(scope="session")
def saved_hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a GPT-2 of transformers, see `hf.save_model`. Tests that change it use `hf_folder`."""
    from hf import save_model

    folder = tmp_path_factory.mktemp("saved") / "theirs"
    save_model(folder)
    return folder


@pytest.fixture
def hf_folder(saved_hf_folder: Path, tmp_path: Path) -> Path:
    """Copy `saved_hf_folder` into the test's folder, as `theirs`."""
    return Path(shutil.copytree(saved_hf_folder, tmp_path / "theirs"))


# ---------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `gpt2demo` in a process of its own: `cli("train", "my.txt")` returns its exit code, stdout and stderr.

    A process takes about two seconds. Use it for what depends on one, such as signals and streams, and `invoke` for the rest.
    """

    def run(
        *words: object, stdin: str = "", env: dict[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpt2demo", *map(str, words)]
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def invoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Run `gpt2demo` in this process and in the folder `tmp_path`. The result is the same as that of `cli`."""

    def run(*words: object, stdin: str = "", cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = ["gpt2demo", *map(str, words)]
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
            patch.chdir(cwd)
            patch.setattr(sys, "argv", command)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            patch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` replaces it
            with pytest.raises(SystemExit) as exit_:
                main()
        output = capsys.readouterr()
        return subprocess.CompletedProcess(command, int(exit_.value.code or 0), output.out, output.err)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in handlers.items():  # `main` replaces them
        signal.signal(number, handler)
