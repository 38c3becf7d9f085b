"""The contract of optimizers, as a class of tests."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.interfaces import OptimizerFactory
from gpt2demo.metrics import token_losses
from gpt2demo.model import GPT2
from gpt2demo.runs.weights import flatten_state, restore_state

SHAPE = ModelConfig(vocab_size=16, n_positions=8, n_embd=16, n_head=2, n_layer=2)
STEPS = 20


class OptimizerContract:
    """Tests of the contract of `gpt2demo_optimizers`. Subclass it and set `optimizer`.

    Attributes:
        optimizer: the function `(model, TrainConfig) -> torch.optim.Optimizer` to test.
        config: the settings passed to it.
    """

    optimizer: ClassVar[OptimizerFactory]
    config: ClassVar[TrainConfig] = TrainConfig(steps=STEPS, learning_rate=0.01)

    def create(self, model: GPT2) -> torch.optim.Optimizer:
        """Return a new optimizer for a model. The class attribute may be a plain function, which must not become a method."""
        factory: Any = inspect.getattr_static(type(self), "optimizer")
        function: OptimizerFactory = factory.__func__ if isinstance(factory, staticmethod) else factory
        return function(model, self.config)

    def test_it_is_an_optimizer_of_all_trainable_parameters(self) -> None:
        """Every group has a learning rate, which the training sets before each step."""
        model = new_model()
        optimizer = self.create(model)
        assert isinstance(optimizer, torch.optim.Optimizer), f"returned {type(optimizer).__name__}, not an optimizer"
        assert all("lr" in group for group in optimizer.param_groups), "a group has no learning rate `lr`"
        found = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [name for name, parameter in model.named_parameters() if id(parameter) not in found]
        assert not missing, f"does not update {', '.join(missing)}"

    def test_steps_lower_the_loss(self) -> None:
        """Twenty steps on one batch lower its loss by at least a hundredth."""
        model = new_model()
        losses = train(model, self.create(model), STEPS, self.config.learning_rate)
        assert losses[-1] < losses[0] * 0.99, f"the loss was {losses[0]:.4f} and is {losses[-1]:.4f} after {STEPS} steps"

    def test_the_learning_rate_of_each_step_is_used(self) -> None:
        """With a learning rate of 0, a step changes no weight."""
        model = new_model()
        before = weights(model)
        train(model, self.create(model), 2, 0.0)
        assert equal(weights(model), before), "a step with a learning rate of 0 changed weights; use group['lr']"

    def test_a_restored_state_continues_exactly(self, tmp_path: Path) -> None:
        """A run resumes bit for bit: the state is written to a file as in a checkpoint, and read into a new optimizer."""
        model = new_model()
        optimizer = self.create(model)
        train(model, optimizer, 3, self.config.learning_rate)
        again = copy.deepcopy(model)
        resumed = self.create(again)
        resumed.load_state_dict(stored_and_read(optimizer.state_dict(), tmp_path))
        for one, its_optimizer in ((model, optimizer), (again, resumed)):
            train(one, its_optimizer, 3, self.config.learning_rate)
        assert equal(weights(model), weights(again)), "after a restart the weights differ; keep all state in `self.state`"

    def test_frozen_parameters_stay(self) -> None:
        """Parameters that do not require a gradient are not changed, also not by weight decay."""
        model = new_model()
        for parameter in (frozen := [model.wte.weight, *model.h[0].parameters()]):
            parameter.requires_grad_(False)
        before = [parameter.clone() for parameter in frozen]
        train(model, self.create(model), 3, self.config.learning_rate)
        same = all(torch.equal(one, other) for one, other in zip(frozen, before, strict=True))
        assert same, "changed a frozen parameter; pass only parameters that require a gradient"


def new_model() -> GPT2:
    """Return a tiny model, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2(SHAPE).train()


def train(model: GPT2, optimizer: torch.optim.Optimizer, steps: int, rate: float) -> list[float]:
    """Do steps on one batch as the training loop does; return the loss before each."""
    ids = torch.arange(36).mul(7).remainder(SHAPE.vocab_size).reshape(4, 9)  # (B, T + 1)
    losses = []
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = token_losses(model, ids).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # not annotated in torch
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def stored_and_read(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write an optimizer's state as a checkpoint does, and read it."""
    tensors, rest = flatten_state(state)
    save_file(tensors, folder / "trainer.safetensors")
    return restore_state(load_file(folder / "trainer.safetensors"), json.loads(json.dumps(rest)))


def weights(model: GPT2) -> list[Tensor]:
    """Return a copy of all weights."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    """Return whether all tensors are equal, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
