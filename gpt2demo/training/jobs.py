"""A training as a process of its own: it outlives the browser and the server that started it.

A job is nothing but `gpt2demo train …` or `gpt2demo resume …` in the background, with its output in `runs/.jobs/NAME.log`; the
run folder tells how it goes. `runs/.jobs/job.json` remembers the last one, so that another browser, or a new server, finds it.
One training at a time: the check and the start happen under a lock that all servers on the same runs folder share.
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

from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.runs.find import list_runs
from gpt2demo.runs.folder import Run, State, Status, check_name, new_name, process_start, runs_dir
from gpt2demo.storage import read_json, write_json

_children: list[subprocess.Popen[bytes]] = []  # kept, so that Python does not complain of processes that are still running


@dataclass(frozen=True)
class Job:
    """A training in the background.

    Attributes:
        run: the run's name; its folder appears when the text has been prepared.
        pid, pid_started: the process and when the system says it started (seconds since 1970).
    """

    run: str
    pid: int
    pid_started: float

    @property
    def log(self) -> Path:
        """What the process printed."""
        return jobs_dir() / f"{self.run}.log"

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return State("running", self.pid, self.pid_started).alive

    def status(self) -> Status | str:
        """`preparing` until it writes to the run folder, then the run's own status; `failed` when it never came to that."""
        run = Run(runs_dir() / self.run)
        state = run.state() if run.exists else None
        if state and state.pid_started > self.pid_started - 1.0:  # it, or somebody after it
            return state.status
        return "preparing" if self.alive else "failed"

    def error(self) -> str | None:
        """Why it failed, in one line: the last error that it printed."""
        if self.status() != "failed" or not self.log.is_file():
            return None
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        marked = [line.partition("error: ")[2] for line in lines if line.startswith("gpt2demo: error: ")]
        return (marked or lines or ["it printed nothing"])[-1]

    def stop(self) -> None:
        """Ask for a checkpoint and an end after the present step. Before the training there is nothing to save: end it."""
        run = Run(runs_dir() / self.run)
        if self.status() == "preparing":
            with suppress(psutil.Error):
                psutil.Process(self.pid).terminate()
        elif run.exists:
            run.stop_file.touch()

    def wait(self, seconds: float) -> None:
        """Let a process that has nothing more to do come to its end."""
        with suppress(psutil.Error):
            if self.alive and self.status() not in ("preparing", "running"):
                psutil.Process(self.pid).wait(seconds)


def jobs_dir() -> Path:
    """Where jobs keep their logs."""
    return runs_dir() / ".jobs"


def last() -> Job | None:
    """The job that was started last, whether it still runs or not."""
    try:
        stored = read_json(jobs_dir() / "job.json")
        return Job(**stored)
    except (CheckpointError, TypeError):
        return None


def start_training(data: Sequence[Path], *, run: str | None, stem: str, settings: dict[str, Any]) -> Job:
    """Start `gpt2demo train` in the background.

    Args:
        data: text files; none with `dataset` among the settings.
        run: the run's name, or None for a free one made from `stem`.
        stem: what to derive a name from.
        settings: options of `gpt2demo train` by field name; None leaves one out, a list repeats it.

    Raises:
        RunError: another training is running, or the name cannot be used.
    """
    with _exclusively():
        name = check_name(run) if run else new_name(stem)
        if run and Run(runs_dir() / run).path.exists():
            raise RunError(f"run {run!r}: is already there; choose another name, or resume it")
        return _spawn(name, ["train", *map(str, data), "--run", name, *options(settings)])


def start_resume(run: str, **settings: Any) -> Job:
    """Start `gpt2demo resume` in the background. Raises as `start_training` does."""
    with _exclusively():
        return _spawn(run, ["resume", run, *options(settings)])


def options(settings: dict[str, Any]) -> list[str]:
    """Settings as command-line options.

    >>> options({"n_layer": 2, "seed": None, "tokenizer_option": ["vocab_size=512"]})
    ['--n-layer=2', '--tokenizer-option=vocab_size=512']
    """
    pairs = ((name, value if isinstance(value, list) else [value]) for name, value in settings.items() if value is not None)
    return [f"--{name.replace('_', '-')}={value}" for name, values in pairs for value in values]


def running() -> str | None:
    """The name of the run that is being trained or prepared, here or in a terminal, or None."""
    job = last()
    if job and job.alive:
        return job.run
    return next((run.name for run in list_runs() if run.state().status == "running"), None)


@contextmanager
def _exclusively() -> Iterator[None]:
    """Hold the jobs' lock, after making sure that nothing is running."""
    jobs_dir().mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(jobs_dir() / "lock", timeout=30):
        if job := last():
            job.wait(seconds=20)
        if name := running():
            raise RunError(f"run {name!r} is being trained; stop it first, or wait until it is done")
        yield


def _spawn(name: str, arguments: Sequence[str]) -> Job:
    """Start a command of ours in a session of its own, with its output in the job's log."""
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
