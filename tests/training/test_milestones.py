"""Milestones: weights at log-spaced steps, which load like checkpoints."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import SMALL

import gpt2demo
from gpt2demo.config import ModelConfig
from gpt2demo.model import GPT2
from gpt2demo.runs.checkpoint import newest
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run
from gpt2demo.runs.weights import load_model
from gpt2demo.training.milestones import default_milestones, milestone_steps


def kept(run: Run) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in run.milestones.glob("step-*"))


@given(count=st.integers(2, 50), total=st.integers(1, 10**6))
def test_milestones_begin_at_step_0_and_end_at_the_last(count: int, total: int) -> None:
    steps = sorted(milestone_steps(count, total))
    assert (steps[0], steps[-1]) == (0, total)
    assert len(steps) <= count
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert all(later >= earlier - 1 for earlier, later in itertools.pairwise(gaps)), "farther and farther apart, up to rounding"


@pytest.mark.parametrize(("count", "steps"), [(0, []), (1, [100]), (2, [0, 100]), (4, [0, 1, 10, 100])])
def test_the_number_of_milestones_can_be_chosen(count: int, steps: list[int]) -> None:
    assert sorted(milestone_steps(count, 100)) == steps


def test_large_models_have_none_by_default() -> None:
    assert (default_milestones(3_000_000), default_milestones(124_000_000)) == (12, 0)


def test_a_run_keeps_its_milestones(text_file: Path) -> None:
    list(gpt2demo.train(text_file, run="mine", **SMALL, milestones=5))
    run = find_run("mine")
    assert kept(run) == [0, 1, 2, 5, 12]
    last, milestone = (load_model(path).state_dict() for path in (newest(run.checkpoints).path, run.milestones / "step-00000012"))
    assert all(torch.equal(tensor, milestone[name]) for name, tensor in last.items())


def test_milestone_0_has_the_initial_weights(text_file: Path) -> None:
    list(gpt2demo.train(text_file, run="mine", **SMALL, milestones=2, seed=5))
    run = find_run("mine")
    torch.manual_seed(5)
    expected = GPT2(ModelConfig(**run.info()["model"])).state_dict()
    found = load_model(run.milestones / "step-00000000").state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_resumed_run_keeps_the_same_milestones(text_file: Path) -> None:
    for name in ("whole", "cut"):
        events = gpt2demo.train(text_file, run=name, **SMALL, milestones=6)
        for event in events:
            if name == "cut" and getattr(event, "step", 0) == 7:
                events.close()
    from gpt2demo.training.train import resume

    list(resume("cut"))
    whole, cut = find_run("whole"), find_run("cut")
    assert kept(whole) == kept(cut)
    for step in kept(whole):
        first, second = (load_model(run.milestones / f"step-{step:08}").state_dict() for run in (whole, cut))
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_no_milestones_leave_no_folder(text_file: Path) -> None:
    list(gpt2demo.train(text_file, run="mine", **SMALL, milestones=0))
    assert not find_run("mine").milestones.exists()
