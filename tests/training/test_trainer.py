"""Training: its events, the files it writes, its checkpoints, and how it stops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from safetensors.torch import load_file
from samples import SMALL, step_values, take_until, train_small

import gpt2demo
from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.events import Ended, Evaluation, Sample, Saved, Started, Step
from gpt2demo.metrics import bits_per_byte, perplexity
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run
from gpt2demo.training import resume
from gpt2demo.training.schedule import learning_rate


def test_events_come_in_order(text_file: Path) -> None:
    events = train_small(text_file, run="a")
    newest = checkpoint.newest(find_run("a").checkpoints).path
    assert isinstance(events[0], Started)
    assert events[0].parameters == sum(tensor.numel() for tensor in load_file(newest / "model.safetensors").values())
    assert [e.step for e in events if isinstance(e, Step)] == list(range(1, 13))
    assert [e.step for e in events if isinstance(e, Evaluation)] == [0, 6, 12]
    assert [e.step for e in events if isinstance(e, Sample)] == [6, 12]
    assert [e.step for e in events if isinstance(e, Saved)] == [6, 12]
    assert events[-1] == Ended("finished", 12)


def test_the_loss_starts_at_chance_and_falls(text_file: Path) -> None:
    evaluations = [e for e in train_small(text_file, steps=60, eval_every=30, learning_rate=3e-3) if isinstance(e, Evaluation)]
    assert evaluations[0].validation_loss == pytest.approx(math.log(256), abs=0.1)
    assert evaluations[-1].validation_loss < 3.0
    for evaluation in evaluations:
        assert evaluation.perplexity == perplexity(evaluation.validation_loss)
        assert evaluation.bits_per_byte == pytest.approx(bits_per_byte(evaluation.validation_loss, 1, 1))  # a token is a byte


def test_the_run_folder_has_settings_state_metrics_and_samples(text_file: Path) -> None:
    train_small(text_file, run="a")
    run = find_run("a")
    info = run.info()
    assert info["format"] == 1
    assert info["tokenizer"]["name"] == "byte"
    assert info["data"][0]["path"] == str(text_file)
    assert len(info["data"][0]["sha256"]) == 64
    assert run.state().status == "finished"
    records, _ = run.records(run.metrics)
    batch = [record for record in records if record["split"] == "batch"]
    assert set(batch[0]) >= {"step", "split", "loss", "learning_rate", "grad_norm", "tokens_per_second", "time"}
    assert set(batch[0]) >= {"flops_per_second", "utilization", "memory"}
    assert [record["step"] for record in batch] == list(range(1, 13))
    assert {record["split"] for record in records} == {"batch", "train", "validation"}
    assert run.records(run.samples)[0][-1]["text"]


def test_a_step_reports_its_arithmetic_and_memory(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of a device is known for some GPUs; here, one is made up for the CPU."""
    steps = [e for e in train_small(text_file, run="a", steps=3) if isinstance(e, Step)]
    flops = ModelConfig.create(**find_run("a").info()["model"]).flops_per_token
    assert all(step.flops_per_second == pytest.approx(flops * step.tokens_per_second) for step in steps)
    assert {step.utilization for step in steps} == {None}
    assert 2**26 < steps[0].memory <= steps[-1].memory < 2**40
    monkeypatch.setattr("gpt2demo.training.loop.peak_flops", lambda device, dtype: 1e12)
    for step in (e for e in train_small(text_file, steps=3) if isinstance(e, Step)):
        assert step.utilization == pytest.approx(step.flops_per_second / 1e12)


def test_each_step_uses_the_learning_rate_of_the_schedule(text_file: Path) -> None:
    config = TrainConfig(steps=12, warmup_steps=2)
    events = train_small(text_file, warmup_steps=2, learning_rate=config.learning_rate, sample_tokens=0)
    assert [rate for _, _, rate, _ in step_values(events)] == [learning_rate(step, 12, config) for step in range(12)]


def test_accumulated_batches_equal_one_large_batch(text_file: Path) -> None:
    large = train_small(text_file, run="large", batch_size=8, dtype="fp32")
    small = train_small(text_file, run="small", batch_size=2, grad_accumulation=4, dtype="fp32")
    for left, right in zip(step_values(large), step_values(small), strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_the_newest_and_the_best_checkpoints_are_kept(text_file: Path) -> None:
    train_small(text_file, run="a", save_every=2, eval_every=2, keep=2)
    run = find_run("a")
    kept = sorted(path.name for path in run.checkpoints.iterdir())
    assert kept == ["step-00000010", "step-00000012"]
    best = checkpoint.best_of(list(checkpoint.valid_checkpoints(run.checkpoints)))
    assert best is not None
    assert best.path.name in kept


def test_leaving_the_loop_saves_a_checkpoint(text_file: Path) -> None:
    take_until(gpt2demo.train(text_file, run="a", **SMALL), 5)
    assert find_run("a").state().status == "interrupted"
    assert checkpoint.newest(find_run("a").checkpoints).step == 5


def test_a_stop_file_and_a_stop_request_end_with_a_checkpoint(text_file: Path) -> None:
    events = []
    for event in gpt2demo.train(text_file, run="a", **SMALL):
        events.append(event)
        if isinstance(event, Step) and event.step == 4:
            find_run("a").stop_file.touch()
    assert events[-1] == Ended("stopped", 4)
    assert find_run("a").state().status == "stopped"
    assert list(resume("a", stop=lambda: "interrupted"))[-1] == Ended("interrupted", 4)
    assert list(resume("a"))[-1] == Ended("finished", 12)
