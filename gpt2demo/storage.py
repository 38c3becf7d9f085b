"""Atomic, durable file writes (temporary file, fsync, rename), validated JSON reads, and checksums."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from gpt2demo.errors import CheckpointError

JSON_LIMIT = 16 * 2**20
TEMPORARY, OLD = ".tmp-", "-old"


def safe_check(predicate: Callable[[], bool]) -> bool:
    """Call a path predicate such as `path.is_file`; treat OSError, as for a name that is too long, as False."""
    try:
        return predicate()
    except OSError:
        return False


def fsync(path: Path) -> None:
    """Flush a file or folder to disk. Folders are skipped on Windows, which cannot flush them."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically: readers see either the old or the new content.

    Raises:
        CheckpointError: the file cannot be written.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from None


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically.

    Raises:
        ValueError: the value contains NaN or an infinity, which JSON does not have.
        CheckpointError: the file cannot be written.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from an untrusted file.

    Raises:
        CheckpointError: the file is missing, larger than 16 MiB, not a JSON object, or contains NaN or a duplicate key.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ValueError("larger than 16 MiB")
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Create a folder atomically, replacing an existing one.

    At the end of the block all files are flushed and the temporary folder is renamed to `target`. If the block raises, the
    temporary folder is removed and `target` is unchanged.

    Yields:
        A temporary folder next to `target` to write into.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():  # safetensors creates files that only their owner can read
                path.chmod(temporary.stat().st_mode & 0o666)
            fsync(path)
        fsync(temporary)
        _move(temporary, target)
        fsync(target.parent)
    except OSError as error:
        raise write_error(target, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, target: Path) -> None:
    """Rename a finished folder to `target`. An existing folder is moved aside first and deleted afterwards."""
    if not target.exists():
        os.rename(temporary, target)
        return
    old = temporary.with_name(temporary.name + OLD)
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_abandoned(target: Path) -> None:
    """Remove the temporary folders of `target` whose process was killed."""
    for path in target.parent.glob(f"{TEMPORARY}{glob.escape(target.name)}-*"):
        pid = path.name.removeprefix(f"{TEMPORARY}{target.name}-").partition("-")[0]
        if not pid.isdecimal() or psutil.pid_exists(int(pid)):
            continue
        if path.name.endswith(OLD) and not target.exists():
            os.rename(path, target)  # the process was killed between the two renames
        else:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[IO[bytes]]:
    """Create a file atomically, replacing an existing one. Missing parent folders are created.

    Yields:
        The temporary file, opened for binary writing.

    Raises:
        CheckpointError: the file cannot be written.
    """
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        fsync(target.parent)
    except OSError as error:
        raise write_error(target, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_temporaries(folder: Path) -> None:
    """Remove all temporary files in a folder. Only the process that owns the folder may call this."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def require_space(folder: Path, size: int) -> None:
    """Check that `size` bytes are free on the folder's disk.

    Raises:
        CheckpointError: the disk is too full; the message has the required and the free bytes.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CheckpointError(f"{folder}: the disk is full, {size:,} bytes are needed and {free:,} are free")


def write_error(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a file that cannot be written."""
    return CheckpointError(f"{path}: could not be written ({error.strerror or error})")
