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
