"""`load`: find a run, checkpoint or export, and check that it can be used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gpt2demo.errors import RunError
from gpt2demo.generation.load import load
from gpt2demo.runs.folder import Run


def test_the_default_is_the_newest_run(run_copy: Run) -> None:
    shutil.copytree(run_copy.path, run_copy.path.with_name("older"))
    for path in [run_copy.path.with_name("older"), *run_copy.path.with_name("older").rglob("*")]:
        os.utime(path, (1e9, 1e9))
    assert load().name == "mine"


def test_a_run_and_its_checkpoint_are_the_same_model(run_copy: Run) -> None:
    by_name = load("mine")
    by_path = load(by_name.path)
    assert "".join(by_path.generate("a", seed=1)) == "".join(by_name.generate("a", seed=1))


def test_a_run_without_an_export_is_refused_for_onnx(run_copy: Run) -> None:
    with pytest.raises(RunError, match="gpt2demo export mine --onnx"):
        load("mine", engine="onnx")


def test_a_checkpoint_is_refused_for_onnx(tiny_checkpoint: Path) -> None:
    with pytest.raises(RunError, match="is a checkpoint; export it first"):
        load(tiny_checkpoint, engine="onnx")


def test_an_export_is_refused_for_torch(tiny_export: Path) -> None:
    with pytest.raises(RunError, match="is an export for onnxruntime"):
        load(tiny_export, engine="torch")


def test_an_unknown_run_is_refused(run_copy: Run) -> None:
    with pytest.raises(RunError, match="'third'.*mine"):
        load("third")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2demo.tokenization.byte.ByteTokenizer.vocab_size", 300)
    with pytest.raises(RunError, match="the tokenizer has 300 ids, the model 256; they do not match"):
        load(tiny_checkpoint)
