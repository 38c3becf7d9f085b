"""The whole evaluation of a model, and of several on the same text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from samples import SMALL

import gpt2demo
from gpt2demo.config import EvalConfig
from gpt2demo.errors import DataError
from gpt2demo.evaluation import evaluate, evaluate_all
from gpt2demo.evaluation import report as module
from gpt2demo.evaluation.report import documents, final_report
from gpt2demo.evaluation.score import Text
from gpt2demo.generation.load import load
from gpt2demo.runs.checkpoint import newest
from gpt2demo.runs.folder import Run

NO_SAMPLES = EvalConfig(samples=0)


def test_a_report_has_baselines_and_samples_of_the_run(run_copy: Run) -> None:
    model = load("mine")
    [report] = evaluate_all([model], settings=EvalConfig(samples=3, stride=20))
    assert report.score == evaluate(model, stride=20)
    assert report.baselines is not None
    assert report.verdict.startswith(f"{report.score.bits_per_byte:.2f} bits per byte: ")
    assert report.samples.samples == 3
    assert report.samples.bytes > 0
    assert report.samples.grammatical is None, "the run is not on `tales`"
    values = report.as_dict()
    assert values["baselines"].keys() == {"uniform", "unigram", "kneser_ney_3", "kneser_ney_5", "kneser_ney_5_bytes", "xz"}
    assert values["stride"] == 20
    assert values["samples"]["copied"]["longest"] == report.samples.copied.longest


def test_held_out_text_shows_what_is_usual(run_copy: Run) -> None:
    """The text repeats itself, so that most of its held-out part also stands in the training text."""
    [report] = evaluate_all([load("mine")], settings=EvalConfig(samples=2))
    assert report.samples.held_out_copied.share > 0.5
    assert report.samples.held_out_copied.longest > 50


def test_baselines_are_those_of_the_text(run_copy: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("zq " * 200)
    model = load("mine")
    [own], [foreign] = evaluate_all([model], settings=NO_SAMPLES), evaluate_all([model], [other], settings=NO_SAMPLES)
    assert own.baselines.uniform == foreign.baselines.uniform == 8.0
    assert foreign.baselines.kneser_ney_5 > own.baselines.kneser_ney_5


def test_a_model_without_a_run_has_a_score_alone(trained_run: Run, tmp_path: Path, text_file: Path) -> None:
    lone = Path(shutil.copytree(newest(trained_run.checkpoints).path, tmp_path / "lone"))
    [report] = evaluate_all([load(lone)], [text_file])
    assert (report.baselines, report.verdict, report.samples, report.overfitting_since) == (None, None, None, None)


def test_models_are_compared_on_the_text_of_the_first(run_copy: Run, text_file: Path) -> None:
    """A run with another tokenizer predicts other tokens of the same bytes."""
    list(gpt2demo.train(text_file, run="other", **{**SMALL, "tokenizer": "bpe", "tokenizer_options": {"vocab_size": "300"}}))
    models = [load("mine"), load("other"), load(run_copy.checkpoints / "step-00000006")]
    first, second, third = evaluate_all(models, settings=NO_SAMPLES)
    assert first.score == evaluate(models[0])
    assert second.score.bytes == third.score.bytes == first.score.bytes
    assert second.score.tokens < first.score.tokens == third.score.tokens
    assert third.score == evaluate(models[2])
    assert third.score.loss != first.score.loss
    assert first.baselines == second.baselines == third.baselines


def test_an_encoded_text_is_split_at_its_ends_of_text(run_copy: Run) -> None:
    model = load("mine")
    ids = np.frombuffer(b"one\ntwo\n", np.uint8)
    assert documents(Text(ids, 8, 8), model) == ["one\ntwo\n"]


def test_a_run_whose_training_text_is_lost_says_so(run_copy: Run) -> None:
    (run_copy.data / "train.npy").unlink()
    with pytest.raises(DataError, match=r"train\.npy"):
        evaluate_all([load("mine")])


def test_a_training_ends_with_a_stored_evaluation_unless_it_would_take_long(
    run_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = final_report(run_copy)
    stored = json.loads((run_copy.path / "evaluation.json").read_text())
    assert (stored["step"], stored["verdict"]) == (12, report.verdict)
    for limit in ("FINAL_TOKENS", "FINAL_OPERATIONS"):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, 10)
            assert final_report(run_copy) is None
