"""`gpt2demo.Run`: a run as an object."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from samples import SMALL, save_checkpoint

import gpt2demo
from gpt2demo.events import Ended
from gpt2demo.runs import folder
from gpt2demo.runs.folder import State


@pytest.fixture
def run(run_copy: folder.Run) -> gpt2demo.Run:
    """A run `mine` of 12 steps, with checkpoints at steps 6 and 12."""
    return gpt2demo.Run("mine")


def test_a_run_is_found_by_name_and_path(run: gpt2demo.Run) -> None:
    assert gpt2demo.Run(run.path).path == run.path
    assert run.name == "mine"
    with pytest.raises(gpt2demo.RunError, match="unknown run 'third'; .*: mine$"):
        gpt2demo.Run("third")


def test_it_has_status_and_settings(run: gpt2demo.Run) -> None:
    assert run.status == "finished"
    assert (run.config.model.n_layer, run.config.train and run.config.train.steps) == (SMALL["n_layer"], SMALL["steps"])


def test_losses_are_a_table_with_a_row_per_step(run: gpt2demo.Run, run_copy: folder.Run) -> None:
    losses = run.losses()
    assert list(losses.columns) == ["batch", "train", "validation"]
    assert list(losses.index) == list(range(13))
    records = list(run_copy.checked_records(run_copy.metrics))
    for split in losses.columns:
        values = {record["step"]: record["loss"] for record in records if record["split"] == split}
        assert losses[split].dropna().to_dict() == values
    assert np.isnan(losses["batch"][0]), "step 0 is an evaluation of the initial weights"


def test_metrics_have_all_values_also_of_older_versions(run: gpt2demo.Run, run_copy: folder.Run) -> None:
    assert {"grad_norm", "learning_rate", "tokens_per_second", "memory", "time"} <= set(run.metrics().columns)
    run_copy.metrics.write_text('{"step": 1, "split": "batch", "loss": 2.5}\n')
    assert run.losses()["batch"].to_dict() == {1: 2.5}


def test_samples_are_a_table(run: gpt2demo.Run) -> None:
    assert list(run.samples()["step"]) == [6, 12]
    assert run.samples()["text"].map(len).min() > 0


def test_a_run_without_records_has_empty_tables(run: gpt2demo.Run, run_copy: folder.Run) -> None:
    for file in (run_copy.metrics, run_copy.samples):
        file.unlink()
    assert run.losses().shape == (0, 3)
    assert run.samples().empty
    run_copy.metrics.write_text("damaged\n")
    with pytest.raises(gpt2demo.CheckpointError, match="metrics.jsonl: line 1 is damaged"):
        run.losses()


def test_checkpoints_are_listed_and_loaded(run: gpt2demo.Run) -> None:
    first, last = run.checkpoints
    assert [(entry.step, entry.newest) for entry in (first, last)] == [(6, False), (12, True)]
    assert [entry.best for entry in (first, last)].count(True) == 1
    best = first if first.best else last
    assert run.load("best").path == best.path
    assert run.load(6).path == first.path
    assert run.load().path == run.load("newest").path == last.path
    with pytest.raises(gpt2demo.RunError, match="no checkpoint '99'; available: best, newest, "):
        run.load(99)


def test_a_checkpoint_is_evaluated(run: gpt2demo.Run, text_file: Path) -> None:
    assert run.evaluate() == gpt2demo.evaluate(gpt2demo.load("mine"))
    assert run.evaluate(checkpoint=6) == gpt2demo.evaluate(run.load(6))
    assert run.evaluate(text_file) == gpt2demo.evaluate(gpt2demo.load("mine"), text_file)
    assert run.evaluate(checkpoint=6).loss > run.evaluate().loss


def test_a_checkpoint_is_exported(run: gpt2demo.Run, tmp_path: Path) -> None:
    quiet = {"report": lambda line: None}
    assert run.export("huggingface", **quiet) == tmp_path / "exports" / "mine-huggingface"
    other = run.export("huggingface", 6, output=tmp_path / "other", **quiet)
    assert (other / "model.safetensors").read_bytes() == (run.checkpoints[0].path / "model.safetensors").read_bytes()


def test_a_run_is_resumed(run: gpt2demo.Run) -> None:
    assert list(run.resume(steps=14))[-1] == Ended("finished", 14)
    assert list(run.losses().index)[-1] == 14
    with pytest.raises(gpt2demo.RunError, match="has done all its 14 steps"):
        next(run.resume())


def test_it_says_what_it_is(run: gpt2demo.Run, run_copy: folder.Run) -> None:
    loss = run.losses()["validation"].iloc[-1]
    shown = repr(run)
    assert shown.startswith("<Run 'mine', status finished, step 12 of 12, parameters ")
    assert f"validation loss {loss:.4f}, tokenizer byte, checkpoints 2>" in shown
    assert "<tr><th>status</th><td>finished</td></tr>" in run._repr_html_()
    run_copy.write_info({**run_copy.info(), "tokenizer": {"name": "<script>"}})
    assert "&lt;script&gt;" in run._repr_html_()
    assert "<script>" not in run._repr_html_()
    (run_copy.path / "run.json").write_text("{}")
    assert "status damaged: " in repr(run)


def test_runs_are_listed_the_most_recent_first(run: gpt2demo.Run, run_copy: folder.Run) -> None:
    other = folder.Run(Path(shutil.copytree(run_copy.path, run_copy.path.with_name("other"))))
    other.write_state(State.own("finished", 12, 12))
    assert [entry.name for entry in gpt2demo.list_runs()] == ["other", "mine"]


def test_an_imported_model_has_no_training_settings(run: gpt2demo.Run, run_copy: folder.Run) -> None:
    run_copy.write_info({**run_copy.info(), "train": None})
    save_checkpoint(run_copy.path, step=20)
    assert run.config.train is None
    assert [entry.step for entry in run.checkpoints] == [6, 12, 20]
