"""Scoring a loaded model: on the validation split of its run, or on files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from samples import SMALL

import gpt2demo
from gpt2demo.config import DataConfig
from gpt2demo.errors import RunError, SettingError
from gpt2demo.evaluation.score import Score, evaluate, score
from gpt2demo.generation.generate import Model
from gpt2demo.generation.load import load
from gpt2demo.runs.checkpoint import newest
from gpt2demo.runs.folder import Run


@pytest.fixture(scope="module")
def model(trained_run: Run) -> Model:
    return load(trained_run.path)


def test_a_model_is_scored_on_the_validation_split_of_its_run(model: Model, trained_run: Run) -> None:
    ids = np.load(trained_run.data / "validation.npy")
    text = model.tokenizer.decode(ids.tolist())
    assert evaluate(model) == score(model.engine, ids, len(text.encode()), len(text))
    assert evaluate(model, config=DataConfig()) == evaluate(model), "default settings ask for nothing"


def test_a_model_is_scored_on_files(model: Model, tmp_path: Path) -> None:
    """Each document ends with a line break; the byte tokenizer has a token for each byte."""
    (tmp_path / "a.txt").write_text("The quick brown fox.", encoding="utf-8")
    (tmp_path / "b.txt").write_text("Said Zoë.\n", encoding="utf-8")
    ids = np.frombuffer("The quick brown fox.\nSaid Zoë.\n".encode(), np.uint8)
    characters = len(ids) - 1  # the ë has two bytes
    assert evaluate(model, [tmp_path / "a.txt", tmp_path / "b.txt"]) == score(model.engine, ids, len(ids), characters)


def test_a_single_file_needs_no_list(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("The quick brown fox.", encoding="utf-8")
    assert evaluate(model, file) == evaluate(model, str(file)) == evaluate(model, [file])


def test_ends_of_text_are_not_characters(tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "story {n} of the fox"}}\n' for n in range(200))
    (tmp_path / "rows.jsonl").write_text(rows)
    list(
        gpt2demo.train(
            tmp_path / "rows.jsonl", run="rows", **{**SMALL, "tokenizer": "bpe", "tokenizer_options": {"vocab_size": "270"}}
        )
    )
    result = evaluate(load("rows"))
    assert result.characters == result.bytes, "the text is ASCII"


def test_settings_for_reading_need_files(model: Model) -> None:
    with pytest.raises(SettingError, match="normalize=nfc: there is no text to read"):
        evaluate(model, config=DataConfig(normalize="nfc"))


def test_a_checkpoint_outside_a_run_needs_files(trained_run: Run, tmp_path: Path) -> None:
    lone = Path(shutil.copytree(newest(trained_run.checkpoints).path, tmp_path / "lone"))
    with pytest.raises(RunError, match="no run with a validation split; name the text files"):
        evaluate(load(lone))


def test_a_run_without_its_ids_needs_files(run_copy: Run) -> None:
    (run_copy.data / "data.json").unlink()
    with pytest.raises(RunError, match="no run with a validation split; name the text files"):
        evaluate(load(run_copy.path))


def test_a_score_as_a_dictionary_has_all_measures() -> None:
    result = Score(loss=np.log(4.0), tokens=10, bytes=5, characters=4, stride=8, top1=0.5, top5=0.7)
    assert result.as_dict() == {
        "loss": result.loss,
        "tokens": 10,
        "bytes": 5,
        "characters": 4,
        "stride": 8,
        "top1": 0.5,
        "top5": 0.7,
        "perplexity": pytest.approx(4.0),
        "bits_per_byte": pytest.approx(4.0),
        "bits_per_character": pytest.approx(5.0),
    }
