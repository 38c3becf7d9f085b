"""The learning rate of each step, against the formulas by hand; the warm-up of new and old runs, and the number of steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from samples import SMALL, step_values, take_until, train_small

import gpt2demo
from gpt2demo.config import TrainConfig
from gpt2demo.errors import PluginError
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run
from gpt2demo.training.schedule import capped_learning_rate, learning_rate, total_steps, with_warmup
from gpt2demo.training.train import resume

COSINE = TrainConfig(steps=20, learning_rate=2.0, warmup_steps=4, min_learning_rate=0.1)


def rates(steps: int, config: TrainConfig, **changes: Any) -> list[float]:
    """Return the learning rates of all steps."""
    return [learning_rate(step, steps, config.with_changes(**changes)) for step in range(steps)]


# ---------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 2.0 * 1 / 5),  # the warm-up divides the way to the peak into warmup_steps + 1 parts
        (1, 2.0 * 2 / 5),
        (3, 2.0 * 4 / 5),
        (4, 2.0),
        (5, 0.2 + 1.8 * (1 + math.cos(math.pi * 1 / 16)) / 2),  # 16 steps of decay, from 2.0 to 0.2
        (12, 0.2 + 1.8 / 2),
        (19, 0.2 + 1.8 * (1 + math.cos(math.pi * 15 / 16)) / 2),
        (20, 0.2),
    ],
)
def test_cosine_follows_the_warm_up(step: int, expected: float) -> None:
    assert learning_rate(step, 20, COSINE) == pytest.approx(expected, rel=1e-12)


def test_constant_keeps_the_peak_rate() -> None:
    assert rates(8, COSINE, schedule="constant") == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0])


def test_linear_decays_in_equal_steps() -> None:
    assert rates(8, COSINE, schedule="linear", min_learning_rate=0)[4:] == pytest.approx([2.0, 1.5, 1.0, 0.5])
    assert rates(8, COSINE, schedule="linear", min_learning_rate=0.2)[4:] == pytest.approx([2.0, 1.6, 1.2, 0.8])


def test_wsd_is_constant_and_then_decays() -> None:
    last = rates(14, COSINE, schedule="wsd", decay_fraction=0.4, min_learning_rate=0)[4:]  # 4 of 10 steps
    assert last == pytest.approx([2.0] * 7 + [1.5, 1.0, 0.5])


def test_wsd_over_the_whole_run_is_linear() -> None:
    assert rates(20, COSINE, schedule="wsd", decay_fraction=1) == pytest.approx(rates(20, COSINE, schedule="linear"))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "wsd"])
def test_without_warm_up_the_first_step_has_the_peak_rate(schedule: str) -> None:
    assert rates(20, COSINE, schedule=schedule, warmup_steps=0)[0] == 2.0


# ---------------------------------------------------------------------------------------------- the warm-up


def recorded(run: str) -> int:
    """Return the warm-up in a run's run.json."""
    steps: int = find_run(run).info()["train"]["warmup_steps"]
    return steps


def test_by_default_the_warm_up_is_a_twentieth_of_the_run(text_file: Path) -> None:
    assert [with_warmup(TrainConfig(steps=steps), 1).warmup_steps for steps in (19, 20, 700)] == [0, 1, 35]
    train_small(text_file, run="a", steps=40, eval_every=40, sample_tokens=0)
    assert recorded("a") == 2


def test_a_warm_up_is_never_shortened() -> None:
    config = COSINE.with_changes(warmup_steps=15)
    assert with_warmup(config, 1).warmup_steps == 15
    assert rates(20, config)[:16] == pytest.approx([2.0 * step / 16 for step in range(1, 17)])


def test_a_warm_up_longer_than_the_run_is_reported_with_the_numbers() -> None:
    expected = "warmup_steps=39: the run has 20 steps, in which the learning rate reaches 0.5 of its peak"
    with pytest.warns(UserWarning, match=expected):
        assert with_warmup(COSINE.with_changes(warmup_steps=39), 1).warmup_steps == 39


def test_a_longer_run_keeps_its_warm_up(text_file: Path) -> None:
    """The warm-up is decided once: steps that follow do not warm up again."""
    train_small(text_file, run="a", steps=40, eval_every=40, sample_tokens=0)
    longer = step_values(resume("a", steps=80))
    assert recorded("a") == 2
    config = TrainConfig.create(**find_run("a").info()["train"])
    assert [rate for _, _, rate, _ in longer] == [learning_rate(step, 80, config) for step in range(40, 80)]


def test_a_wsd_run_that_is_extended_before_its_decay_equals_a_longer_one(text_file: Path) -> None:
    settings = {"schedule": "wsd", "warmup_steps": 2, "sample_tokens": 0}
    planned = step_values(train_small(text_file, run="planned", steps=24, **settings))
    first = take_until(gpt2demo.train(text_file, **{**SMALL, **settings, "run": "extended", "steps": 12, "threads": 1}), 6)
    assert step_values([*first, *resume("extended", steps=24)]) == planned


# ---------------------------------------------------------------------------------------------- old runs


def before(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate as it was before schedules were plugins."""
    warmup = min(config.warmup_steps or 0, total // 5)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, total - warmup)
    low = config.min_learning_rate
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


@pytest.mark.parametrize("warmup", [0, 1, 7, 100, 1000])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_old_runs_have_the_same_rates_bit_for_bit(schedule: str, warmup: int) -> None:
    for peak, total, low in ((3e-4, 23, 0.1), (0.007, 700, 0.0), (1.1e-3, 1000, 0.37)):
        config = TrainConfig(steps=1, learning_rate=peak, schedule=schedule, warmup_steps=warmup, min_learning_rate=low)
        for step in range(total + 1):
            assert capped_learning_rate(step, total, config) == before(step, total, config)


def test_an_old_run_resumes_with_the_rates_it_began_with(text_file: Path) -> None:
    """It has no `schedule` in run.json, a warm-up longer than a fifth of the run, and was interrupted during the warm-up."""
    take_until(gpt2demo.train(text_file, **{**SMALL, "run": "old", "steps": 30, "threads": 1, "warmup_steps": 20}), 3)
    run = find_run("old")
    info = {name: value for name, value in run.info().items() if name not in ("schedule", "format")}
    info["train"] = {name: value for name, value in info["train"].items() if name not in ("patience", "decay_fraction")}
    run.write_info(info)
    config = TrainConfig.create(**info["train"])
    rest = [rate for _, _, rate, _ in step_values(resume("old"))]
    assert rest == [before(step, 30, config) for step in range(3, 30)]


def test_a_run_whose_schedule_is_not_installed_names_its_distribution(run_copy: Run) -> None:
    info = run_copy.info()
    info["train"]["schedule"] = "inverse-sqrt"
    info["schedule"] = {"name": "inverse-sqrt", "distribution": "gpt2demo-inverse", "version": "1.2"}
    run_copy.write_info({name: value for name, value in info.items() if name != "format"})
    expected = "requires the schedule 'inverse-sqrt' from gpt2demo-inverse 1.2; pip install it"
    with pytest.raises(PluginError, match=expected):
        list(resume("mine", steps=20))
    assert run_copy.state().status == "finished"


# ---------------------------------------------------------------------------------------------- length


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"steps": 7}, 7),
        ({"epochs": 1, "batch_size": 8}, 13),  # 100 windows, the last batch is filled from the next epoch
        ({"epochs": 2, "batch_size": 5, "grad_accumulation": 4}, 10),
        ({"epochs": 0.001, "batch_size": 8}, 1),
    ],
)
def test_epochs_are_converted_to_steps(settings: dict[str, float], expected: int) -> None:
    assert total_steps(TrainConfig.create(**settings), 100) == expected
