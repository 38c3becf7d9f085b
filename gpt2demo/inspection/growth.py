"""Growing up: the same text, read with the weights of each milestone of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpt2demo.engines.torch import TorchEngine
from gpt2demo.generation.generate import Model
from gpt2demo.inspection.surprise import surprise
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import saved_milestones
from gpt2demo.runs.folder import Run
from gpt2demo.runs.weights import load_model


@dataclass(frozen=True)
class Stage:
    """What a text was to the model at one step.

    Attributes:
        step: optimizer steps done.
        bits: surprise of each token; None for the first.
        expected: the text of the most likely token in each place; None for the first.
    """

    step: int
    bits: list[float | None]
    expected: list[str | None]


def growth(run: Run, model: Model, ids: Sequence[int]) -> list[Stage]:
    """Return the surprise of a text at each milestone, from the first on; empty if the run has none.

    Args:
        run: the run.
        model: a model of the run, for its tokenizer.
        ids: the text.

    Raises:
        CheckpointError: a milestone is damaged.
    """
    stages = []
    for saved in saved_milestones(run):
        engine = TorchEngine(load_model(checkpoint.verify(saved.path).path))
        tokens = surprise(Model(engine, model.tokenizer, run.name, saved.path), ids, top=1)
        expected = [token.top[0].text if token.top else None for token in tokens]
        stages.append(Stage(saved.step, [token.bits for token in tokens], expected))
    return stages
