"""Files are flushed before they are renamed into place, and untrusted JSON is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2demo import storage
from gpt2demo.errors import CheckpointError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Record the calls of fsync, with the inode, and of rename and replace, with the target, in order."""
    recorded: list[tuple[str, Any]] = []

    def recording(name: str, argument: Callable[..., Any]) -> Callable[..., Any]:
        original = getattr(os, name)

        def call(*args: Any) -> Any:
            recorded.append((name, argument(*args)))
            return original(*args)

        return call

    monkeypatch.setattr(os, "fsync", recording("fsync", lambda descriptor: os.fstat(descriptor).st_ino))
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, recording(name, lambda source, target: Path(target)))
    return recorded


def inode(path: Path) -> tuple[str, int]:
    return "fsync", path.stat().st_ino


def test_a_text_file_is_flushed_before_it_replaces_the_old_one(tmp_path: Path, calls: list[tuple[str, Any]]) -> None:
    path = tmp_path / "state.json"
    storage.write_text(path, "new")
    assert calls == [inode(path), ("replace", path)]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot flush folders")
def test_a_new_file_and_its_folder_are_flushed(tmp_path: Path, calls: list[tuple[str, Any]]) -> None:
    path = tmp_path / "all.jsonl"
    with storage.new_file(path) as file:
        file.write(b"content")
    assert calls == [inode(path), ("replace", path), inode(tmp_path)]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot flush folders")
@pytest.mark.parametrize("existing", [False, True])
def test_everything_in_a_new_folder_is_flushed_before_the_rename(
    tmp_path: Path, calls: list[tuple[str, Any]], existing: bool
) -> None:
    target = tmp_path / "checkpoint"
    if existing:
        target.mkdir()
    with storage.new_folder(target) as folder:
        (folder / "tokenizer").mkdir()
        for name in ("model.safetensors", "manifest.json", "tokenizer/plugin.json"):
            (folder / name).write_text(name)
    renamed = calls.index(("rename", target))
    assert set(calls[:renamed]) >= {inode(path) for path in (target, *target.rglob("*"))}
    assert calls[renamed + 1 :] == [inode(tmp_path)]


@pytest.mark.parametrize(
    "content", ['{"a": NaN}', '{"a": 1, "a": 2}', "[1]", "{", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")]
)
def test_invalid_json_is_refused_in_one_line(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=r"x\.json: cannot be read") as raised:
        storage.read_json(path)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.name == "nt", reason="needs named pipes and devices")
@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "missing"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(CheckpointError, match=r"x\.json: cannot be read \((not a regular file|No such file or directory)\)"):
        storage.read_json(path)
    for read in (storage.read_bytes, storage.read_end, storage.sha256, lambda path: list(storage.read_lines(path))):
        with pytest.raises(OSError, match="not a regular file|No such file"):
            read(path)


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12\n345\nrest")
    assert storage.read_bytes(path, 11) == b"12\n345\nrest"
    with pytest.raises(OSError, match="larger than"):
        storage.read_bytes(path, 10)
    assert storage.read_end(path, 4) == b"rest"
    assert list(storage.read_lines(path)) == [b"12\n", b"345\n"]
    assert list(storage.read_lines(path, 3)) == [b"345\n"]
    with path.open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(CheckpointError, match="larger than 16 MiB"):
        storage.read_json(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot rename an open folder")
def test_a_folder_that_replaces_none_or_fails_leaves_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(ZeroDivisionError), storage.new_folder(target):
        raise ZeroDivisionError
    with pytest.raises(CheckpointError, match=rf"^{target}/x/y: could not be written"), storage.new_folder(target) as folder:
        (folder / "x" / "y").write_text("")
    assert list(tmp_path.iterdir()) == []
    with storage.new_folder(target) as folder:
        (folder / "x").write_text("")
    storage.remove_folder(target)
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_other_names_and_living_processes_are_kept(tmp_path: Path) -> None:
    names = [f".tmp-a-{os.getpid()}-01234567", ".tmp-b-4194303-01234567", ".tmp-a-b-4194303-01234567", ".tmp-notes"]
    for name in (*names, ".tmp-a-4194303-01234567"):
        (tmp_path / name).mkdir()
    storage.remove_abandoned(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    storage.remove_all_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], names[3]])
