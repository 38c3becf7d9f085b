"""The run folder: what lies where in `runs/NAME`, who may write there, and how a MODEL that somebody named is found.

run.json          what was asked for: settings, data with checksums, tokenizer, versions
state.json        how it stands: running | finished | stopped | failed | interrupted
metrics.jsonl     a line for each step and evaluation
samples.jsonl     what the model wrote at each evaluation
tokenizer/        the tokenizer's own files
data/             ids of the two splits
checkpoints/      see checkpoint.py
stop              exists while somebody asks the training to stop
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import filelock
import psutil

from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.storage import certainly, read_json, unwritable, write_json, write_text

FORMAT = 1
RUNS_DIR = "GPT2DEMO_RUNS_DIR"
EXPORTS_DIR = "GPT2DEMO_EXPORTS_DIR"
Status = Literal["running", "finished", "stopped", "failed", "interrupted"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def runs_dir() -> Path:
    """Where runs live: `./runs`, or what `GPT2DEMO_RUNS_DIR` says."""
    return Path(os.environ.get(RUNS_DIR) or "runs")


def exports_dir() -> Path:
    """Where exports land: `./exports`, or what `GPT2DEMO_EXPORTS_DIR` says."""
    return Path(os.environ.get(EXPORTS_DIR) or "exports")


def check_name(name: str) -> str:
    """A name that is safe as a folder's name on every system.

    Raises:
        RunError: it is not.
    """
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name) or name.endswith("."):
        raise RunError(f"name {name[:120]!r}: use up to 100 letters, digits, '.', '_' and '-', the first a letter or digit")
    return name


@dataclass(frozen=True)
class State:
    """How a run stands.

    Attributes:
        status: `running` is only true while the process lives: see `Run.state`.
        pid, pid_started: the training process and when the system says it started (seconds since 1970).
        step, total_steps: optimizer steps done and to do.
        error: why it failed, in one line.
    """

    status: Status
    pid: int
    pid_started: float
    step: int = 0
    total_steps: int = 0
    error: str | None = None

    @classmethod
    def own(cls, status: Status, step: int = 0, total_steps: int = 0, error: str | None = None) -> Self:
        """A state of this very process."""
        return cls(status, os.getpid(), process_start(os.getpid()) or 0.0, step, total_steps, error)

    @property
    def alive(self) -> bool:
        """Whether the process that wrote this is still there (not another one that got its number)."""
        started = process_start(self.pid)
        return started is not None and abs(started - self.pid_started) < 1.0


def process_start(pid: int) -> float | None:
    """When a process started, or None when there is none (a zombie counts as none)."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


class Run:
    """A run folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokenizer = path / "tokenizer"
        self.data = path / "data"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.stop_file = path / "stop"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return certainly((self.path / "run.json").is_file)

    def info(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            RunError: it is damaged, or of a newer format than this program knows.
        """
        try:
            info = read_json(self.path / "run.json")
        except CheckpointError as error:
            raise RunError(str(error)) from None
        if (found := info.get("format")) != FORMAT:
            raise RunError(f"{self.path}: has run format {found!r}, this program reads {FORMAT}; use a newer gpt2demo")
        return info

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.path / "run.json", {"format": FORMAT, **info})

    @property
    def has_state(self) -> bool:
        """Whether a training has begun here, be it only to fail."""
        return certainly((self.path / "state.json").is_file)

    def state(self) -> State:
        """How the run stands; a `running` one whose process is gone counts as interrupted."""
        try:
            stored = read_json(self.path / "state.json")
            state = State(**{key: stored[key] for key in State.__dataclass_fields__})
        except (CheckpointError, KeyError, TypeError):
            return State("interrupted", 0, 0.0)
        if state.status == "running" and not state.alive:
            return State("interrupted", state.pid, state.pid_started, state.step, state.total_steps, state.error)
        return state

    def write_state(self, state: State) -> None:
        """Replace state.json."""
        write_json(self.path / "state.json", {**asdict(state), "time": now()})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer of this run. The system frees the lock when the process ends, however it ends.

        Raises:
            RunError: another process writes here.
        """
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            owner = self.state()
            raise RunError(f"run {self.name!r}: process {owner.pid} is training it; wait for it or stop it first") from None
        try:
            yield
        finally:
            lock.release()

    def append(self, path: Path, record: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl or samples.jsonl."""
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise unwritable(path, error) from None

    def records(self, path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The whole lines of a .jsonl file from a byte offset on, and the offset behind them."""
        try:
            with path.open("rb") as file:
                file.seek(offset)
                raw = file.read()
        except OSError:
            return [], offset
        whole = raw[: raw.rfind(b"\n") + 1]
        return [record for line in whole.splitlines() if (record := _record(line))], offset + len(whole)

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run will do again."""
        for path in (self.metrics, self.samples):
            if path.exists():
                kept = [record for record in self.records(path)[0] if record.get("step", 0) <= step]
                write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))


def _record(line: bytes) -> dict[str, Any] | None:
    """A line of a .jsonl file, or None for one that a crash has torn."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run(name: str | None, stem: str) -> Run:
    """Make the folder of a new run.

    Args:
        name: what the user calls it, or None for a free name made from `stem`.
        stem: what to derive a name from, such as `tales-nano`.

    Raises:
        RunError: the name cannot be used or is taken.
    """
    for candidate in [check_name(name)] if name else _numbered(stem):
        path = runs_dir() / candidate
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise unwritable(path, error) from None
        return Run(path)
    raise RunError(f"run {name!r}: is already there; continue it with `gpt2demo resume {name}` or choose another --run")


def new_name(stem: str) -> str:
    """A free name made from `stem`."""
    return next(name for name in _numbered(stem) if not (runs_dir() / name).exists())


def _numbered(stem: str) -> Iterator[str]:
    """What of `stem` a name can have, then the same with -2, -3 and so on."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80] or "run"
    yield stem
    yield from (f"{stem}-{number}" for number in itertools.count(2))
