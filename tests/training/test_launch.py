"""Trainings in two launched processes: however they end, there is one line, an exit code, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from samples import SMALL, SMALL_OPTIONS, Cli, assert_one_line_error

from gpt2demo.errors import Error, ProcessError, TrainingError
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run
from gpt2demo.training import jobs
from gpt2demo.training.launch import report

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")

GPT2DEMO = [sys.executable, "-m", "gpt2demo"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--", "gpt2demo"]
OPTIONS = [*SMALL_OPTIONS, "--steps=1000000", "--eval-every=500000", "--eval-batches=1", "--grad-accumulation=2"]


class Launched:
    """A training in two processes, with its output.

    Attributes:
        launcher: their parent.
        ranks: the processes of the training.
    """

    def __init__(self, command: list[str], folder: Path) -> None:
        self._log = folder / "log.txt"
        with self._log.open("wb") as log:
            self.launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self._metrics = folder / "runs" / "a" / "metrics.jsonl"
        self.ranks: list[psutil.Process] = []

    def wait_for_steps(self) -> None:
        """Wait until the training has taken some steps."""
        deadline = time.monotonic() + 200
        while not self._metrics.exists() or self._metrics.read_bytes().count(b"batch") < 3:
            assert self.launcher.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.1)
        found = {process.environ().get("RANK", ""): process for process in self._children()}
        self.ranks = [found["0"], found["1"]]

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self.launcher.pid).children(recursive=True)

    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def errors(self) -> list[str]:
        return [line for line in self.output().splitlines() if "error: " in line]

    def wait(self, seconds: float = 60) -> int:
        """Wait until no process is left; return the launcher's exit code."""
        code = self.launcher.wait(seconds)
        _, alive = psutil.wait_procs(self.ranks, seconds)
        assert not alive
        return code

    def kill(self) -> None:
        alive = [*self.ranks, *(self._children() if self.launcher.poll() is None else [])]
        for process in [self.launcher, *alive]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def launched(request: pytest.FixtureRequest, text_file: Path, tmp_path: Path) -> Iterator[Launched]:
    """Start a training as run `a`; the parameter is the command."""
    own = ["--nproc=2"] if request.param == GPT2DEMO else []
    training = Launched([*request.param, "train", str(text_file), "--run=a", *OPTIONS, *own], tmp_path)
    try:
        training.wait_for_steps()
        yield training
    finally:
        training.kill()


own_launcher = pytest.mark.parametrize("launched", [GPT2DEMO], indirect=True, ids=["gpt2demo"])
both_launchers = pytest.mark.parametrize("launched", [GPT2DEMO, TORCHRUN], indirect=True, ids=["gpt2demo", "torchrun"])


@own_launcher
def test_a_signal_ends_all_processes_with_a_checkpoint(launched: Launched) -> None:
    """Starts processes, which takes seconds."""
    launched.launcher.send_signal(signal.SIGTERM)
    assert launched.wait() == 143
    run = find_run("a")
    assert run.state().status == "interrupted"
    assert checkpoint.newest(run.checkpoints).step == run.state().step > 0
    assert launched.errors() == []


@pytest.mark.slow
@both_launchers
def test_a_killed_process_ends_the_training_with_a_checkpoint(launched: Launched) -> None:
    launched.ranks[1].kill()
    assert launched.wait() == 1
    run = find_run("a")
    assert run.state().status == "failed"
    assert checkpoint.newest(run.checkpoints).step == len(run.records(run.metrics)[0]) - 2, "all but the two of the evaluation"
    if launched.launcher.args[2] == "gpt2demo":  # type: ignore[index]
        text = "process 1 of 2 was ended by SIGKILL; continue with `gpt2demo resume a`"
        assert launched.errors() == [f"gpt2demo: error: {text}"]
        assert run.state().error == text
    else:
        assert [line for line in launched.errors() if line.startswith("gpt2demo")] == [f"gpt2demo: error: {run.state().error}"]


@pytest.mark.slow
@both_launchers
def test_a_killed_launcher_ends_the_processes_with_a_checkpoint(launched: Launched) -> None:
    launched.launcher.kill()
    assert launched.wait() == -signal.SIGKILL
    run = find_run("a")
    assert (run.state().status, run.state().error) == ("interrupted", None)
    assert checkpoint.newest(run.checkpoints).step > 0


@pytest.mark.slow
@own_launcher
def test_a_process_that_hangs_does_not_prevent_the_end(launched: Launched) -> None:
    """The other process waits for it, and saves when its time is over."""
    launched.ranks[1].suspend()
    launched.launcher.send_signal(signal.SIGTERM)
    assert launched.wait() == 143
    assert checkpoint.newest(find_run("a").checkpoints).step > 0
    assert "a process did not react to the signal and was killed" in launched.output()


@pytest.mark.slow
def test_a_launched_run_finishes_and_resumes_in_one_process(cli: Cli, text_file: Path) -> None:
    made = cli("train", text_file, "--run", "a", *SMALL_OPTIONS, "--grad-accumulation", 2, "--nproc", 2)
    assert (made.returncode, made.stdout.strip().endswith("a")) == (0, True), made.stderr
    assert "2 processes" in made.stderr
    assert find_run("a").state().status == "finished"
    assert_one_line_error(cli("resume", "a"), 2, "has done all its 12 steps")
    assert cli("resume", "a", "--steps", 14, "--nproc", 1).returncode == 0
    assert find_run("a").state().step == 14


@pytest.mark.slow
def test_the_background_training_of_the_page_stops(text_file: Path) -> None:
    settings = {**SMALL, "steps": 1_000_000, "eval_every": 500_000, "grad_accumulation": 2, "nproc": 2, "shard": True}
    job = jobs.start_training([text_file], run="a", stem="a", settings=settings)
    deadline = time.monotonic() + 200
    while job.alive:
        assert time.monotonic() < deadline
        if job.status() == "running":
            job.stop()
        time.sleep(0.1)
    assert job.status() == "stopped"
    assert checkpoint.newest(find_run("a").checkpoints).step == find_run("a").state().step


def test_a_refused_number_of_processes_is_a_usage_error(cli: Cli, text_file: Path, tmp_path: Path) -> None:
    done = cli("train", text_file, "--run", "a", *SMALL_OPTIONS, "--nproc", 2)
    assert_one_line_error(done, 2, "grad_accumulation=1", "--batch-size 4 --grad-accumulation 2")
    assert not (tmp_path / "runs" / "a").exists()


def test_a_launched_process_reports_its_error_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    from gpt2demo.runs.folder import Run
    from gpt2demo.training.launch import _failure

    failures = {}
    for rank, error in enumerate([ProcessError("another process has ended"), TrainingError("step 3: out of memory")]):
        file = tmp_path / f"{rank}.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        report(error, str(error))
        failures[rank] = ProcessFailure(local_rank=rank, pid=1, exitcode=1, error_file=str(file))
    cause = _failure(ChildFailedError("gpt2demo", failures), Run(tmp_path), 2)
    assert isinstance(cause, Error)
    assert str(cause) == "step 3: out of memory", "the cause, not what follows from it"
