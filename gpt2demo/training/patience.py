"""Early stopping: end a training after some evaluations without a better validation loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Patience:
    """The best validation loss so far, and the number of evaluations since. Stored in every checkpoint.

    Attributes:
        limit: evaluations without a better loss after which the training stops; None for never.
        loss: the lowest validation loss, or None before the first evaluation.
        step: the step that had it.
        evaluations: number of evaluations since that step.
    """

    limit: int | None
    loss: float | None = None
    step: int = 0
    evaluations: int = 0

    def observe(self, step: int, loss: float) -> None:
        """Count an evaluation. Only a lower loss is better."""
        if self.loss is None or loss < self.loss:
            self.loss, self.step, self.evaluations = loss, step, 0
        else:
            self.evaluations += 1

    @property
    def exhausted(self) -> bool:
        """True if the training should stop."""
        return self.limit is not None and self.evaluations >= self.limit

    def restart(self) -> str:
        """Count from 0 again, so that a resumed training is given as many evaluations; return why the training stops."""
        reason = f"no better validation loss in {self.evaluations} evaluations, the best is {self.loss:.4f} at step {self.step}"
        self.evaluations = 0
        return reason

    def as_dict(self) -> dict[str, Any]:
        """Return what a checkpoint stores: everything but the limit, which is a setting."""
        return {name: value for name, value in asdict(self).items() if name != "limit"}
