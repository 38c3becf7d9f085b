"""Find runs, checkpoints and exports by name or path, and list the runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt2demo.errors import RunError
from gpt2demo.runs.folder import Run, exports_dir, runs_dir

LONGEST = 80  # what a message quotes of a name
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def list_runs() -> list[Run]:
    """All runs, the one that was written last first."""
    folder = runs_dir()
    runs = [Run(path) for path in folder.iterdir() if (path / "run.json").is_file()] if folder.is_dir() else []
    return sorted(runs, key=_last_written, reverse=True)


def _last_written(run: Run) -> float:
    """When the run's state last changed."""
    try:
        return (run.path / "state.json").stat().st_mtime
    except OSError:
        return 0.0


def find_run(name: str) -> Run:
    """A run by name or path.

    Raises:
        RunError: there is none.
    """
    for path in _places(name, runs_dir()):
        if Run(path).exists:
            return Run(path)
    names = ", ".join(run.name for run in list_runs()[:8]) or "none yet"
    raise RunError(f"run {name[:LONGEST]!r}: there is no such run in {runs_dir()}; there are: {names}")


def _places(name: str, *folders: Path) -> list[Path]:
    """The paths that a name may mean: one in the first folder, itself, one in the others. `.` and `..` are no names."""
    inside = [] if name in ("", ".", "..") else [folder / name for folder in folders]
    return [*inside[:1], Path(name), *inside[1:]]


def find_model(name: str | None, is_checkpoint: Callable[[Path], bool], is_export: Callable[[Path], bool]) -> Run | Path:
    """What MODEL means: a run's name, the path of a run, checkpoint or export folder; None is the newest run.

    Raises:
        RunError: there is no such thing.
    """
    if name is None:
        if runs := list_runs():
            return runs[0]
        raise RunError(f"there is no run in {runs_dir()} yet; train one with `gpt2demo train`")
    for path in _places(name, runs_dir(), exports_dir()):
        if Run(path).exists:
            return Run(path)
        if is_checkpoint(path) or is_export(path):
            return path
    if Path(name).suffix in PICKLES:
        raise RunError(f"model {name!r}: is a pickle, which can run any code when it is read; save it as safetensors first")
    names = ", ".join(run.name for run in list_runs()[:8]) or "none yet"
    raise RunError(f"model {name[:LONGEST]!r}: is no run, checkpoint or export folder; runs in {runs_dir()}: {names}")


def summary(run: Run) -> dict[str, Any]:
    """A run in one row, for lists: name, status, step and total, parameters, newest validation loss, tokenizer, data, created.

    A run that cannot be read says why instead of its status.
    """
    try:
        info = run.info()
    except RunError as error:
        return {"name": run.name, "status": str(error)}
    state = run.state()
    losses = [record["loss"] for record in run.records(run.metrics)[0] if record.get("split") == "validation"]
    return {
        "name": run.name,
        "status": state.status,
        "step": state.step,
        "total_steps": state.total_steps,
        "parameters": info.get("parameters"),
        "validation_loss": losses[-1] if losses else None,
        "tokenizer": info.get("tokenizer", {}).get("name"),
        "data": _names([Path(source["path"]).name for source in info.get("data", [])]),
        "created": info.get("created"),
    }


def _names(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join([*names[:3], *([f"and {len(names) - 3} more"] if len(names) > 3 else [])])
