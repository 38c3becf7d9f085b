"""Combine a preset with settings, and check the result. Imports torch only to check for a GPU: the web page answers at once."""

from __future__ import annotations

from typing import Any

from gpt2demo import plugins
from gpt2demo.config import AUTO, ModelConfig, Preset, TrainConfig
from gpt2demo.errors import SettingError


def configs(base: Preset, settings: dict[str, Any]) -> tuple[ModelConfig, TrainConfig]:
    """Return a preset's configs with some settings changed. `steps` replaces the preset's `epochs`, and vice versa.

    A batch size of `auto` keeps the sequences per step, in batches of one until the size is known.

    Raises:
        SettingError: a setting is unknown or has an invalid value.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    if unknown := settings.keys() - ModelConfig.model_fields.keys() - TrainConfig.model_fields.keys():
        raise SettingError(f"{sorted(unknown)[0]}: unknown setting")
    model = base.model.with_changes(**{k: v for k, v in settings.items() if k in ModelConfig.model_fields})
    train = {k: v for k, v in settings.items() if k in TrainConfig.model_fields}
    if "steps" in train or "epochs" in train:
        train = {"steps": None, "epochs": None} | train
    if train.get("batch_size") != AUTO:
        return model, base.train.with_changes(**train)
    whole = base.train.with_changes(**{name: value for name, value in train.items() if name != "batch_size"})
    return model, whole.with_changes(batch_size=1, grad_accumulation=whole.batch_size * whole.grad_accumulation)


def check_training(model: ModelConfig, train: TrainConfig) -> None:
    """Check what the configs cannot check alone.

    Raises:
        SettingError: more layers are frozen than the model has, the device is not available, or the processes cannot share the
            micro-batches of a step.
        PluginError: the optimizer or the schedule does not exist.
    """
    if train.device not in ("auto", "cpu"):
        from gpt2demo.engines.hardware import torch_device  # imports torch

        torch_device(train.device)
    plugins.registry().part("optimizers", train.optimizer)
    plugins.registry().part("schedules", train.schedule)
    if train.freeze_layers > model.n_layer:
        raise SettingError(f"freeze_layers={train.freeze_layers}: the model has {model.n_layer} layers; use at most that")
    check_processes(train, train.nproc)


def check_processes(train: TrainConfig, processes: int) -> None:
    """Check that the processes can share the micro-batches of a step equally, and the model if it is sharded.

    Raises:
        SettingError: they cannot; the message has a setting that works, with the same sequences per step.
    """
    if train.shard and processes > 1 and train.compile == "on":
        raise SettingError("compile='on': a sharded model is not compiled; omit --compile or --shard")
    count, sequences = train.grad_accumulation, train.batch_size * train.grad_accumulation
    if count % processes == 0:
        return
    divisible = [number for number in range(processes, sequences + 1, processes) if sequences % number == 0]
    if divisible:
        best = next((number for number in divisible if number >= count), divisible[-1])
        advice = f"--batch-size {sequences // best} --grad-accumulation {best} has the same sequences per step"
    else:
        advice = f"choose a number of processes that divides the {sequences} sequences of a step"
    raise SettingError(f"grad_accumulation={count}: {processes} processes cannot share that equally; {advice}")
