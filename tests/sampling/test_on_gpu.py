"""Samplers on a GPU: the same results, and no sampler waits for a value. Here the GPU's path runs on the CPU, and reads are counted.

`tests/gpu` has the same on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from samples import some_ids
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2demo.config import GenerateConfig
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import SettingError
from gpt2demo.generation.batch import Batch
from gpt2demo.generation.continuation import Continuation
from gpt2demo.generation.streaming import NoText
from gpt2demo.runs.weights import load_model
from gpt2demo.sampling import basic, draw, ranking
from gpt2demo.sampling.chains import create_chain
from gpt2demo.sampling.draw import ChainRunner, Drawn, Uniforms
from gpt2demo.sampling.ranking import largest

CHAINS: list[list[str]] = [
    ["temperature:value=0.8", "top-k:k=50", "top-p:p=0.9"],
    ["temperature:value=0.7", "top-p:p=0.95"],
    ["top-p:p=0.8", "top-k:k=20", "temperature:value=1.2"],
    ["repetition-penalty:penalty=1.3", "no-repeat-ngram:size=2", "min-p:threshold=0.02"],
    ["frequency-penalty:penalty=0.5", "presence-penalty:penalty=0.5", "typical:p=0.9"],
    ["epsilon:cutoff=0.001", "eta:cutoff=0.001"],
    ["top-k:k=40000", "top-p:p=0.99"],
    [],
]


class Reads(TorchDispatchMode):
    """Count how often a value of a tensor is read: on a GPU, each read waits for all work before it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func.overloadpacket) in {"aten._local_scalar_dense", "aten.item", "aten.is_nonzero", "aten.nonzero"}
        return func(*args, **kwargs or {})


@contextmanager
def as_on_gpu(patch: pytest.MonkeyPatch) -> Iterator[Reads]:
    """Run the samplers as on a GPU; count the values that they read."""
    with patch.context() as inside, Reads() as reads:
        for module in (ranking, basic, draw):
            inside.setattr(module, "on_gpu", lambda values: True)
        inside.setattr(torch.Tensor, "tolist", lambda tensor: pytest.fail("a tensor was read as a list"))
        yield reads


def logits(rows: int, width: int) -> torch.Tensor:
    """Return random logits with equal values."""
    return (torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * 16).round() / 4


def drawn(chain: Sequence[str], values: torch.Tensor | np.ndarray) -> Drawn:
    text = np.arange(3 * len(values)).reshape(len(values), 3) % 5
    runner = ChainRunner(create_chain(GenerateConfig.create(samplers=chain).chain), Uniforms(7), 2)
    return runner.draw(values, text, range(len(values)))


@pytest.mark.parametrize("width", [300, 50_257])
@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: ",".join(name.split(":")[0] for name in chain) or "none")
def test_the_same_ids_are_drawn_and_a_step_reads_one_value(chain: list[str], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = logits(3, width)
    expected = drawn(chain, values.numpy())
    with as_on_gpu(monkeypatch) as reads:
        found = drawn(chain, values)
    assert found.ids.tolist() == expected.ids.tolist()
    assert reads.count == 1  # with the ids, whether they can be drawn


def test_the_largest_of_many_are_those_of_a_stable_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    values = logits(2, 5000)
    values[0, 7], values[0, 3], values[1, 100:] = 0.0, -0.0, float("-inf")
    values[1, :2] = -values[1, :2].abs() - 3e38
    expected, order = values.sort(dim=-1, descending=True, stable=True)
    for count in (1, 50, 600, 4000, None):
        with as_on_gpu(monkeypatch) as reads:
            found = largest(values, count)
        torch.testing.assert_close(found.values, expected[:, :count], rtol=0, atol=0)
        assert found.ids.tolist() == order[:, :count].tolist()
        assert reads.count == 0


def test_logits_that_cannot_be_drawn_from_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    values = logits(2, 300)
    values[1, 5] = float("nan")
    with pytest.raises(SettingError, match="the model's logits are NaN"), monkeypatch.context() as patch:
        patch.setattr(draw, "on_gpu", lambda tensor: True)
        drawn([], values)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"samplers": ["temperature:value=0.9", "top-p:p=0.9"]}])
def test_an_engine_on_a_gpu_generates_the_same_text(tiny_checkpoint: Any, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    config, texts = GenerateConfig.create(max_new_tokens=60, **settings), []
    for provider in ("cpu", "cuda"):
        engine = TorchEngine(load_model(tiny_checkpoint), fixed_steps=provider == "cuda")
        engine.provider = provider  # leaves the logits as tensors
        prompts = [some_ids(9), some_ids(4, seed=1), some_ids(9, seed=2)]
        rows = [
            Continuation(NoText(), ids.tolist(), config, seed=5, row=row, n_positions=48, ends={7: "end"})
            for row, ids in enumerate(prompts)
        ]
        with monkeypatch.context() as patch:
            for module in (ranking, basic, draw) if provider == "cuda" else ():
                patch.setattr(module, "on_gpu", lambda values: True)
            batch = Batch(engine, NoText(), rows, config, create_chain(config.chain))
            while batch.running:
                batch.step()
        texts.append([row.ids for row in rows])
    assert texts[0] == texts[1]
