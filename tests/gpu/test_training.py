"""Training on a device: losses of the CPU, resumed runs, activation checkpointing, and what happens when memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from samples import SMALL, step_values, take_until, train_small

import gpt2demo
from gpt2demo.errors import Error
from gpt2demo.events import Evaluation, Step
from gpt2demo.training import resume

CLOSE = {"fp32": 2e-4, "bf16": 2e-2}  # relative, of a loss


def losses(events: Any) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step)]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_losses_are_those_of_the_cpu_in_fp32(device: Any, dtype: Any, text_file: Path) -> None:
    expected = losses(train_small(text_file, run="cpu", device="cpu", dtype="fp32", compile="off"))
    found = losses(train_small(text_file, run="device", device=device, dtype=dtype, compile="off"))
    assert found == pytest.approx(expected, rel=CLOSE[dtype])


def test_a_resumed_run_repeats_the_uninterrupted_one(device: Any, text_file: Path) -> None:
    """On the CPU bit for bit. On a GPU, sums of gradients have no fixed order, so the runs differ by rounding."""
    settings = {**SMALL, "device": device, "dropout": 0.1, "dtype": "fp32", "compile": "off", "threads": 1}
    straight = step_values(gpt2demo.train(text_file, run="straight", **settings))
    pieces = take_until(gpt2demo.train(text_file, run="cut", **settings), 5)
    pieces += list(resume("cut"))
    if device == "cpu":
        assert step_values(pieces) == straight
    for found, expected in zip(step_values(pieces), straight, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_activation_checkpointing_has_the_same_losses(device: Any, text_file: Path) -> None:
    plain, recomputed = (
        losses(train_small(text_file, run=str(on), device=device, dropout=0.1, compile="off", checkpoint_activations=on))
        for on in (False, True)
    )
    assert recomputed == pytest.approx(plain, rel=0 if device == "cpu" else 1e-3)


def test_a_compiled_step_has_the_losses_of_an_eager_one(device: Any, text_file: Path) -> None:
    if device == "cpu":
        pytest.skip("compiling for a CPU takes a minute; the page on training measures it")
    eager, compiled = (
        losses(train_small(text_file, run=name, device=device, dtype="fp32", compile=name)) for name in ("off", "on")
    )
    assert compiled == pytest.approx(eager, rel=CLOSE["fp32"])


@pytest.fixture
def small_gpu(device: str) -> Any:
    """Limit the memory of the GPU to two gigabytes. A CPU has no such limit for a process."""
    if device == "cpu":
        pytest.skip("the memory of a process on a CPU cannot be limited")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2e9 / total)
    yield
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("small_gpu")
def test_too_large_a_batch_is_one_line_with_advice_and_leaves_a_gpu_usable(device: Any, text_file: Path) -> None:
    """40,000 sequences of 32 positions and 256 logits take 1.3 GB for the logits alone."""
    with pytest.raises(Error, match=r"out of memory.*--batch-size") as refused:
        train_small(text_file, run="large", device=device, batch_size=40_000, compile="off")
    assert "\n" not in str(refused.value)
    events = train_small(text_file, run="small", device=device, compile="off")
    assert any(isinstance(event, Evaluation) for event in events)


@pytest.mark.usefixtures("small_gpu")
def test_generation_that_does_not_fit_is_one_line(device: Any, tiny_checkpoint: Path) -> None:
    """A cache of 100,000 rows takes 2.5 GB."""
    with pytest.raises(Error, match=r"out of memory with a batch of 100000 texts"):
        gpt2demo.load(tiny_checkpoint, device=device).generate_batch(["x"], samples=100_000, max_new_tokens=2)
