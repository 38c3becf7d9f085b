"""AdamW against a reference in float64, its weight decay groups, and layer freezing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import SHAPE

from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.model import GPT2
from gpt2demo.training.optimizers import adamw, freeze

EPSILON = 1e-8
CONFIG = TrainConfig(steps=1, learning_rate=0.01, weight_decay=0.3, beta1=0.8, beta2=0.95)


def reference(weights: np.ndarray, gradients: list[np.ndarray], decay: float) -> np.ndarray:
    """Return the weights after the updates of AdamW (Loshchilov & Hutter 2019, algorithm 2) in float64."""
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for number, gradient in enumerate(gradients, start=1):
        mean = CONFIG.beta1 * mean + (1 - CONFIG.beta1) * gradient
        square = CONFIG.beta2 * square + (1 - CONFIG.beta2) * gradient**2
        unbiased_mean = mean / (1 - CONFIG.beta1**number)
        unbiased_square = square / (1 - CONFIG.beta2**number)
        update = unbiased_mean / (np.sqrt(unbiased_square) + EPSILON) + decay * weights
        weights = weights - CONFIG.learning_rate * update
    return weights


@pytest.mark.parametrize("updates", [1, 2, 5])
def test_updates_are_those_of_the_formula(updates: int) -> None:
    """Gradients differ in size from update to update, so that both betas matter."""
    rng, model = np.random.default_rng(0), GPT2(SHAPE)
    optimizer = adamw(model, CONFIG)
    parameters = dict(model.named_parameters())
    with torch.no_grad():  # biases start at 0, where weight decay could not be seen
        for parameter in parameters.values():
            parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    before = {name: parameter.detach().double().numpy() for name, parameter in parameters.items()}
    gradients = {
        name: [10.0**number * rng.normal(size=tuple(p.shape)) for number in range(updates)] for name, p in parameters.items()
    }
    for number in range(updates):
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(gradients[name][number]).float()
        optimizer.step()
    for name, parameter in parameters.items():
        expected = reference(before[name], gradients[name], CONFIG.weight_decay if parameter.dim() == 2 else 0.0)
        np.testing.assert_allclose(parameter.detach().double().numpy(), expected, atol=1e-6, err_msg=name)


def test_weight_decay_applies_to_matrices_only() -> None:
    optimizer = adamw(GPT2(ModelConfig()), CONFIG)
    groups = [(group["weight_decay"], {p.dim() for p in group["params"]}) for group in optimizer.param_groups]
    assert groups == [(0.3, {2}), (0.0, {1})]


def test_frozen_layers_are_not_optimized() -> None:
    model = GPT2(SHAPE)
    freeze(model, 1)
    optimized = {id(p) for group in adamw(model, CONFIG).param_groups for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in optimized}
    assert names == {name for name, _ in model.named_parameters() if name.startswith(("h.1.", "ln_f."))}
