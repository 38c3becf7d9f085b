"""An optimizer may give groups of parameters learning rates of their own: the schedule keeps their ratio."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from samples import SMALL, step_values, take_until, train_small

import gpt2demo
from gpt2demo import plugins
from gpt2demo.config import TrainConfig
from gpt2demo.runs.find import find_run
from gpt2demo.runs.weights import load_trainer
from gpt2demo.training.train import resume

SEEN: list[list[float]] = []


def two_rates(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return an AdamW whose embeddings learn a tenth as fast, and which records the rates of each update."""
    slow = [p for name, p in model.named_parameters() if name.startswith("w")]
    fast = [p for name, p in model.named_parameters() if not name.startswith("w")]

    class Recording(torch.optim.AdamW):
        def step(self, closure=None):
            SEEN.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    return Recording([{"params": fast}, {"params": slow, "lr": 0.1 * config.learning_rate}], lr=config.learning_rate)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    create = plugins.create_optimizer
    monkeypatch.setattr(
        plugins,
        "create_optimizer",
        lambda name, model, config: two_rates(model, config) if name == "adamw" else create(name, model, config),
    )


def test_the_schedule_scales_each_groups_rate(registered: None, text_file: Path) -> None:
    SEEN.clear()
    events = train_small(text_file, run="a", warmup_steps=2, schedule="cosine")
    rates = [rate for _, _, rate, _ in step_values(events)]
    assert len(set(rates)) > 5
    assert [[pytest.approx(rate), pytest.approx(0.1 * rate)] for rate in rates] == SEEN


def test_the_rates_are_the_same_after_a_resume(registered: None, text_file: Path) -> None:
    SEEN.clear()
    straight = step_values(train_small(text_file, run="straight"))
    expected = SEEN.copy()
    SEEN.clear()

    first = take_until(gpt2demo.train(text_file, **{**SMALL, "run": "cut", "threads": 1}), 5)
    rest = list(resume("cut"))
    assert step_values([*first, *rest]) == straight
    assert expected == SEEN
    newest = [sorted(find_run(name).checkpoints.glob("step-*"))[-1] for name in ("straight", "cut")]
    groups = [load_trainer(path)[1]["param_groups"] for path in newest]
    assert groups[0] == groups[1]
