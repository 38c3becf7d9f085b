"""A resumed run repeats the uninterrupted one bit for bit, and damage or changes are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from samples import SMALL, step_values, take_until

import gpt2demo
from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.events import Ended, Step
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run
from gpt2demo.training import resume

EXACT: dict[str, dict[str, Any]] = {
    "plain": {"dtype": "fp32"},
    "dropout and accumulation": {"dropout": 0.2, "grad_accumulation": 2, "grad_clip": 0.5, "warmup_steps": 5},
    "bf16": {"dtype": "bf16"},
    "across epochs": {"batch_size": 64, "dropout": 0.1},
    "char": {"tokenizer": "char", "schedule": "constant", "steps": None, "epochs": 0.2},
    "bpe": {"tokenizer": "bpe", "tokenizer_options": {"vocab_size": "300"}, "dropout": 0.1},
}


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Return the weights and the optimizer state of a run's newest checkpoint."""
    newest = checkpoint.newest(find_run(name).checkpoints).path
    state = load_file(newest / "trainer.safetensors")
    return {**load_file(newest / "model.safetensors"), **{f"optimizer {key}": value for key, value in state.items()}}


def logged_steps(name: str) -> list[int]:
    return [json.loads(line)["step"] for line in find_run(name).metrics.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("settings", "cuts"),
    [*((name, (5,)) for name in EXACT), ("dropout and accumulation", (1, 2, 6, 11))],
    ids=[*EXACT, "four interruptions"],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(text_file: Path, settings: str, cuts: tuple[int, ...]) -> None:
    chosen = {**SMALL, "threads": 1, **EXACT[settings]}
    straight = list(gpt2demo.train(text_file, run="straight", **chosen))
    pieces = take_until(gpt2demo.train(text_file, run="cut", **chosen), cuts[0])
    for cut in (*cuts[1:], 10**9):
        torch.rand(7)  # the state of torch's own generator must not matter
        pieces += take_until(resume("cut"), cut)
    assert step_values(pieces) == step_values(straight)
    assert logged_steps("cut") == logged_steps("straight")
    for (name, left), (other, right) in zip(tensors("straight").items(), tensors("cut").items(), strict=True):
        assert name == other
        assert torch.equal(left, right), name


def test_a_finished_run_can_be_extended(run_copy: Run) -> None:
    with pytest.raises(RunError, match="has done all its 12 steps; pass a larger --steps"):
        list(resume("mine"))
    assert run_copy.state().status == "finished", "a refused resume changes nothing"
    assert list(resume("mine", steps=15))[-1] == Ended("finished", 15)


def test_a_damaged_newest_checkpoint_is_replaced_from_the_previous_one(run_copy: Run) -> None:
    file = checkpoint.newest(run_copy.checkpoints).path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        gpt2demo.load(file.parent)
    with pytest.warns(UserWarning, match="skipped"):
        steps = [event.step for event in resume("mine") if isinstance(event, Step)]
    assert steps == list(range(7, 13))
    assert checkpoint.newest(run_copy.checkpoints).step == 12


def test_a_changed_number_of_threads_is_a_warning(run_copy: Run) -> None:
    info = run_copy.info()
    run_copy.write_info({**info, "train": {**info["train"], "threads": 2}})
    with pytest.warns(UserWarning, match="threads changed from 1 to 2: the run continues, but not bit for bit"):
        list(resume("mine", steps=14))
    torch.set_num_threads(1)


def test_an_unsupported_run_format_is_named(run_copy: Run) -> None:
    path = run_copy.path / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"format": 1', '"format": 7'), encoding="utf-8")
    with pytest.raises(RunError, match="format 7, this program reads 1"):
        list(resume("mine"))
