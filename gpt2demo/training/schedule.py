"""Built-in learning rate schedules, registered through the same hook as a plugin's, and the number of optimizer steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

from gpt2demo import plugins
from gpt2demo.config import TrainConfig
from gpt2demo.errors import PluginError
from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Schedule

DEFAULT_WARMUP = 20
"""The default warm-up is the run's length divided by this number."""


# ---------------------------------------------------------------------------------------------- schedules


def after_warmup(schedule: Schedule) -> Schedule:
    """Precede a schedule with a linear warm-up of `warmup_steps`. Its steps are then those after the warm-up."""

    @wraps(schedule)
    def factor(step: int, total_steps: int, config: TrainConfig) -> float:
        warmup = warmup_steps(config, total_steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return schedule(step - warmup, max(1, total_steps - warmup), config)

    return factor


@after_warmup
def constant(step: int, total_steps: int, config: TrainConfig) -> float:
    """Keep the peak rate."""
    return 1.0


@after_warmup
def linear(step: int, total_steps: int, config: TrainConfig) -> float:
    """Decay linearly to `min_learning_rate`."""
    return _between(1 - step / total_steps, config)


@after_warmup
def cosine(step: int, total_steps: int, config: TrainConfig) -> float:
    """Decay to `min_learning_rate` as half a cosine (Loshchilov & Hutter 2017)."""
    return _between(0.5 * (1 + math.cos(math.pi * (step / total_steps))), config)


@after_warmup
def wsd(step: int, total_steps: int, config: TrainConfig) -> float:
    """Keep the peak rate, then decay linearly over the last `decay_fraction` of the steps (Hu et al. 2024, section 4)."""
    return _between(min(1.0, (total_steps - step) / (config.decay_fraction * total_steps)), config)


def _between(share: float, config: TrainConfig) -> float:
    """Return a value between the minimum, at a share of 0, and the peak, at 1."""
    return config.min_learning_rate + (1 - config.min_learning_rate) * share


@hookimpl
def gpt2demo_schedules() -> dict[str, Schedule]:
    """Return the built-in schedules by name."""
    return {"constant": constant, "cosine": cosine, "linear": linear, "wsd": wsd}


# ---------------------------------------------------------------------------------------------- runs

LearningRate = Callable[[int, int, TrainConfig], float]
"""`(step, total_steps, config) -> learning rate`."""


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 0: the peak rate times the factor of the schedule."""
    return config.learning_rate * plugins.schedule_factor(config.schedule, step, total, config)


def capped_learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate in runs from before schedules were plugins, whose warm-up is at most a fifth of the run."""
    warmup = min(config.warmup_steps or 0, total // 5)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    return learning_rate(step, total, config.with_changes(warmup_steps=warmup))


def learning_rate_of(info: dict[str, Any]) -> LearningRate:
    """Return the function for a run's learning rate.

    Args:
        info: the content of run.json. Without `schedule`, the run began before schedules were plugins: it resumes bit for bit.

    Raises:
        PluginError: the run's schedule is not installed; the message names its distribution.
    """
    stored = info.get("schedule")
    if stored is None:
        return capped_learning_rate
    name = info["train"]["schedule"]
    try:
        plugins.registry().part("schedules", name)
    except PluginError as error:
        source = f"{stored.get('distribution')} {stored.get('version')}"
        raise PluginError(f"requires the schedule {name!r} from {source}; pip install it ({error})") from None
    return learning_rate


def warmup_steps(config: TrainConfig, total: int) -> int:
    """Return the length of the warm-up: the setting, or by default a twentieth of the run, rounded down."""
    return total // DEFAULT_WARMUP if config.warmup_steps is None else config.warmup_steps


def with_warmup(config: TrainConfig, windows_per_epoch: int) -> TrainConfig:
    """Return the settings of a new run with the length of its warm-up, which stays the same if the run is extended.

    Warn if the warm-up is longer than the run: it is not shortened.
    """
    total = total_steps(config, windows_per_epoch)
    warmup = warmup_steps(config, total)
    if warmup >= total:
        reached = f"the learning rate reaches {total / (warmup + 1):.2g} of its peak"
        warnings.warn(f"warmup_steps={warmup}: the run has {total} steps, in which {reached}", stacklevel=2)
    return config.with_changes(warmup_steps=warmup)


def total_steps(config: TrainConfig, windows_per_epoch: int) -> int:
    """Return the number of optimizer steps of the whole run."""
    if config.steps is not None:
        return config.steps
    return max(1, math.ceil((config.epochs or 1) * windows_per_epoch / (config.batch_size * config.grad_accumulation)))
