"""Atomic, durable file writes (temporary file, fsync, rename), bounded reads of untrusted files, and checksums.

A temporary file or folder is named `.tmp-NAME-PID-RANDOM` after its target and the process that writes it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil

from gpt2demo.errors import CheckpointError, Error

JSON_LIMIT = 16 * 2**20
TEMPORARY, OLD = ".tmp-", "-old"
_TEMPORARY_NAME = re.compile(r"\.tmp-(?P<name>.+)-(?P<pid>\d+)-[0-9a-f]{8}(?P<old>-old)?", re.DOTALL)


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


# ---------------------------------------------------------------------------------------------- reading


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading in binary.

    Raises:
        OSError: the file is missing, or is not a regular file: a named pipe would block, and a device may have no end.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, limit: int = JSON_LIMIT) -> bytes:
    """Read a regular file.

    Raises:
        OSError: the file is missing, not a regular file, or larger than `limit` bytes.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit // 2**20} MiB", str(path))
    return content


def read_end(path: Path, size: int = 2**16) -> bytes:
    """Return the last `size` bytes of a regular file. Raises an OSError like `read_bytes`."""
    with open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size)


def read_lines(path: Path, offset: int = 0) -> Iterator[bytes]:
    """Yield the complete lines of a regular file from a byte offset, with their line breaks.

    Raises:
        OSError: the file is missing, not a regular file, or has a line of more than 16 MiB.
    """
    with open_regular(path) as file:
        file.seek(offset)
        while (line := file.readline(JSON_LIMIT)).endswith(b"\n"):
            yield line
        if len(line) == JSON_LIMIT:
            raise OSError(errno.EFBIG, "a line is longer than 16 MiB", str(path))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from an untrusted file.

    Raises:
        CheckpointError: the file is missing, not a regular file, larger than 16 MiB, not a JSON object, or contains NaN or a
            duplicate key.
    """
    try:
        return parse_json(read_bytes(path))
    except (OSError, ValueError) as error:
        raise read_error(path, error) from None


def parse_json(content: bytes) -> dict[str, Any]:
    """Return an untrusted JSON object. Raise a ValueError if it is not one, or contains NaN or a duplicate key."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_error(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else None
    return CheckpointError(f"{path}: cannot be read ({reason or _first_line(error)})")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result


# ---------------------------------------------------------------------------------------------- writing files


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically: readers see either the old or the new content.

    Raises:
        CheckpointError: the file cannot be written.
    """
    temporary = _temporary_path(path)
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # a read-only disk refuses this as well
            temporary.unlink()
        raise write_error(path, error) from None


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically.

    Raises:
        ValueError: the value contains NaN or an infinity, which JSON does not have.
        CheckpointError: the file cannot be written.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_file(target: Path) -> Iterator[IO[bytes]]:
    """Create a file atomically, replacing an existing one. Missing parent folders are created.

    Yields:
        The temporary file, opened for binary writing.

    Raises:
        CheckpointError: the file cannot be written.
    """
    temporary = _temporary_path(target)
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


# ---------------------------------------------------------------------------------------------- writing folders


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Create a temporary folder next to `target`, and remove it at the end of the block if it still exists.

    Raises:
        CheckpointError: a file in the folder cannot be written. Messages contain the path below `target`.
    """
    temporary = _temporary_path(target)
    try:
        temporary.mkdir(parents=True)
        yield temporary
    except OSError as error:
        inside = str(error.filename or "").startswith(str(temporary))
        raise write_error(Path(_final(error.filename, temporary, target)) if inside else target, error) from None
    except Error as error:
        if str(temporary) not in str(error):
            raise
        raise type(error)(_final(error, temporary, target)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _final(text: object, temporary: Path, target: Path) -> str:
    """Return a text with the final path in place of the temporary one."""
    return str(text).replace(str(temporary), str(target))


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
    with temporary_folder(target) as temporary:
        yield temporary
        flush(temporary)
        _move(temporary, target)
        fsync(target.parent)


def flush(folder: Path) -> None:
    """Flush a folder with all its files to disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():  # safetensors creates files that only their owner can read
            path.chmod(folder.stat().st_mode & 0o666)
        fsync(path)
    fsync(folder)


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


def remove_folder(path: Path) -> None:
    """Remove a folder. It is renamed first: a killed process leaves the whole folder, or a temporary one."""
    temporary = _temporary_path(path)
    with suppress(OSError):
        os.rename(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- temporary files and folders


class Temporary(NamedTuple):
    """A temporary file or folder.

    Attributes:
        path: its path.
        target: the path that it is written for.
        pid: the process that writes it.
        old: whether it is the previous content of the target, moved aside.
    """

    path: Path
    target: Path
    pid: int
    old: bool

    @property
    def abandoned(self) -> bool:
        """True if its process is gone. A process that started after the last write only has the same id."""
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > self.path.lstat().st_mtime + 2
        except (psutil.NoSuchProcess, OverflowError):
            return True
        except (psutil.Error, OSError):  # it exists, or has just been removed by its process
            return False


def _temporary_path(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def temporaries(folder: Path) -> list[Temporary]:
    """Return the temporary files and folders in a folder."""
    matches = [(path, _TEMPORARY_NAME.fullmatch(path.name)) for path in folder.glob(f"{TEMPORARY}*")]
    return [Temporary(path, folder / m["name"], int(m["pid"]), bool(m["old"])) for path, m in matches if m]


def remove_abandoned(target: Path) -> None:
    """Remove the temporary files and folders of `target` whose process was killed."""
    for temporary in temporaries(target.parent):
        if temporary.target.name == target.name and temporary.abandoned:
            _remove(temporary)


def remove_all_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders in a folder whose process was killed."""
    for temporary in temporaries(folder):
        if temporary.abandoned:
            _remove(temporary)


def _remove(temporary: Temporary) -> None:
    if temporary.old and not temporary.target.exists():
        os.rename(temporary.path, temporary.target)  # the process was killed between the two renames
    else:
        _remove_path(temporary.path)


def remove_temporaries(folder: Path) -> None:
    """Remove all temporary files in a folder. Only the process that owns the folder may call this."""
    for path in folder.glob(f"{TEMPORARY}*"):
        _remove_path(path)


def _remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


# ---------------------------------------------------------------------------------------------- space


def require_space(folder: Path, size: int) -> None:
    """Check that `size` bytes are free on the folder's disk.

    Raises:
        CheckpointError: the disk is too full; the message has the required and the free bytes.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CheckpointError(f"{folder}: the disk is full, {size:,} bytes are needed and {free:,} are free")


def write_error(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that cannot be written, from an exception of the system, numpy, shutil or safetensors."""
    if isinstance(error, shutil.Error):  # several files: (source, target, reason)
        reason = str(error.args[0][0][2]) if isinstance(error.args[0], list) else str(error)
    else:
        reason = (error.strerror if isinstance(error, OSError) else None) or _first_line(error)
    if re.search(r"os error 28\b|Errno 28\b|requested and \d+ written", reason):
        reason = os.strerror(errno.ENOSPC)
    return CheckpointError(f"{path}: could not be written ({reason})")
