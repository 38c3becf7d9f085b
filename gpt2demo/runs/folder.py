"""The run folder: the files of `runs/NAME`, its state, and its lock.

run.json          settings, data files with checksums, tokenizer, versions
state.json        running | finished | stopped | failed | interrupted
metrics.jsonl     a line for each step and evaluation
samples.jsonl     text sampled at each evaluation
tokenizer/        the tokenizer's own files
data/             token ids of the two splits
checkpoints/      see checkpoint.py
stop              its existence asks the training to stop
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import filelock
import psutil
from pydantic import TypeAdapter

from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.runs.records import KINDS, Count, Info, Number, ProcessId, check, parse_record
from gpt2demo.storage import (
    flush,
    fsync,
    read_error,
    read_json,
    read_lines,
    remove_all_abandoned,
    remove_folder,
    safe_check,
    temporaries,
    temporary_folder,
    write_error,
    write_json,
    write_text,
)

FORMAT = 1
RECORDS_LIMIT = 100_000  # of one call of `Run.records`, for bounded memory
RUNS_DIR = "GPT2DEMO_RUNS_DIR"
EXPORTS_DIR = "GPT2DEMO_EXPORTS_DIR"
Status = Literal["running", "finished", "stopped", "failed", "interrupted"]
ATTEMPTS = 5  # to take a name that another process wants at the same time
INTERRUPTS = (KeyboardInterrupt, SystemExit)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def runs_dir() -> Path:
    """Return the folder of the runs: `GPT2DEMO_RUNS_DIR`, or `./runs`."""
    return Path(os.environ.get(RUNS_DIR) or "runs")


def exports_dir() -> Path:
    """Return the folder of the exports: `GPT2DEMO_EXPORTS_DIR`, or `./exports`."""
    return Path(os.environ.get(EXPORTS_DIR) or "exports")


def check_name(name: str) -> str:
    """Return a name that is valid as a folder name on every system.

    Raises:
        RunError: the name is invalid.
    """
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name) or name.endswith("."):
        raise RunError(f"name {name[:120]!r}: use up to 100 letters, digits, '.', '_' and '-', the first a letter or digit")
    return name


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------------------------------------- state


@dataclass(frozen=True)
class State:
    """The content of state.json.

    Attributes:
        status: `running` may be out of date if the process was killed: see `Run.state`.
        pid, pid_started: the training process, and when it started (seconds since 1970).
        step, total_steps: optimizer steps done and to do.
        error: reason of a failure, in one line.
    """

    status: Status
    pid: ProcessId
    pid_started: Number
    step: Count = 0
    total_steps: Count = 0
    error: str | None = None

    @classmethod
    def own(cls, status: Status, step: int = 0, total_steps: int = 0, error: str | None = None) -> Self:
        """Return a state with the current process as its owner."""
        return cls(status, os.getpid(), process_start(os.getpid()) or 0.0, step, total_steps, error)

    @property
    def alive(self) -> bool:
        """True if the process that wrote this state is running."""
        return process_alive(self.pid, self.pid_started)


def process_start(pid: int) -> float | None:
    """Return when a process started (seconds since 1970), or None if it does not exist or is a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def process_alive(pid: int, started: float) -> bool:
    """Return whether the process with this id and start time is running; a later process may have the same id."""
    found = process_start(pid)
    return found is not None and abs(found - started) < 1.0


# ---------------------------------------------------------------------------------------------- the folder


class Run:
    """A run folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer's own files."""
        return self.path / "tokenizer"

    @property
    def data(self) -> Path:
        """Folder of the token ids."""
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def milestones(self) -> Path:
        """Folder of the weights that are kept to look back, in the form of checkpoints."""
        return self.path / "milestones"

    @property
    def metrics(self) -> Path:
        """File with a record per step and evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """File with a record per sample."""
        return self.path / "samples.jsonl"

    @property
    def stop_file(self) -> Path:
        """File whose existence requests the end of the training."""
        return self.path / "stop"

    @classmethod
    def of_checkpoint(cls, path: Path) -> Self | None:
        """Return the run that a checkpoint folder belongs to, or None for a checkpoint outside of a run."""
        run = cls(path.resolve().parent.parent)
        return run if run.exists else None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def exists(self) -> bool:
        """True if the folder holds a run."""
        return safe_check((self.path / "run.json").is_file)

    def request_stop(self) -> None:
        """Ask the training process to end after its current step.

        Raises:
            CheckpointError: the file cannot be written.
        """
        try:
            self.stop_file.touch()
        except OSError as error:
            raise write_error(self.stop_file, error) from None

    def clear_stop(self) -> None:
        """Remove an earlier request to stop.

        Raises:
            CheckpointError: it cannot be removed.
        """
        try:
            self.stop_file.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.stop_file}: could not be removed ({error.strerror})") from None

    def info(self) -> dict[str, Any]:
        """Read run.json.

        Raises:
            RunError: the file is damaged or has an unsupported format.
        """
        file = self.path / "run.json"
        try:
            info = read_json(file)
            if (found := info.get("format")) != FORMAT:
                reason = f"has run format {repr(found)[:20]}, this program reads {FORMAT}; use a newer gpt2demo"
                raise RunError(f"{self.path}: {reason}")
            check(TypeAdapter(Info), info)
        except CheckpointError as error:
            raise RunError(str(error)) from None
        except ValueError as error:
            raise RunError(f"{file}: is damaged ({error})") from None
        return info

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.path / "run.json", {"format": FORMAT, **info})

    @property
    def has_state(self) -> bool:
        """True if a training has started here, even if it failed or its state is damaged."""
        return os.path.lexists(self.path / "state.json") or os.path.lexists(self.metrics)

    def read_state(self) -> State:
        """Read state.json; report `interrupted` for a running state whose process is gone, and without the file.

        Raises:
            CheckpointError: the file is damaged.
        """
        file = self.path / "state.json"
        if not os.path.lexists(file):
            return State("interrupted", 0, 0.0)
        try:
            state = check(TypeAdapter(State), read_json(file))
        except ValueError as error:
            raise CheckpointError(f"{file}: is damaged ({error})") from None
        return replace(state, status="interrupted") if state.status == "running" and not state.alive else state

    def state(self) -> State:
        """Read state.json like `read_state`; report `failed` with the reason if the file is damaged."""
        try:
            return self.read_state()
        except CheckpointError as error:
            return State("failed", 0, 0.0, error=str(error))

    def write_state(self, state: State) -> None:
        """Replace state.json."""
        write_json(self.path / "state.json", {**asdict(state), "time": now()})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's write lock. The system releases it when the process ends, even if it is killed.

        Raises:
            RunError: another process holds the lock.
        """
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            owner = self.state()
            raise RunError(f"run {self.name!r}: process {owner.pid} is training it; wait for it or stop it first") from None
        except (OSError, NotImplementedError) as error:  # read-only, full, or without locks
            raise write_error(self.path / ".lock", error) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def deleted_on(self, *errors: type[BaseException]) -> Iterator[None]:
        """Delete the folder if the block raises one of these exceptions."""
        try:
            yield
        except errors:
            remove_folder(self.path)
            raise

    # ------------------------------------------------------------------------------------------ records

    def append(self, path: Path, record: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl or samples.jsonl."""
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise write_error(path, error) from None

    def records(self, path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Read complete lines of a .jsonl file from a byte offset; return the records and the offset after them.

        Damaged lines are skipped. A call reads a bounded number of lines; call it again for the rest of a long file.
        """
        found = []
        with suppress(OSError):
            for line in itertools.islice(read_lines(path, offset), RECORDS_LIMIT):
                offset += len(line)
                with suppress(ValueError):
                    found.append(parse_record(line, KINDS[path.name]))
        return found, offset

    def checked_records(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield all records of a .jsonl file; none if the file is missing.

        Raises:
            CheckpointError: the file or a line is damaged.
        """
        number = 0
        try:
            for number, line in enumerate(read_lines(path), 1):  # noqa: B007  # used in the message
                yield parse_record(line, KINDS[path.name])
        except FileNotFoundError:
            return
        except OSError as error:
            raise read_error(path, error) from None
        except ValueError as error:
            raise CheckpointError(f"{path}: line {number} is damaged ({error})") from None

    def drop_records_after(self, step: int) -> None:
        """Remove damaged records and those of later steps, which a resumed run repeats."""
        for path in (self.metrics, self.samples):
            if os.path.lexists(path):
                write_text(path, "".join(self._lines_until(path, step)))

    def _lines_until(self, path: Path, step: int) -> Iterator[str]:
        with suppress(OSError):  # a file that cannot be read is replaced
            for line in read_lines(path):
                with suppress(ValueError):
                    if parse_record(line, KINDS[path.name])["step"] <= step:
                        yield line.decode("utf-8")


# ---------------------------------------------------------------------------------------------- new runs


@contextmanager
def new_run(name: str | None, stem: str) -> Iterator[Run]:
    """Create a run atomically: it gets its name at the end of the block, when it is complete.

    Leftovers of killed processes are removed.

    Args:
        name: the run's name, or None to derive an unused one from `stem`.
        stem: base of a derived name, such as `tales-nano`.

    Yields:
        The run. Its path is a temporary folder, and the final one after the block. If the block raises, nothing is left.

    Raises:
        RunError: the name is invalid or taken, also by a process that is preparing a run.
        CheckpointError: a file cannot be written.
    """
    remove_all_abandoned(runs_dir())
    for candidate in [check_name(name)] if name else _numbered(stem):
        target = runs_dir() / candidate
        for _ in range(ATTEMPTS):
            if obstacle(target):
                break
            with temporary_folder(target) as temporary:
                # Of two processes at the same time, at least the one that creates its folder last sees the other's folder.
                if not obstacle(target, own=temporary):
                    yield (run := Run(temporary))
                    _publish(temporary, target)
                    run.path = target
                    return
            time.sleep(os.urandom(1)[0] / 2560)  # up to 0.1 s
    raise RunError(obstacle(runs_dir() / str(name)) or f"run {name!r}: other processes want this name too; choose another --run")


def _publish(temporary: Path, target: Path) -> None:
    """Flush a complete run and rename it to its name."""
    flush(temporary)
    try:
        os.rename(temporary, target)
    except OSError:
        if reason := obstacle(target, own=temporary):
            raise RunError(reason) from None
        raise
    fsync(target.parent)


def obstacle(target: Path, own: Path | None = None) -> str | None:
    """Return why a run cannot be created in a folder, or None.

    Args:
        target: the folder.
        own: a temporary folder of this process to ignore.
    """
    for other in temporaries(target.parent):
        if other.target.name == target.name and other.path != own and not other.abandoned:
            return f"run {target.name!r} is being prepared by process {other.pid}; wait for it or choose another --run"
    if Run(target).exists:
        return f"run {target.name!r} already exists; continue it with `gpt2demo resume {target.name}` or choose another --run"
    if os.path.lexists(target):
        return f"{target} already exists and is not a run (it has no run.json); remove it or choose another --run"
    return None


def refuse_taken(name: str | None) -> None:
    """Raise a RunError if a requested name is invalid or taken; None is a name that is derived later.

    The path must be valid Unicode: safetensors reads no other files.
    """
    try:
        str(runs_dir().absolute()).encode()
    except UnicodeEncodeError:
        raise RunError(f"{str(runs_dir())!a}: the path is not valid UTF-8; use another --runs-dir") from None
    if name and (reason := obstacle(runs_dir() / check_name(name))):
        raise RunError(reason)


def new_name(stem: str) -> str:
    """Return an unused name derived from `stem`."""
    return next(name for name in _numbered(stem) if not obstacle(runs_dir() / name))


def _numbered(stem: str) -> Iterator[str]:
    """Yield the stem as a valid name, then with -2, -3 and so on."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80] or "run"
    yield stem
    yield from (f"{stem}-{number}" for number in itertools.count(2))
