"""The Muon plugin: conformance, the update of the paper, what it optimizes, and exact resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import gpt2demo
from gpt2demo import plugins
from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.events import Step
from gpt2demo.model import GPT2
from gpt2demo.testing import OptimizerContract
from gpt2demo.training.optimizers import freeze

plugin = pytest.importorskip("gpt2demo_muon", reason="pip install -e plugins/gpt2demo-muon")

CONFIG = TrainConfig(steps=1, learning_rate=0.02, weight_decay=0.3)
SHAPE = ModelConfig(vocab_size=31, n_positions=8, n_embd=16, n_head=2, n_layer=2)


class TestContract(OptimizerContract):
    optimizer = plugin.muon


def test_the_entry_point_has_the_name_of_the_optimizer() -> None:
    point = next(point for point in plugins.installed() if point.value == "gpt2demo_muon")
    assert plugins.registry().owner("optimizers", point.name).distribution == "gpt2demo-muon"


def test_the_matrices_of_the_layers_have_muon_and_all_others_adamw() -> None:
    model = GPT2(SHAPE)
    optimizer = plugin.muon(model, CONFIG)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    found = {name for name, parameter in model.named_parameters() if "momentum_buffer" in optimizer.state[parameter]}
    assert found == {
        f"h.{n}.{name}.weight" for n in range(2) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert all("exp_avg" in optimizer.state[p] for name, p in model.named_parameters() if name not in found)


def test_only_matrices_decay() -> None:
    groups = plugin.muon(GPT2(SHAPE), CONFIG).param_groups
    assert [(group["weight_decay"], {p.dim() for p in group["params"]}) for group in groups] == [
        (0.3, {2}),
        (0.3, {2}),
        (0.0, {1}),
    ]


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Return five steps of the iteration in the article of Jordan et al., in float64."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize("name", ["h.0.attn.c_proj.weight", "h.1.mlp.c_fc.weight", "h.1.mlp.c_proj.weight"])
def test_an_update_is_the_orthogonalized_momentum(name: str) -> None:
    """Against float64; the optimizer iterates in bfloat16, which has 8 bits."""
    rng, model = np.random.default_rng(0), GPT2(SHAPE)
    optimizer = plugin.muon(model, CONFIG)
    parameter = model.get_parameter(name)
    expected, momentum = parameter.detach().double().numpy(), np.zeros(parameter.shape)
    for _ in range(3):
        gradient = rng.normal(size=tuple(parameter.shape))
        parameter.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        nesterov = 0.05 * gradient + 0.95 * momentum
        update = newton_schulz(nesterov) if gradient.shape[0] <= gradient.shape[1] else newton_schulz(nesterov.T).T
        scale = 0.2 * np.sqrt(max(gradient.shape))
        expected = expected * (1 - 0.02 * 0.3) - 0.02 * scale * update
    np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=0.02 * scale * 0.1)
    assert np.abs(0.02 * scale * update).max() > 0.02 * scale * 0.3  # the tolerance is a fraction of an update


def test_all_layers_may_be_frozen() -> None:
    model = GPT2(SHAPE)
    freeze(model, SHAPE.n_layer)
    optimizer = plugin.muon(model, CONFIG)
    model.ln_f.weight.grad = torch.ones_like(model.ln_f.weight)
    before = model.ln_f.weight.clone()
    optimizer.step()
    assert not torch.equal(model.ln_f.weight, before)


def test_a_training_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own rates for Muon and AdamW in every step, and the state of both in the checkpoint."""
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(tmp_path / "runs"))
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {n} of the text, {n * n % 7}.\n" for n in range(200)), encoding="utf-8")
    settings = {"tokenizer": "byte", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 16, "steps": 8, "eval_every": 4}
    settings |= {"batch_size": 4, "sample_tokens": 0, "eval_batches": 1, "threads": 1, "optimizer": "muon", "schedule": "wsd"}

    straight = [event for event in gpt2demo.train(text, run="straight", **settings) if isinstance(event, Step)]
    cut = []
    for event in (events := gpt2demo.train(text, run="cut", **settings)):
        if isinstance(event, Step):
            cut.append(event)
            if event.step == 3:
                events.close()
                break
    cut += [event for event in gpt2demo.training.resume("cut") if isinstance(event, Step)]
    assert [(e.step, e.loss, e.grad_norm) for e in cut] == [(e.step, e.loss, e.grad_norm) for e in straight]
