"""Checkpoints appear whole or not at all, are checked before use, and are Hugging Face models."""

from __future__ import annotations

import json
import os
import random
import shutil
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
    """A model that has made a step, so that its optimizer has a state."""
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
    return weights.save(folder, model, tokenizer, optimizer, {"step": step, "validation_loss": loss})


def test_what_is_saved_comes_back_exactly(folder: Path) -> None:
    saved = save(folder, 7, 1.5)
    model, optimizer = trained()
    assert checkpoint.newest(folder) == saved == Checkpoint(folder / "step-00000007", 7, 1.5)
    loaded = weights.load_model(saved.path)
    for (name, left), right in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(left, right), name
    progress, state = weights.load_trainer(saved.path)
    assert progress["step"] == 7
    expected = optimizer.state_dict()
    assert state["param_groups"] == expected["param_groups"] or json.dumps(state["param_groups"]) == json.dumps(
        expected["param_groups"]
    )
    for index, values in expected["state"].items():
        assert all(torch.equal(value, state["state"][index][key]) for key, value in values.items())


def test_transformers_loads_the_folder_as_it_is(folder: Path) -> None:
    path = save(folder, 1).path
    theirs, ours = AutoModelForCausalLM.from_pretrained(path), weights.load_model(path)
    ids = torch.randint(0, 256, (2, 20))
    torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(path)
    for text in ("plain", "Zoë 🙂\n\ttab", " lead", "two  spaces"):
        assert tokenizer.encode(text) == ByteTokenizer().encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_any_flipped_bit_any_truncation_and_any_missing_file_is_noticed(folder: Path) -> None:
    path = save(folder, 1).path
    backup = shutil.copytree(path, folder.parent / "backup")
    random.seed(0)
    for number in range(120):
        file = random.choice(files(path))
        raw = bytearray(file.read_bytes())
        if number % 3 == 0:
            raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
            file.write_bytes(raw)
        elif number % 3 == 1:
            file.write_bytes(raw[: random.randrange(len(raw))])
        else:
            file.unlink()
        with pytest.raises(CheckpointError) as raised:
            checkpoint.verify(path)
        assert "\n" not in str(raised.value)
        shutil.rmtree(path)
        shutil.copytree(backup, path)
    checkpoint.verify(path)


def test_a_damaged_newest_is_passed_over_with_a_warning(folder: Path) -> None:
    save(folder, 1)
    newest = save(folder, 2).path
    (newest / "model.safetensors").write_bytes(b"garbage")
    with pytest.warns(UserWarning, match="step-00000002.*passed over"):
        assert checkpoint.newest(folder).step == 1


def test_a_checkpoint_that_vanishes_while_it_is_read_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer may prune what another process has just begun to read."""

    def gone(file: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(file))

    save(folder, 1)
    monkeypatch.setattr(checkpoint, "sha256", gone)
    with (
        pytest.warns(UserWarning, match="No such file or directory.*passed over"),
        pytest.raises(CheckpointError, match="no usable"),
    ):
        checkpoint.newest(folder)


def test_without_any_whole_checkpoint_it_says_so(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        checkpoint.newest(folder)


def test_pruning_keeps_the_newest_and_the_best(folder: Path) -> None:
    for step, loss in enumerate([3.0, 1.0, 2.0, None, 2.5], start=1):
        save(folder, step, loss)
    checkpoint.prune(folder, 2)
    assert sorted(c.step for c in checkpoint.valid_checkpoints(folder)) == [2, 4, 5]


@pytest.mark.parametrize("failing", ["fsync", "write_manifest", "save_file", "rename"])
def test_a_disk_that_refuses_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    save(folder, 1)

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    owner = {"fsync": storage, "rename": storage.os, "save_file": weights}.get(failing, checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(owner, failing, refuse)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(folder, 2)
    assert [c.step for c in checkpoint.valid_checkpoints(folder)] == [1]
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001"], "nothing half-written stays"
    assert save(folder, 2).step == 2


def test_too_little_space_is_noticed_before_anything_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(CheckpointError, match=r"bytes are needed and 10 are free"):
        save(folder, 1)


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    save(folder, 1)
    (folder / ".tmp-step-00000002-123").mkdir()
    (folder / "step-00000003").mkdir()
    checkpoint.clean(folder)
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n_embd": 10**9}, "n_embd"),
        ({"n_layer": -1}, "n_layer"),
        ({"n_head": 3}, "not divisible"),
        ({"n_layer": 3}, "missing"),
        ({"n_embd": 64}, "has shape"),
        ({"n_positions": "many"}, "n_positions"),
    ],
)
def test_a_hostile_config_is_refused_before_memory_is_taken(folder: Path, change: dict[str, object], complaint: str) -> None:
    path = save(folder, 1).path
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=complaint):
        weights.load_model(path)


@pytest.mark.parametrize(
    "content", ['{"a": NaN}', '{"a": 1, "a": 2}', "[1]", "{", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")]
)
def test_hostile_json_is_refused_in_one_line(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=r"x\.json: cannot be read") as raised:
        storage.read_json(path)
    assert "\n" not in str(raised.value)


def test_a_newer_format_is_named(folder: Path) -> None:
    path = save(folder, 1).path
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 9}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="format 9, this program reads 1"):
        checkpoint.verify(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_every_file_may_be_read_by_whom_the_folder_lets_in(folder: Path) -> None:
    """safetensors makes files for their owner alone."""
    saved = save(folder, 3).path
    assert {path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()} == {saved.stat().st_mode & 0o666}
