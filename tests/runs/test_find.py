"""Finding runs and models by name or path, and the run of a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gpt2demo.errors import RunError
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_model, find_run, list_runs
from gpt2demo.runs.folder import Run, new_name, new_run, runs_dir


def never(path: Path) -> bool:
    return False


def make_run(name: str) -> Run:
    with new_run(name, "unused") as run:
        run.write_info({})
    return run


def test_a_run_is_found_by_name_and_by_path() -> None:
    run = make_run("a")
    assert find_run("a").path == run.path
    assert find_run(str(run.path)).path == run.path


def test_an_unknown_run_is_an_error_that_lists_the_runs() -> None:
    make_run("a")
    for name in ("b", ".", "..", "", "x" * 500):
        with pytest.raises(RunError, match="unknown run .*: a$"):
            find_run(name)


def test_a_model_is_the_newest_run_or_a_checkpoint_or_another_accepted_folder(run_copy: Run, tmp_path: Path) -> None:
    newest = checkpoint.newest(run_copy.checkpoints).path
    for name in (None, "mine"):
        found = find_model(name, never)
        assert isinstance(found, Run)
        assert found.path == run_copy.path
    assert find_model(str(newest), never) == newest
    assert find_model(str(tmp_path), lambda path: path == tmp_path) == tmp_path
    with pytest.raises(RunError, match="not a run, checkpoint or export; runs in .*: mine$"):
        find_model("other", never)


@pytest.fixture
def two_checkpoints(run_copy: Run) -> Run:
    """A run with checkpoints at steps 6 and 12, of which the first has the lower loss, and without milestones."""
    shutil.rmtree(run_copy.milestones, ignore_errors=True)
    set_loss(run_copy.checkpoints / "step-00000006", 1.5)
    return run_copy


def test_a_checkpoint_of_a_run_is_named_after_an_at_sign(two_checkpoints: Run, tmp_path: Path) -> None:
    run = two_checkpoints
    shutil.copytree(run.checkpoints / "step-00000006", run.milestones / "step-00000003")
    (run.milestones / "step-00000003" / "trainer.json").write_text('{"step": 3, "validation_loss": null}')
    for name, step in (("mine@best", 6), ("mine@newest", 12), ("mine@6", 6), ("mine@12", 12), (f"{run.path}@best", 6)):
        assert find_model(name, never) == run.checkpoints / checkpoint.folder_name(step)
    assert find_model("mine@3", never) == run.milestones / "step-00000003"
    (folder := tmp_path / "runs" / "a@best").mkdir()
    assert find_model("a@best", lambda path: path == folder) == folder, "an existing folder is preferred"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine@7", "run 'mine': has no checkpoint '7'; available: best, newest, 6, 12$"),
        ("mine@worst", "run 'mine': has no checkpoint 'worst'; available: best"),
        ("mine@", "run 'mine': has no checkpoint ''; available: best"),
        ("other@best", "unknown run 'other'; runs in .*: mine$"),
    ],
)
@pytest.mark.usefixtures("two_checkpoints")
def test_an_unknown_checkpoint_is_an_error_that_lists_those_of_the_run(name: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        find_model(name, never)


def test_the_best_checkpoint_needs_an_evaluation(two_checkpoints: Run) -> None:
    for step in (6, 12):
        set_loss(two_checkpoints.checkpoints / checkpoint.folder_name(step), None)
    with pytest.raises(RunError, match="has no checkpoint 'best'; available: newest, 6, 12$"):
        find_model("mine@best", never)
    shutil.rmtree(two_checkpoints.checkpoints)
    with pytest.raises(RunError, match="has no checkpoint '12'; it has none yet"):
        find_model("mine@12", never)


def set_loss(folder: Path, loss: float | None) -> None:
    """Change the validation loss of a checkpoint."""
    file = folder / "trainer.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "validation_loss": loss}), encoding="utf-8")


def test_without_any_run_the_newest_is_an_error() -> None:
    with pytest.raises(RunError, match="has no run yet; train one with `gpt2demo train`"):
        find_model(None, never)


def test_the_run_of_a_checkpoint_is_found_also_from_a_relative_path(
    run_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = checkpoint.newest(run_copy.checkpoints).path
    monkeypatch.chdir(newest.parent)
    for path in (newest, Path(newest.name)):
        found = Run.of_checkpoint(path)
        assert found
        assert found.path == run_copy.path.resolve()
    (run_copy.path / "run.json").unlink()
    assert Run.of_checkpoint(newest) is None


def test_a_derived_name_is_valid_and_unused() -> None:
    with new_run(None, "my text/2024") as run:
        assert new_name("my text/2024") == "my-text-2024-2"
    assert run.path == runs_dir() / "my-text-2024"
    assert new_name("my text/2024") == "my-text-2024-2"
    assert new_name("...") == "run"


@pytest.mark.parametrize("name", ["../evil", "con", "x" * 101, "a b", ".hidden", "end."])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(RunError, match="use up to 100 letters"), new_run(name, "unused"):
        pass
    assert not list_runs()
