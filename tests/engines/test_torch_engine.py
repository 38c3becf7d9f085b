"""The PyTorch engine: modes, threads and errors. That its logits are right is shown together with the ONNX engine's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import SHAPE

from gpt2demo.engines.torch import ONE_THREAD, TorchEngine
from gpt2demo.model import GPT2


@pytest.fixture
def engine() -> TorchEngine:
    torch.manual_seed(0)
    return TorchEngine(GPT2(SHAPE.with_changes(dropout=0.5)))


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_restored(engine: TorchEngine, training: bool) -> None:
    engine.model.train(training)
    ids = np.arange(6)[None]
    with torch.no_grad():
        expected = engine.model.eval()(torch.from_numpy(ids))[:, -1].numpy()
    engine.model.train(training)
    np.testing.assert_allclose(engine.feed(ids), expected, atol=1e-5)
    assert all(module.training == training for module in engine.model.modules())


def test_mode_and_threads_are_restored_after_an_error(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.model.train()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(GPT2, "forward", lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("broken")))
    try:
        with pytest.raises(RuntimeError, match="broken"):
            engine.feed(np.zeros((1, 1), np.int64))
        assert engine.model.training
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_little_work_is_done_on_one_thread(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = GPT2.forward
    monkeypatch.setattr(
        GPT2, "forward", lambda self, *args, **kwargs: seen.append(torch.get_num_threads()) or forward(self, *args, **kwargs)
    )
    positions = ONE_THREAD // SHAPE.n_parameters
    rows = positions // SHAPE.n_positions + 1
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine.feed(np.zeros((1, 4), np.int64))
        engine.reset()
        engine.feed(np.zeros((rows, SHAPE.n_positions), np.int64))
        assert seen == [1, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_running_out_of_memory_is_a_memory_error(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(GPT2, "forward", refuse)
    with pytest.raises(MemoryError, match="allocate"):
        engine.feed(np.zeros((1, 1), np.int64))
