"""Files that survive a power cut, and JSON that cannot hurt: write-then-rename, fsync, checksums, bounded reads."""

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


def safe_check(look: Callable[[], bool]) -> bool:
    """What `path.is_file` and the like say; False where the system will not look, as for a name that is too long."""
    try:
        return look()
    except OSError:
        return False


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk (folders only where the system can)."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Checksum of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a small file as a whole: readers see the old content or the new one, never a part."""
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
    """Replace a JSON file as a whole. NaN is refused: JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that somebody may have tampered with.

    Raises:
        CheckpointError: it is missing, larger than 16 MiB, no JSON, no object, or holds NaN or a key twice.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ValueError("larger than 16 MiB")
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant, object_pairs_hook=_object)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key comes twice")
    return result


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears at `target` whole or not at all. What is there already stays until then, and is replaced.

    Gives a temporary sibling to write into. At the end of the block all files are flushed and the folder is renamed; when the
    block raises, it is removed.

    Raises:
        CheckpointError: the disk refused.
    """
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():  # safetensors makes files that nobody else may read
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
    """Put a finished folder into its place. What was there is moved away first, and deleted when nothing can go wrong."""
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
    """Remove what processes that were killed have left of `target`."""
    for path in target.parent.glob(f"{TEMPORARY}{glob.escape(target.name)}-*"):
        pid = path.name.removeprefix(f"{TEMPORARY}{target.name}-").partition("-")[0]
        if not pid.isdecimal() or psutil.pid_exists(int(pid)):
            continue
        if path.name.endswith(OLD) and not target.exists():
            os.rename(path, target)  # it was killed between two moves
        else:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[IO[bytes]]:
    """A file that appears at `target` whole or not at all, in a folder that is made if need be.

    Raises:
        CheckpointError: the disk refused.
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
    """Remove what a killed process left behind in a folder. Only the folder's owner may call this."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def require_space(folder: Path, size: int) -> None:
    """Check that `size` bytes fit on the folder's disk.

    Raises:
        CheckpointError: they do not; says how much is needed and how much is free.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CheckpointError(f"{folder}: the disk is full, {size:,} bytes are needed and {free:,} are free")


def write_error(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that the disk refused to take."""
    return CheckpointError(f"{path}: could not be written ({error.strerror or error})")
