"""The program in hostile surroundings: closed streams, a removed folder, unusual environments, limits, and two commands on one run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from battery import Trials
from samples import SMALL_OPTIONS, Cli, assert_one_line_error

from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run, list_runs
from gpt2demo.runs.folder import Run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork and signals")
GENERATE = ("generate", "mine", "--max-new-tokens=3")
PROGRAM = [sys.executable, "-m", "gpt2demo"]


def run_prepared(prepare: Callable[[], object], *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that first calls a function."""
    return subprocess.run([*PROGRAM, *words], preexec_fn=prepare, text=True, timeout=120, check=False, **options)


# ---------------------------------------------------------------------------------------------- streams and folders


def test_closed_streams_are_no_error(run_copy: Run) -> None:
    assert run_prepared(lambda: os.closerange(0, 3), "runs").returncode == 0


def test_a_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    def remove() -> None:
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()

    done = run_prepared(remove, "runs", capture_output=True)
    assert_one_line_error(done, 2, "the current folder does not exist any more")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]], ids=str)
def test_any_command_runs_with_closed_streams(run_copy: Run, text_file: Path, trial: Trials, closed: list[int]) -> None:
    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    commands: list[Sequence[str]] = [
        GENERATE,
        ["chat", "mine"],
        ["plugins"],
        ["train", str(text_file), *SMALL_OPTIONS, "--run=new"],
    ]
    for words in commands:
        with trial(f"{closed}: {words[0]}"):
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            done = run_prepared(close, *words, **streams)
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
    assert find_run("new").state().status == "finished"
    assert find_run("new").metrics.read_text(encoding="utf-8").count("\n") >= 12, "a message was written into it"


# ---------------------------------------------------------------------------------------------- environments

ENVIRONMENTS: dict[str, dict[str, str]] = {
    **{f"COLUMNS={width}": {"COLUMNS": width, "LINES": "1"} for width in ("0", "1", "-1", "abc", "100000")},
    **{f"TERM={name}": {"TERM": name} for name in ("", "dumb", "nosuch")},
    **{
        f"LC_ALL={name}": {"LC_ALL": name, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        for name in ("C", "POSIX", "xx_XX.ISO-8859-1")
    },
    **{f"HOME={name}": {"HOME": name} for name in ("", "/nonexistent", "/proc")},
    **{f"TMPDIR={name}": {"TMPDIR": name} for name in ("", "/nonexistent", "/proc")},
    **{f"PYTHONOPTIMIZE={level}": {"PYTHONOPTIMIZE": level} for level in ("1", "2")},
    **{f"OMP_NUM_THREADS={number}": {"OMP_NUM_THREADS": number} for number in ("abc", "-1", "1000000")},
    "colors": {"FORCE_COLOR": "1", "NO_COLOR": "", "CLICOLOR_FORCE": "1"},
    "warnings are errors": {"PYTHONWARNINGS": "error"},
    "no byte code": {"PYTHONDONTWRITEBYTECODE": "1"},
    "a large variable": {"LARGE": "x" * 100_000},
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_any_command_runs_in_an_unusual_environment(run_copy: Run, cli: Cli, trial: Trials, environment: dict[str, str]) -> None:
    for words in (GENERATE, ("runs",), ("plugins", "--json"), ("train", "--help")):
        with trial(words[0]):
            done = cli(*words, env=environment)
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_NPROC"])
def test_a_training_under_a_limit_works_or_fails_in_one_line(text_file: Path, trial: Trials, limit: str) -> None:
    resource = pytest.importorskip("resource")
    values = {"RLIMIT_NOFILE": [8, 12, 16, 24, 32], "RLIMIT_FSIZE": [0, 100, 5000, 50_000, 10**6], "RLIMIT_NPROC": [1, 2]}[limit]
    for number, value in enumerate(values):
        with trial(f"{limit}={value}"):
            words = ["train", str(text_file), *SMALL_OPTIONS, f"--run=r{number}"]
            done = run_prepared(
                lambda value=value: resource.setrlimit(getattr(resource, limit), (value, value)), *words, capture_output=True
            )
            if done.returncode:
                assert_one_line_error(done, 1)
                assert "(a bug" not in done.stderr
            names = {run.name for run in list_runs()}
            left = {path.name for path in Path(os.environ["GPT2DEMO_RUNS_DIR"]).iterdir()}
            assert left == names, "something else than a run is left"


# ---------------------------------------------------------------------------------------------- two at once


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", ["export", "generate", "eval", "remove", "rename", "resume", "train", "stop and continue"])
def test_a_command_during_a_training(text_file: Path, tmp_path: Path, cli: Cli, trial: Trials, what: str) -> None:
    """Both work or fail in one line, and the training, where its run is still there, ends with a valid checkpoint."""
    words = ["train", str(text_file), *SMALL_OPTIONS, "--steps=1000000", "--save-every=5", "--run=a"]
    process = subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = Run(Path(os.environ["GPT2DEMO_RUNS_DIR"]) / "a")
    try:
        deadline = time.monotonic() + 120
        while not any(run.checkpoints.glob("step-*/manifest.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in range(3 if what in ("export", "generate", "eval") else 1):
            with trial(what):
                _disturb(what, run, process, cli, words)
        process.terminate()
        with trial("the training"):
            messages = process.communicate(timeout=120)[1]
            assert "Traceback" not in messages
            assert "(a bug" not in messages
            if what not in ("remove", "rename"):
                assert process.returncode == 143
                assert checkpoint.newest(run.checkpoints).step == run.state().step
    finally:
        process.kill()
        process.communicate()


def _disturb(what: str, run: Run, process: subprocess.Popen[str], cli: Cli, words: list[str]) -> None:
    """Use the run of a training, or change it."""
    if what == "remove":
        subprocess.run(["rm", "-rf", str(run.path)], check=False)
    elif what == "rename":
        run.path.rename(run.path.with_name("b"))
    elif what == "stop and continue":
        process.send_signal(19)
        time.sleep(1)
        assert run.state().status == "running"
        process.send_signal(18)
    else:
        commands: dict[str, list[str]] = {
            "export": ["export", "a", "--onnx"],
            "generate": ["generate", "a"],
            "eval": ["eval", "a"],
        }
        done = cli(*commands.get(what, ["resume", "a"] if what == "resume" else words))
        if what in commands:
            assert done.returncode == 0, done.stderr
        else:
            assert_one_line_error(done, 2, "'a'")
