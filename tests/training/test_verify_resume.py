"""`--verify-resume`: the check passes for an exact resume and fails for every piece of state that is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from samples import SMALL
from typer.testing import CliRunner

from gpt2demo.cli.commands import app
from gpt2demo.errors import TrainingError
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import list_runs
from gpt2demo.runs.folder import Run, new_run
from gpt2demo.training import check_resume, prepare_run, verify_resume
from gpt2demo.training.loop import Training


@pytest.fixture
def prepared(text_file: Path) -> Run:
    """A run with dropout that has not been trained."""
    return prepare_run(text_file, run="a", **{**SMALL, "dropout": 0.2, "threads": 1})


def test_an_exact_resume_is_reported(prepared: Run) -> None:
    lines: list[str] = []
    check_resume(prepared, lines.append)
    assert lines[0].startswith("resume is exact")
    assert [path.name for path in prepared.path.parent.iterdir()] == ["a"]
    assert not prepared.has_state


DAMAGE = {
    "weights": ("model.safetensors", 0.0),
    "optimizer state": ("trainer.safetensors", 0.0),
    "one bit of a weight": ("model.safetensors", 1 + 2**-23),
}


def multiply_tensor(file: Path, factor: float) -> None:
    """Multiply the largest tensor of a file."""
    tensors = load_file(file)
    name = max(tensors, key=lambda key: tensors[key].numel())
    save_file({**tensors, name: tensors[name] * factor}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("lost", [*DAMAGE, "step", "data order", "dropout's random numbers"])
def test_the_check_fails_for_each_piece_of_state_that_is_lost(prepared: Run, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    original = Training._restore

    def restore(self: Training) -> None:
        newest = max(self.run.checkpoints.glob("step-*"), default=None)
        if newest and lost in DAMAGE:
            name, factor = DAMAGE[lost]
            multiply_tensor(newest / name, factor)
            (newest / "manifest.json").unlink()
            checkpoint.write_manifest(newest)
        original(self)
        if newest and lost == "step":
            self.step -= 1
        if newest and lost == "data order":
            self.train_batches.windows._seed += 1
        if newest and lost == "dropout's random numbers":
            self.optimizer_step.config = self.config.with_changes(seed=self.config.seed + 1)

    monkeypatch.setattr(Training, "_restore", restore)
    with pytest.raises(TrainingError, match="resume is not exact"):
        check_resume(prepared, lambda line: None)


@pytest.mark.parametrize(
    ("error", "kept"), [(KeyboardInterrupt(), False), (SystemExit(143), False), (TrainingError("resume is not exact"), True)]
)
def test_the_command_deletes_the_run_if_the_check_is_interrupted(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, kept: bool
) -> None:
    def fail(run: Run, report: object) -> None:
        assert run.exists
        raise error

    monkeypatch.setattr(verify_resume, "check_resume", fail)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    result = CliRunner().invoke(app, ["train", str(text_file), "--run", "a", "--verify-resume", *words])
    assert result.exit_code
    assert (tmp_path / "runs" / "a").exists() == kept


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_run_with_fewer_steps_than_the_check_is_checked(text_file: Path, steps: int) -> None:
    run = prepare_run(text_file, run="a", **{**SMALL, "steps": steps, "threads": 1})
    lines: list[str] = []
    check_resume(run, lines.append)
    assert lines[0].startswith("resume is exact")
    assert not run.has_state
    assert [path.name for path in run.path.parent.iterdir()] == ["a"]


def test_an_interruption_of_the_check_removes_the_copies(prepared: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(training: Training) -> None:
        assert len(list(prepared.path.parent.iterdir())) == 2
        assert [run.name for run in list_runs()] == ["a"]
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "_restore", interrupt)
    with pytest.raises(KeyboardInterrupt):
        check_resume(prepared, lambda line: None)
    assert [path.name for path in prepared.path.parent.iterdir()] == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_the_copies_of_a_killed_check_are_removed_by_the_next_training(prepared: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(verify_resume, "train_run", lambda *args, **length: os.kill(os.getpid(), signal.SIGKILL))
        if not (pid := os.fork()):
            check_resume(prepared, lambda line: None)
        os.waitpid(pid, 0)
    assert len(list(prepared.path.parent.iterdir())) == 2
    assert [run.name for run in list_runs()] == ["a"]
    with new_run("b", "unused") as run:
        run.write_info({})
    assert sorted(path.name for path in prepared.path.parent.iterdir()) == ["a", "b"]
