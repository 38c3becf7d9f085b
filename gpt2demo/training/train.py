"""Train a new model, or resume a run: the entry points of training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2demo.config import ModelConfig, TrainConfig, validate
from gpt2demo.errors import CheckpointError, Error, ProcessError, RunError, SettingError, message
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import INTERRUPTS, Run, State, Status
from gpt2demo.storage import remove_temporaries
from gpt2demo.training.callback import Callback, with_callback
from gpt2demo.training.events import Event, StopRequest
from gpt2demo.training.loop import Training
from gpt2demo.training.prepare import prepare_run
from gpt2demo.training.processes import Group, join, launched


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
    callback: Callback | None = None,
    **settings: Any,
) -> Generator[Event]:
    """Train a new model.

    Args:
        data: files, folders, globs and URLs of text, one or several.
        preset: the defaults of all settings.
        run: the run's name; by default an unused one derived from the data's and the preset's name.
        dataset: an example dataset instead of files, `NAME` or `NAME:key=value,…`; `tales` if there are no files either.
        tokenizer: a tokenizer by name; the preset's by default.
        tokenizer_options: its options, with values as text.
        init_from: a run, checkpoint or Hugging Face folder whose weights, shape and tokenizer the new run starts with;
            `n_positions` may shorten its context, and `freeze_layers` excludes its first layers from training.
        stop: called before each step; a result other than None ends the run with a checkpoint.
        callback: called with each event. If it returns "stop", the training ends before its next step, with a checkpoint.
        settings: fields of `ModelConfig`, `TrainConfig` and `DataConfig`.

    Yields:
        The events of `gpt2demo.training.events`, `Started` first and `Ended` last.

    Raises:
        UserError: a setting, the data or the name is invalid; nothing is left behind.
        Error: the training failed; the last checkpoint is unchanged.
    """
    with join() as group:
        made = prepare(
            group,
            data,
            preset=preset,
            run=run,
            dataset=dataset,
            tokenizer=tokenizer,
            tokenizer_options=tokenizer_options,
            init_from=init_from,
            **settings,
        )
        yield from with_callback(callback, stop, lambda stop: train_run(made, stop, group))


def prepare(group: Group, *arguments: Any, **settings: Any) -> Run:
    """Prepare a run in the leader of a group; return it in all processes. The arguments are those of `prepare_run`."""

    def lead() -> str:
        return str(prepare_run(*arguments, processes=group.size, **settings).path)

    return Run(Path(group.lead(lead)))


def resume(run: str, *, stop: StopRequest = lambda: None, callback: Callback | None = None, **changes: Any) -> Generator[Event]:
    """Continue a run from its newest valid checkpoint.

    Args:
        run: its name or path.
        stop, callback: as in `train`.
        changes: `steps` or `epochs`, a new length of the whole run; `nproc`, `shard` and `checkpoint_activations`; `batch_size`
            and `grad_accumulation` with the same product. By default they are unchanged.

    Raises:
        RunError: the run does not exist, or has no steps left.
    """
    with join() as group:
        found = find_run(run)
        yield from with_callback(callback, stop, lambda stop: train_run(found, stop, group, **changes))


def train_run(run: Run, stop: StopRequest = lambda: None, group: Group | None = None, **changes: Any) -> Generator[Event]:
    """Train a prepared run under its lock, and keep its state.json correct in every case.

    Args:
        run: prepared by `prepare_run`, or interrupted.
        stop: as in `train`.
        group: the processes of the training; by default, this one.
        changes: as in `resume`.
    """
    group = group or Group()
    run = group.run(run)
    changes = {name: value for name, value in changes.items() if value is not None}
    with run.lock():
        info = group.lead(lambda: _settings(run, changes))
        training = _set_up(run, info, group)
        if training.complete:
            run.write_state(training.state("finished"))  # the process may have been killed before it wrote this
            raise RunError(f"run {run.name!r}: has done all its {training.step} steps; pass a larger --steps to continue")
        if changes:
            run.write_info(info)
        run.write_state(training.state("running"))
        group.rescue(training.save_without_others)
        try:
            yield from training.events(stop)
            run.write_state(training.state(training.status))
        except GeneratorExit:  # the caller left the loop: between two events the state is consistent
            training.save_if_new()
            run.write_state(training.state("interrupted"))
            raise
        except BaseException as error:
            if isinstance(error, ProcessError):
                with suppress(Error):
                    training.save_without_others()
            with suppress(CheckpointError):  # full disk: `Run.state` corrects the status once this process ends
                run.write_state(training.state(*_end(error)))
            raise


def _settings(run: Run, changes: dict[str, Any]) -> dict[str, Any]:
    """Check run.json, and return its content with changed settings. Remove what a killed process or an earlier stop has left.

    Raises:
        RunError: the run is damaged or has no training.
        SettingError: a changed setting is invalid.
    """
    remove_temporaries(run.path)
    run.clear_stop()
    train = settings_of(run, **changes)
    if train.nproc > 1 and not launched():
        warnings.warn(f"nproc={train.nproc}: only this process trains; `gpt2demo resume` and torchrun start more", stacklevel=2)
    return {**run.info(), "train": train.model_dump()}


def settings_of(run: Run, **changes: Any) -> TrainConfig:
    """Return the training settings of a run, with changes. `steps` replaces `epochs`, and vice versa.

    Raises:
        RunError: the run is damaged or has no training.
        SettingError: a changed setting is invalid.
    """
    info = run.info()
    if info.get("imported"):
        hint = f"fine-tune it in a new run with `gpt2demo train … --init-from {run.name}`"
        raise RunError(f"run {run.name!r}: was imported and has no training to continue; {hint}")
    _check_settings(run, info)
    before = TrainConfig.create(**info["train"])
    length = {"steps": None, "epochs": None} if changes.keys() & {"steps", "epochs"} else {}
    return same_batches(before, before.with_changes(**{**length, **changes}))


def same_batches(before: TrainConfig, after: TrainConfig) -> TrainConfig:
    """Return changed settings that read the same text in each step and evaluation, in larger or smaller batches.

    Raises:
        SettingError: a step would have more or fewer sequences.
    """
    sequences = before.batch_size * before.grad_accumulation
    if (changed := after.batch_size * after.grad_accumulation) != sequences:
        both = f"batch_size={after.batch_size}, grad_accumulation={after.grad_accumulation}"
        raise SettingError(f"{both}: are {changed} sequences per step, but the run has {sequences}; they cannot change")
    windows = before.eval_batches * before.batch_size
    return after.with_changes(eval_batches=math.ceil(windows / after.batch_size))


def _check_settings(run: Run, info: dict[str, Any]) -> None:
    """Check the settings in run.json.

    Raises:
        RunError: they are missing or invalid.
    """
    for key, config in (("model", ModelConfig), ("train", TrainConfig)):
        if info.get(key) is None:
            raise RunError(f"{run.path / 'run.json'}: is damaged ({key} is missing)")
        try:
            validate(config, info[key])
        except SettingError as error:
            raise RunError(f"{run.path / 'run.json'}: is damaged ({key}: {error})") from None


def _set_up(run: Run, info: dict[str, Any], group: Group) -> Training:
    """Set up training; on the run's first start record a failure, and delete the folder if interrupted."""
    if run.has_state:
        return Training(run, info, group)
    with run.deleted_on(*INTERRUPTS):
        try:
            return Training(run, info, group)
        except Exception as error:
            with suppress(CheckpointError):
                run.write_state(State.own("failed", error=_one_line(error)))
            raise


def _end(error: BaseException) -> tuple[Status, str]:
    """Return the status of a run that an exception ends, and the reason in one line."""
    return "interrupted" if isinstance(error, INTERRUPTS) else "failed", _one_line(error)


def _one_line(error: BaseException) -> str:
    """Return an exception's message in one line, or its type if there is no message."""
    return message(error)[:300] or type(error).__name__
