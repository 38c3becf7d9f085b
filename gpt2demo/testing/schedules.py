"""The contract of learning rate schedules, as a class of tests."""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar

import pytest

from gpt2demo.config import TrainConfig
from gpt2demo.interfaces import Schedule

LENGTHS = (1, 2, 10, 1000)


class ScheduleContract:
    """Tests of the contract of `gpt2demo_schedules`. Subclass it and set `schedule`.

    Attributes:
        schedule: the function `(step, total_steps, TrainConfig) -> factor of the peak rate` to test.
        config: the settings passed to it, with `steps` set to the length.
    """

    schedule: ClassVar[Schedule]
    config: ClassVar[TrainConfig] = TrainConfig(steps=1)

    def factors(self, total_steps: int, **changes: Any) -> list[float]:
        """Return the factors of all steps. The class attribute may be a plain function, which must not become a method."""
        attribute: Any = inspect.getattr_static(type(self), "schedule")
        schedule: Schedule = attribute.__func__ if isinstance(attribute, staticmethod) else attribute
        config = self.config.with_changes(steps=total_steps, **changes)
        return [schedule(step, total_steps, config) for step in range(total_steps)]

    @pytest.mark.parametrize("total_steps", LENGTHS)
    def test_factors_are_finite_and_not_negative(self, total_steps: int) -> None:
        """Every step has a factor: a number, finite and at least 0."""
        for step, factor in enumerate(self.factors(total_steps)):
            number = isinstance(factor, int | float) and not isinstance(factor, bool)
            assert number, f"step {step} of {total_steps}: returned {type(factor).__name__}, not a float"
            assert 0 <= factor < math.inf, f"step {step} of {total_steps}: returned {factor}, not a finite factor of at least 0"

    @pytest.mark.parametrize("total_steps", LENGTHS)
    def test_the_peak_rate_is_the_highest(self, total_steps: int) -> None:
        """Factors are fractions of `--learning-rate`, the peak, and some step learns."""
        highest = max(self.factors(total_steps))
        assert 0 < highest <= 1, f"the largest factor of {total_steps} steps is {highest}, not above 0 and at most 1"

    @pytest.mark.parametrize("total_steps", LENGTHS)
    @pytest.mark.parametrize("warmup_steps", [0, 5, 100])
    def test_any_warm_up_works(self, total_steps: int, warmup_steps: int) -> None:
        """With and without a warm-up, also one that is longer than the run, the factors are valid."""
        factors = self.factors(total_steps, warmup_steps=warmup_steps)
        assert all(0 <= factor <= 1 for factor in factors), f"{warmup_steps} steps of warm-up: a factor is not from 0 to 1"

    def test_the_same_step_has_the_same_factor(self) -> None:
        """A resumed run continues with the same learning rates: a factor depends on the arguments alone."""
        assert self.factors(100) == self.factors(100), "a second call returned another factor; keep no state"
