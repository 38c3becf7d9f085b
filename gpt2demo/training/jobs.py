"""Training in a background process, which outlives the browser and the server that started it.

A job is a `gpt2demo train …` or `gpt2demo resume …` process with its output in `runs/.jobs/NAME.log`; its progress is in the run
folder. `runs/.jobs/job.json` describes the last job, so that another browser or a restarted server finds it. Only one training
runs at a time: a file lock, shared by all servers on the same runs folder, covers the check and the start.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import psutil
from pydantic import TypeAdapter

from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.runs.find import list_runs
from gpt2demo.runs.folder import Run, Status, check_name, new_name, process_alive, process_start, refuse_taken, runs_dir
from gpt2demo.runs.records import Number, ProcessId, check
from gpt2demo.storage import read_end, read_json, write_json

_children: list[subprocess.Popen[bytes]] = []  # referenced, or Python warns about running processes


@dataclass(frozen=True)
class Job:
    """A training process in the background.

    Attributes:
        run: the run's name; its folder appears when the text has been read.
        pid, pid_started: the process, and when it started (seconds since 1970).
    """

    run: str
    pid: ProcessId
    pid_started: Number

    @property
    def log(self) -> Path:
        """The file with the process's output."""
        return jobs_dir() / f"{self.run}.log"

    @property
    def alive(self) -> bool:
        """True if the process is running."""
        return process_alive(self.pid, self.pid_started)

    def status(self) -> Status | str:
        """Return `preparing` until the process writes state.json, then the run's status; `failed` if it ended before that."""
        run = Run(runs_dir() / self.run)
        state = run.state() if run.exists else None
        if state and state.pid_started > self.pid_started - 1.0:  # written by this job or a later one
            return state.status
        return "preparing" if self.alive else "failed"

    def error(self) -> str | None:
        """Return the last error that a failed job printed, in one line, or None if it has not failed."""
        if self.status() != "failed":
            return None
        try:
            lines = read_end(self.log).decode("utf-8", errors="replace").splitlines()
        except OSError:
            return None
        marked = [line.partition("error: ")[2] for line in lines if line.startswith("gpt2demo: error: ")]
        return (marked or lines or ["the process printed nothing"])[-1]

    def stop(self) -> None:
        """Request a checkpoint and an end after the current step; terminate a process that is still preparing."""
        run = Run(runs_dir() / self.run)
        if self.status() == "preparing":
            with suppress(psutil.Error):
                psutil.Process(self.pid).terminate()
        elif run.exists:
            run.request_stop()

    def wait(self, seconds: float) -> None:
        """Wait for the process of a completed training to exit."""
        with suppress(psutil.Error):
            if self.alive and self.status() not in ("preparing", "running"):
                psutil.Process(self.pid).wait(seconds)


def jobs_dir() -> Path:
    """Return the folder of the jobs' logs."""
    return runs_dir() / ".jobs"


def last() -> Job | None:
    """Return the job that was started last, running or not, or None."""
    try:
        job = check(TypeAdapter(Job), read_json(jobs_dir() / "job.json"))
        check_name(job.run)
    except (CheckpointError, RunError, ValueError):
        return None
    return job


def start_training(data: Sequence[Path], *, run: str | None, stem: str, settings: dict[str, Any]) -> Job:
    """Start `gpt2demo train` in the background.

    Args:
        data: text files; empty if the settings contain `dataset`.
        run: the run's name, or None to derive an unused one from `stem`.
        stem: base of a derived name.
        settings: options of `gpt2demo train` by field name; None omits an option, a list repeats it.

    Raises:
        RunError: another training is running, or the name is invalid or taken.
    """
    with _exclusively():
        refuse_taken(run)
        name = run or new_name(stem)
        return _spawn(name, ["train", *map(str, data), "--run", name, *options(settings)])


def start_resume(run: str, **settings: Any) -> Job:
    """Start `gpt2demo resume` in the background. Raises a RunError if another training is running."""
    with _exclusively():
        return _spawn(run, ["resume", run, *options(settings)])


def options(settings: dict[str, Any]) -> list[str]:
    """Return settings as command-line options.

    >>> options({"n_layer": 2, "seed": None, "tokenizer_option": ["vocab_size=512"]})
    ['--n-layer=2', '--tokenizer-option=vocab_size=512']
    >>> options({"shard": True, "chat": False})
    ['--shard', '--no-chat']
    """
    pairs = ((name, value if isinstance(value, list) else [value]) for name, value in settings.items() if value is not None)
    return [_option(name.replace("_", "-"), value) for name, values in pairs for value in values]


def _option(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def running() -> str | None:
    """Return the name of the run that a job or a terminal is preparing or training, or None."""
    job = last()
    if job and job.alive:
        return job.run
    return next((run.name for run in list_runs() if run.state().status == "running"), None)


@contextmanager
def _exclusively() -> Iterator[None]:
    """Hold the jobs' lock; raise a RunError if a training is running."""
    jobs_dir().mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(jobs_dir() / "lock", timeout=30):
        if job := last():
            job.wait(seconds=20)
        if name := running():
            raise RunError(f"run {name!r} is being trained; stop it first, or wait until it ends")
        yield


def _spawn(name: str, arguments: Sequence[str]) -> Job:
    """Start a gpt2demo command in its own session, with its output in the job's log."""
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    with (jobs_dir() / f"{name}.log").open("wb") as log:
        command = [sys.executable, "-m", "gpt2demo", *arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **detached)
    _children.append(process)
    job = Job(name, process.pid, process_start(process.pid) or 0.0)
    write_json(jobs_dir() / "job.json", asdict(job))
    return job
