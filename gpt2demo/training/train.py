"""Train a new model, or resume a run: the entry points of training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2demo.config import TrainConfig
from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run, State, Status
from gpt2demo.training.events import Event, StopRequest
from gpt2demo.training.loop import Training
from gpt2demo.training.prepare import create_run


def train(
    data: str | Path | Sequence[str | Path] = (),
    *,
    preset: str = "nano",
    run: str | None = None,
    dataset: str | None = None,
    tokenizer: str | None = None,
    tokenizer_options: dict[str, str] | None = None,
    init_from: str | None = None,
    stop: StopRequest = lambda: None,
    check: Callable[[Run], None] = lambda run: None,
    **settings: Any,
) -> Iterator[Event]:
    """Train a new model.

    Args:
        data: files, folders, globs and URLs of text, one or several.
        preset: the defaults for everything else.
        run: the run's name; left out, a free one is made from the data's and the preset's name.
        dataset: an example dataset instead of files, `NAME` or `NAME:key=value,…`; `tales` when there are no files either.
        tokenizer: a tokenizer by name; the preset's when left out.
        tokenizer_options: its options, values as text.
        init_from: a run, checkpoint or Hugging Face folder whose weights, shape and tokenizer the new run starts with;
            `n_positions` may shorten its context, `freeze_layers` keeps its first layers as they are.
        stop: asked after each step; a reason ends the run with a checkpoint.
        check: called with the prepared run before it is trained; what it raises ends everything.
        settings: fields of `ModelConfig`, `TrainConfig` and `DataConfig`.

    Yields:
        The events of `gpt2demo.training.events`, `Started` first and `Ended` last.

    Raises:
        UserError: a setting, the data or the name cannot be used; nothing is left behind.
        Error: the training cannot go on; the last checkpoint is untouched.
    """
    places = [str(place) for place in ([data] if isinstance(data, str | Path) else data)]
    made = create_run(places, preset, run, dataset, tokenizer, tokenizer_options or {}, settings, init_from)
    try:
        check(made)
    except (KeyboardInterrupt, SystemExit):  # nothing was learned yet
        shutil.rmtree(made.path, ignore_errors=True)
        raise
    yield from train_run(made, stop)


def resume(
    run: str, *, steps: int | None = None, epochs: float | None = None, stop: StopRequest = lambda: None
) -> Iterator[Event]:
    """Continue a run from its newest whole checkpoint.

    Args:
        run: its name or path.
        steps, epochs: a new length of the whole run, if it should differ.
        stop: as in `train`.

    Raises:
        RunError: there is no such run, or it has nothing left to do.
    """
    length = {} if steps is None and epochs is None else {"steps": steps, "epochs": epochs}
    yield from train_run(find_run(run), stop, **length)


def train_run(run: Run, stop: StopRequest, **length: float | None) -> Iterator[Event]:
    """Train a prepared run to its end (or a new one) under its lock, and keep its state.json true whatever happens."""
    with run.lock():
        run.stop_file.unlink(missing_ok=True)
        info = run.info()
        if info.get("imported"):
            hint = f"fine-tune it in a new run with `gpt2demo train … --init-from {run.name}`"
            raise RunError(f"run {run.name!r}: was imported, there is no training to go on with; {hint}")
        info["train"] = TrainConfig.create(**{**info["train"], **length}).model_dump()
        training = _set_up(run, info)
        if length:
            run.write_info(info)
        run.write_state(training.state("running"))
        try:
            yield from training.events(stop)
            run.write_state(training.state(training.status))
        except GeneratorExit:  # the caller has enough: between two events everything is consistent
            training.save_if_new()
            run.write_state(training.state("interrupted"))
            raise
        except BaseException as error:
            with suppress(CheckpointError):  # a full disk takes no state either; the lock's owner is gone all the same
                run.write_state(training.state(*_end(error)))
            raise


def _set_up(run: Run, info: dict[str, Any]) -> Training:
    """A training from a run folder; where that fails, the state of a run that never began says why. Who stops it wants no run."""
    try:
        return Training(run, info)
    except (KeyboardInterrupt, SystemExit):
        if not run.has_state:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    except Exception as error:
        if not run.has_state:
            status, line = _end(error)
            with suppress(CheckpointError):
                run.write_state(State.own(status, error=line))
        raise


def _end(error: BaseException) -> tuple[Status, str]:
    """The state of a run that ends with an exception, and the reason in one line."""
    line = " ".join(str(error).split())[:300] or type(error).__name__
    return "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed", line
