"""Find runs, checkpoints and exports by name or path, and list the runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.runs.checkpoint import Checkpoint, best_of, is_checkpoint, valid_checkpoints
from gpt2demo.runs.folder import Run, exports_dir, runs_dir

NAME_LIMIT = 80  # characters of a name that a message quotes
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def list_runs() -> list[Run]:
    """Return all runs, the most recently active first."""
    try:
        paths = [path for path in runs_dir().iterdir() if not path.name.startswith(".")]  # temporary folders may be complete
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{runs_dir()}: cannot be read ({error.strerror})") from None
    return sorted((run for run in map(Run, paths) if run.exists), key=_last_written, reverse=True)


def _last_written(run: Run) -> float:
    """Return when the run's state last changed."""
    try:
        return (run.path / "state.json").stat().st_mtime
    except OSError:
        return 0.0


def find_run(name: str) -> Run:
    """Return a run by name or path.

    Raises:
        RunError: the run does not exist.
    """
    for path in _candidates(name, runs_dir()):
        if Run(path).exists:
            return Run(path)
    raise RunError(f"unknown run {name[:NAME_LIMIT]!r}; {_existing_runs()}")


def find_model(name: str | None, is_other: Callable[[Path], bool]) -> Run | Path:
    """Return the run, or the checkpoint or other model folder, that a MODEL argument refers to.

    Args:
        name: a run's name, or the path of a run, checkpoint or other model folder; None means the newest run. `RUN@best`,
            `RUN@newest` and `RUN@STEP` name a checkpoint, see `find_checkpoint`.
        is_other: returns whether a folder is another kind of model that the caller accepts, such as an export.

    Raises:
        RunError: the model does not exist.
    """
    if name is None:
        if runs := list_runs():
            return runs[0]
        raise RunError(f"{runs_dir()} has no run yet; train one with `gpt2demo train`")
    for path in _candidates(name, runs_dir(), exports_dir()):
        if Run(path).exists:
            return Run(path)
        if is_checkpoint(path) or is_other(path):
            return path
    refuse_pickle(Path(name))
    if "@" in name:
        run, _, which = name.rpartition("@")
        return find_checkpoint(find_run(run), which).path
    raise RunError(f"model {name[:NAME_LIMIT]!r}: not a run, checkpoint or export; {_existing_runs()}")


def find_checkpoint(run: Run, which: str | int) -> Checkpoint:
    """Return a checkpoint of a run. Its files are not verified.

    Args:
        run: the run.
        which: `best` for the lowest validation loss, `newest`, or a step, also that of a milestone.

    Raises:
        RunError: the run has no such checkpoint; the message names those that it has.
    """
    saved = saved_checkpoints(run)
    found: Checkpoint | None = None
    if which == "best":
        found = best_of(saved)
    elif which == "newest" and saved:
        found = saved[-1]
    elif str(which).isdecimal():
        found = {entry.step: entry for entry in [*saved_milestones(run), *saved]}.get(int(which))
    if found:
        return found
    steps = sorted({entry.step for entry in [*saved_milestones(run), *saved]})
    names = [*(["best"] if best_of(saved) else []), *(["newest"] if saved else []), *map(str, steps)]
    existing = f"available: {', '.join(names)}" if names else "it has none yet"
    raise RunError(f"run {run.name!r}: has no checkpoint {str(which)[:NAME_LIMIT]!r}; {existing}")


def saved_checkpoints(run: Run) -> list[Checkpoint]:
    """Return the checkpoints of a run, oldest first. Their files are not verified."""
    return list(valid_checkpoints(run.checkpoints, verified=False))[::-1]


def saved_milestones(run: Run) -> list[Checkpoint]:
    """Return the milestones of a run, oldest first: weights without optimizer state. Their files are not verified."""
    return list(valid_checkpoints(run.milestones, verified=False))[::-1]


def _candidates(name: str, *folders: Path) -> list[Path]:
    """Return the paths that a name may mean: in the first folder, as a path, in the other folders."""
    inside = [] if name in ("", ".", "..") else [folder / name for folder in folders]
    return [*inside[:1], Path(name), *inside[1:]]


def _existing_runs() -> str:
    """Return the end of a message: the names of a few runs."""
    return f"runs in {runs_dir()}: {', '.join(run.name for run in list_runs()[:8]) or 'none yet'}"


def refuse_pickle(file: Path) -> None:
    """Raise a RunError if a file's suffix is that of a pickle."""
    if file.suffix in PICKLES:
        raise RunError(
            f"{file}: is a pickle, which can run any code when it is loaded, and is never loaded here; if you trust it, convert "
            "it to safetensors with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)"
        )


def summary(run: Run) -> dict[str, Any]:
    """Return a run as a row of a list: name, status, step, parameters, newest validation loss, tokenizer, data, created.

    A run that cannot be read has the reason as its status.
    """
    try:
        info, state = run.info(), run.read_state()
        losses = [record["loss"] for record in run.checked_records(run.metrics) if record["split"] == "validation"]
        for _ in run.checked_records(run.samples):
            pass
    except (RunError, CheckpointError) as error:
        return {"name": run.name, "status": f"damaged: {error}"}
    return {
        "name": run.name,
        "status": state.status,
        "step": state.step,
        "total_steps": state.total_steps,
        "parameters": info.get("parameters"),
        "validation_loss": losses[-1] if losses else None,
        "tokenizer": info.get("tokenizer", {}).get("name"),
        "data": _shortened([Path(source["path"]).name for source in info.get("data", [])]),
        "created": info.get("created"),
    }


def _shortened(names: list[str]) -> str:
    """Return the first few names and the number of the others."""
    return ", ".join([*names[:3], *([f"and {len(names) - 3} more"] if len(names) > 3 else [])])
