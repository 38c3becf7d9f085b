"""The manifest decides what a checkpoint is: it stays within its folder, and a folder without it is not a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt2demo.errors import CheckpointError
from gpt2demo.runs import checkpoint
from gpt2demo.storage import sha256


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / tiny_checkpoint.name))


def change(file: Path, **values: Any) -> None:
    """Change values of a JSON file; those of `files` are added."""
    content = json.loads(file.read_text(encoding="utf-8"))
    values["files"] = content.get("files", {}) | values.get("files", {})
    file.write_text(json.dumps(content | values), encoding="utf-8")


def entry(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


@pytest.mark.parametrize("form", ["parent", "absolute", "inside"])
def test_a_manifest_that_names_files_elsewhere_is_refused(copy: Path, form: str) -> None:
    """The file exists and its checksum is right: only its place is wrong."""
    outside = copy.parent / "outside.txt"
    outside.write_text("x", encoding="utf-8")
    name = {"parent": "../outside.txt", "absolute": str(outside), "inside": "tokenizer/../../outside.txt"}[form]
    change(copy / "manifest.json", files={name: entry(outside)})
    with pytest.raises(CheckpointError, match=r"outside\.txt: is missing"):
        checkpoint.verify(copy)


@pytest.mark.parametrize("listed", [None, 1, [], "sha256", {}, {"bytes": 1}, {"bytes": "1", "sha256": None}])
def test_an_entry_without_size_and_checksum_is_damage(copy: Path, listed: Any) -> None:
    change(copy / "manifest.json", files={"config.json": listed})
    with pytest.raises(CheckpointError, match=r"config\.json: is damaged"):
        checkpoint.verify(copy)


@pytest.mark.parametrize(
    "progress",
    [{"step": "1"}, {"step": None}, {"step": True}, {"step": 1.0}, {"validation_loss": "2.5"}, {"validation_loss": [2.5]}],
)
def test_a_checkpoint_needs_a_step_and_a_loss_or_none(copy: Path, progress: dict[str, Any]) -> None:
    change(copy / "trainer.json", **progress)
    change(copy / "manifest.json", files={"trainer.json": entry(copy / "trainer.json")})
    with pytest.raises(CheckpointError, match="no valid step and validation loss"):
        checkpoint.verify(copy)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_a_folder_without_manifest_or_weights_is_not_a_checkpoint(copy: Path, name: str) -> None:
    assert checkpoint.is_checkpoint(copy)
    (copy / name).unlink()
    assert not checkpoint.is_checkpoint(copy)


def test_a_checkpoint_that_cannot_be_removed_completely_is_no_longer_one(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoint.discard(copy)
    assert (copy / "model.safetensors").exists()
    assert not checkpoint.is_checkpoint(copy)


def test_the_best_checkpoint_has_the_lowest_loss() -> None:
    made = [checkpoint.Checkpoint(Path(str(step)), step, loss) for step, loss in ((3, None), (2, 0.5), (1, 0.25), (0, 0.75))]
    best = checkpoint.best_of(made)
    assert best is not None
    assert best.step == 1
    assert checkpoint.best_of(made[:1]) is None


def test_a_checkpoint_has_the_tokenizers_files_for_transformers(tiny_checkpoint: Path) -> None:
    config = json.loads((tiny_checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["add_prefix_space"] is False
    assert config["clean_up_tokenization_spaces"] is False
    assert (tiny_checkpoint / "tokenizer.json").is_file()
