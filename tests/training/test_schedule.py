"""The learning rate of each step, against the formula by hand, and the number of steps."""

from __future__ import annotations

import math

import pytest

from gpt2demo.config import TrainConfig
from gpt2demo.training.schedule import learning_rate, total_steps

COSINE = TrainConfig(steps=20, learning_rate=2.0, warmup_steps=4, min_learning_rate=0.1)


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
def test_the_learning_rate_warms_up_linearly_and_decays_as_a_cosine(step: int, expected: float) -> None:
    assert learning_rate(step, 20, COSINE) == pytest.approx(expected, rel=1e-12)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert learning_rate(0, 20, COSINE.with_changes(warmup_steps=0)) == 2.0


def test_the_warm_up_takes_at_most_a_fifth_of_the_run() -> None:
    rates = [learning_rate(step, 20, COSINE.with_changes(warmup_steps=1000)) for step in range(6)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[5] < 2.0


def test_a_fifth_of_the_run_is_rounded_down_to_whole_steps() -> None:
    rates = [learning_rate(step, 23, COSINE.with_changes(warmup_steps=1000)) for step in range(5)]
    assert rates == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])


def test_a_constant_schedule_keeps_the_peak_rate_after_the_warm_up() -> None:
    constant = COSINE.with_changes(schedule="constant")
    assert [learning_rate(step, 20, constant) for step in (3, 4, 5, 19)] == pytest.approx([1.6, 2.0, 2.0, 2.0])


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
