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


class Recording(torch.optim.AdamW):
    """Records the rates of each update."""

    def step(self, closure=None):
        SEEN.append([group["lr"] for group in self.param_groups])
        return super().step(closure)


def two_rates(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return an AdamW whose embeddings learn a tenth as fast."""
    slow = [p for name, p in model.named_parameters() if name.startswith("w")]
    fast = [p for name, p in model.named_parameters() if not name.startswith("w")]
    return Recording([{"params": fast}, {"params": slow, "lr": 0.1 * config.learning_rate}], lr=config.learning_rate)


def layer_decay(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return an AdamW in which every layer learns at 0.8 of the rate of the layer above (Clark et al. 2020, section 3.2)."""
    parts = [[model.wte, model.wpe], *([block] for block in model.h), [model.ln_f]]
    rates = [config.learning_rate * 0.8 ** (len(parts) - 1 - height) for height in range(len(parts))]
    groups = [
        {"params": [p for module in part for p in module.parameters()], "lr": rate}
        for part, rate in zip(parts, rates, strict=True)
    ]
    return Recording(groups, lr=config.learning_rate)


@pytest.fixture(params=[two_rates, layer_decay], ids=["two rates", "layer-wise decay"])
def ratios(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Train with an optimizer that has groups; return their rates as fractions of the configured one."""
    create = plugins.create_optimizer
    monkeypatch.setattr(
        plugins,
        "create_optimizer",
        lambda name, model, config: request.param(model, config) if name == "adamw" else create(name, model, config),
    )
    return {two_rates: [1.0, 0.1], layer_decay: [0.8**3, 0.8**2, 0.8, 1.0]}[request.param]


def test_the_schedule_scales_each_groups_rate(ratios: list[float], text_file: Path) -> None:
    SEEN.clear()
    events = train_small(text_file, run="a", warmup_steps=2, schedule="cosine")
    rates = [rate for _, _, rate, _ in step_values(events)]
    assert len(set(rates)) > 5
    assert [[pytest.approx(ratio * rate) for ratio in ratios] for rate in rates] == SEEN


def test_the_rates_are_the_same_after_a_resume(ratios: list[float], text_file: Path) -> None:
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
