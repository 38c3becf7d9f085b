"""The arithmetic of a step: random numbers of each micro-batch, what is read from the device, and batches that are prefetched."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import SHAPE
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2demo.config import TrainConfig
from gpt2demo.data.windows import Windows
from gpt2demo.model import GPT2
from gpt2demo.training.batches import Batches
from gpt2demo.training.optimizers import adamw
from gpt2demo.training.parallel import Replicated
from gpt2demo.training.processes import Group
from gpt2demo.training.step import OptimizerStep

CPU = torch.device("cpu")
TRAIN = TrainConfig(batch_size=2, grad_accumulation=3, steps=10, seed=5, grad_clip=0.5, compile="off")


def batches(device: torch.device = CPU) -> Batches:
    ids = np.random.default_rng(0).integers(0, SHAPE.vocab_size, 1000, dtype=np.uint16)
    return Batches(Windows(ids, SHAPE.n_positions, seed=5), TRAIN.batch_size, SHAPE.vocab_size, device, Path())


@pytest.fixture
def step() -> OptimizerStep:
    torch.manual_seed(0)
    model = GPT2(SHAPE.with_changes(dropout=0.1)).train()
    return OptimizerStep(model, adamw(model, TRAIN), batches(), TRAIN, torch.bfloat16, Replicated(Group(), CPU))


class Operations(TorchDispatchMode):
    """Counts the operations inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def test_losses_and_norm_are_read_together(step: OptimizerStep, monkeypatch: pytest.MonkeyPatch) -> None:
    """`item`, `float` and branches are `_local_scalar_dense`, which makes the program wait for a GPU; `tolist` reads all at once."""
    read, original = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: read.append(tensor) or original(tensor))
    with Operations() as operations:
        step.take(0, 1e-3)
    assert operations.count["_local_scalar_dense"] == operations.count["is_nonzero"] == operations.count["nonzero"] == 0
    from_device = [tensor for tensor in read if tensor.dtype == torch.float32]  # the sum over processes is float64 on the CPU
    assert [tensor.shape for tensor in from_device] == [(TRAIN.grad_accumulation + 1,)]
    assert operations.count["_fused_adamw_"] > 0


def test_each_micro_batch_has_random_numbers_of_its_own(step: OptimizerStep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the first one are a function of (seed, step) as in runs of earlier versions, which had no other."""
    seeds, original = [], torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeds.append(seed) or original(seed))
    step.take(7, 1e-3)
    assert seeds[0] == np.random.SeedSequence([5, 7]).generate_state(1, np.uint64)[0]
    assert len(set(seeds)) == TRAIN.grad_accumulation


def test_a_step_leaves_the_callers_random_numbers_alone(step: OptimizerStep) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    step.take(0, 1e-3)
    assert torch.equal(torch.rand(3), expected)


def test_a_prefetched_batch_is_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu, on_cpu, cut = batches(torch.device("cuda")), batches(), []
    monkeypatch.setattr(on_gpu, "_on_device", lambda ids: cut.append(ids) or torch.from_numpy(ids))
    on_gpu.prefetch(3)
    assert torch.equal(on_gpu.batch(3), on_cpu.batch(3))
    assert len(cut) == 1
    on_gpu.prefetch(4)
    assert torch.equal(on_gpu.batch(9), on_cpu.batch(9)), "another one than expected, as after a resume"
    assert torch.equal(on_gpu.batch(4), on_cpu.batch(4))


def test_nothing_is_prefetched_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    source = batches()
    monkeypatch.setattr(source, "_on_device", None)
    source.prefetch(3)
