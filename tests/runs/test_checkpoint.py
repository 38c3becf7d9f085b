"""Checkpoints are restored exactly, pruned, written atomically, and readable by `transformers`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from samples import SHAPE
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt2demo import storage
from gpt2demo.config import TrainConfig
from gpt2demo.errors import CheckpointError
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint, weights
from gpt2demo.runs.checkpoint import Checkpoint
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.training.optimizers import adamw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def trained() -> tuple[GPT2, torch.optim.Optimizer]:
    """Return a model and its optimizer after one step, so that the optimizer has state."""
    torch.manual_seed(0)
    model = GPT2(SHAPE.with_changes(vocab_size=256))
    optimizer = adamw(model, TrainConfig(steps=1))
    model(torch.arange(20)[None]).logsumexp(-1).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, loss: float | None = None) -> Checkpoint:
    model, optimizer = trained()
    tokenizer = folder.parent / "tokenizer"
    checkpoint.save_tokenizer(ByteTokenizer(), "byte", tokenizer)
    return weights.save_checkpoint(folder, model, tokenizer, optimizer, {"step": step, "validation_loss": loss})


def test_weights_and_optimizer_state_are_restored_exactly(folder: Path) -> None:
    saved = save(folder, 7, 1.5)
    model, optimizer = trained()
    assert checkpoint.newest(folder) == saved == Checkpoint(folder / "step-00000007", 7, 1.5)
    loaded = weights.load_model(saved.path)
    for (name, left), right in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(left, right), name
    progress, state = weights.load_trainer(saved.path)
    assert progress["step"] == 7
    expected = optimizer.state_dict()
    assert json.dumps(state["param_groups"]) == json.dumps(expected["param_groups"])  # JSON has lists for tuples
    for index, values in expected["state"].items():
        assert all(torch.equal(value, state["state"][index][key]) for key, value in values.items())


def test_transformers_loads_a_checkpoint(folder: Path) -> None:
    path = save(folder, 1).path
    theirs, ours = AutoModelForCausalLM.from_pretrained(path), weights.load_model(path)
    ids = torch.randint(0, 256, (2, 20))
    torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(path)
    for text in ("plain", "Zoë 🙂\n\ttab", " lead", "two  spaces"):
        assert tokenizer.encode(text) == ByteTokenizer().encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(folder: Path) -> None:
    save(folder, 1)
    newest = save(folder, 2).path
    (newest / "model.safetensors").write_bytes(b"garbage")
    with pytest.warns(UserWarning, match="step-00000002.*skipped"):
        assert checkpoint.newest(folder).step == 1


def test_a_checkpoint_removed_while_it_is_read_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer may prune a checkpoint that another process is reading."""

    def gone(file: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(file))

    save(folder, 1)
    monkeypatch.setattr(checkpoint, "sha256", gone)
    with (
        pytest.warns(UserWarning, match="No such file or directory.*skipped"),
        pytest.raises(CheckpointError, match="no valid checkpoint"),
    ):
        checkpoint.newest(folder)


def test_a_folder_without_a_checkpoint_is_an_error(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        checkpoint.newest(folder)


def test_pruning_keeps_the_newest_and_the_best(folder: Path) -> None:
    for step, loss in enumerate([3.0, 1.0, 2.0, None, 2.5], start=1):
        save(folder, step, loss)
    checkpoint.prune(folder, 2)
    assert sorted(c.step for c in checkpoint.valid_checkpoints(folder)) == [2, 4, 5]


@pytest.mark.parametrize("failing", ["fsync", "write_manifest", "save_file", "rename"])
def test_a_failed_save_leaves_the_other_checkpoints_and_no_temporary_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    save(folder, 1)

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    owner = {"fsync": storage, "rename": storage.os, "save_file": weights}.get(failing, checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(owner, failing, refuse)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(folder, 2)
    assert [c.step for c in checkpoint.valid_checkpoints(folder)] == [1]
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001"]
    assert save(folder, 2).step == 2


def test_too_little_disk_space_is_reported_before_anything_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(CheckpointError, match=r"bytes are needed and 10 are free"):
        save(folder, 1)


def test_leftovers_of_a_killed_process_are_removed(folder: Path) -> None:
    save(folder, 1)
    (folder / ".tmp-step-00000002-123").mkdir()
    (folder / "step-00000003").mkdir()
    checkpoint.clean(folder)
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_files_have_the_permissions_of_their_folder(folder: Path) -> None:
    """safetensors creates files that only their owner may read."""
    saved = save(folder, 3).path
    assert {path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()} == {saved.stat().st_mode & 0o666}


def test_an_empty_model_is_made_without_torchs_compiler() -> None:
    """Drawing weights on the meta device would import torch._dynamo, a second for every command that loads a model."""
    code = """
import sys
from gpt2demo.config import preset
from gpt2demo.runs.weights import meta_model
model = meta_model(preset("seed").model)
assert all(parameter.is_meta for parameter in model.parameters())
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
