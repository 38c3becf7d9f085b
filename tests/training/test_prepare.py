"""Preparing a run: invalid settings are reported in one line, and no failure leaves a folder behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from samples import SMALL, train_small

import gpt2demo
from gpt2demo.errors import CheckpointError, DataError, RunError, SettingError
from gpt2demo.events import Started
from gpt2demo.runs.find import find_run, list_runs
from gpt2demo.runs.folder import Run
from gpt2demo.training import prepare, prepare_run
from gpt2demo.training.loop import Training


def run_folders(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"n_layr": 3}, SettingError, "n_layr: unknown setting"),
        ({"n_head": 5}, SettingError, "n_embd=32 is not divisible by n_head=5"),
        ({"preset": "huge"}, SettingError, "unknown preset 'huge'; available: nano, small"),
        ({"n_positions": 5000}, DataError, "needs at least 5001"),
        ({"vocab_size": 100}, SettingError, "vocab_size=100: the tokenizer has 256"),
        ({"run": "../evil"}, RunError, "'../evil'"),
        ({"epochs": 1}, SettingError, "either steps or epochs"),
        ({"learning_rate": float("nan")}, SettingError, "learning_rate='nan'"),
        ({"tokenizer_options": {"x": "1"}}, SettingError, "'byte': x: unknown setting"),
        ({"dataset": "tales"}, SettingError, "either text files or an example dataset"),
        ({"freeze_layers": 3}, SettingError, "freeze_layers=3: the model has 2 layers"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line_and_leaves_nothing_behind(
    text_file: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint) as raised:
        train_small(text_file, **settings)
    assert "\n" not in str(raised.value)
    assert not run_folders(tmp_path)


@pytest.mark.parametrize("error", [CheckpointError("disk"), KeyboardInterrupt(), SystemExit(130)])
def test_a_failure_while_the_folder_is_written_leaves_nothing_behind(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*args: object) -> None:
        assert run_folders(tmp_path)
        raise error

    monkeypatch.setattr(prepare, "check_length", fail)
    with pytest.raises(type(error)):
        prepare_run(text_file, **SMALL)
    assert not run_folders(tmp_path)


def test_an_interrupt_during_the_first_setup_deletes_the_folder(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "_restore", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(gpt2demo.train(text_file, run="a", **SMALL))
    assert not run_folders(tmp_path)


def interrupt(training: Training) -> None:
    raise KeyboardInterrupt


def test_a_failure_of_the_first_setup_is_recorded(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(training: Training) -> None:
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(Training, "_restore", fail)
    with pytest.raises(RuntimeError):
        next(gpt2demo.train(text_file, run="a", **SMALL))
    assert (find_run("a").state().status, find_run("a").state().error) == ("failed", "no memory")


def test_a_taken_name_is_an_error_and_a_derived_name_is_numbered(text_file: Path) -> None:
    prepare_run(text_file, run="a", **SMALL)
    with pytest.raises(RunError, match="run 'a' already exists; continue it with `gpt2demo resume a`"):
        prepare_run(text_file, run="a", **SMALL)
    assert [prepare_run(text_file, **SMALL).name for _ in range(2)] == ["text-nano", "text-nano-2"]


def test_a_prepared_run_can_be_trained(text_file: Path) -> None:
    """`train` does both; tools that check a run in between do one after the other."""
    settings = {**SMALL, "steps": 1}
    run = prepare_run(text_file, **settings)
    assert isinstance(run, Run)
    assert settings == {**SMALL, "steps": 1}, "the caller's settings are not changed"
    assert not run.has_state
    events = list(gpt2demo.training.train_run(run))
    assert isinstance(events[0], Started)
    assert [found.name for found in list_runs()] == [run.name]
