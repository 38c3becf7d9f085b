"""Training: what it tells, what it leaves on disk, and that a cut and resumed run is the uninterrupted one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from samples import SMALL

import gpt2demo
from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.errors import DataError, RunError, SettingError, TrainingError
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run
from gpt2demo.training.events import Ended, Evaluation, Event, Sample, Saved, Started, Step
from gpt2demo.training.schedule import learning_rate
from gpt2demo.training.train import resume


def run_all(*args: Any, **settings: Any) -> list[Event]:
    return list(gpt2demo.train(*args, **{**SMALL, "threads": 1, **settings}))


def steps(events: list[Event]) -> list[tuple[int, float, float, float]]:
    """What a step's numbers must repeat exactly: not its speed."""
    return [(e.step, e.loss, e.learning_rate, e.grad_norm) for e in events if isinstance(e, Step)]


def weights(name: str) -> dict[str, torch.Tensor]:
    newest = checkpoint.newest(find_run(name).checkpoints).path
    return {
        **load_file(newest / "model.safetensors"),
        **{f"o.{k}": v for k, v in load_file(newest / "trainer.safetensors").items()},
    }


def assert_same_run(one: str, other: str) -> None:
    for left, right in zip(weights(one).items(), weights(other).items(), strict=True):
        assert left[0] == right[0]
        assert torch.equal(left[1], right[1]), left[0]


def test_it_tells_what_happens_in_order(text_file: Path) -> None:
    events = run_all(text_file, run="a", eval_every=6)
    assert isinstance(events[0], Started)
    assert events[0].parameters == sum(tensor.numel() for tensor in load_file(_newest("a") / "model.safetensors").values())
    assert [e.step for e in events if isinstance(e, Step)] == list(range(1, 13))
    assert [e.step for e in events if isinstance(e, Evaluation)] == [0, 6, 12]
    assert [e.step for e in events if isinstance(e, Sample)] == [6, 12]
    assert [e.step for e in events if isinstance(e, Saved)] == [6, 12]
    assert events[-1] == Ended("finished", 12)


def _newest(name: str) -> Path:
    return checkpoint.newest(find_run(name).checkpoints).path


def test_it_starts_at_chance_and_learns(text_file: Path) -> None:
    events = run_all(text_file, steps=60, learning_rate=3e-3)
    losses = [e.validation_loss for e in events if isinstance(e, Evaluation)]
    assert losses[0] == pytest.approx(math.log(256), abs=0.1)
    assert losses[-1] < 3.0


def test_the_run_folder_holds_what_the_contract_says(text_file: Path) -> None:
    run_all(text_file, run="a")
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
    assert [record["step"] for record in batch] == list(range(1, 13))
    assert {record["split"] for record in records} == {"batch", "train", "validation"}
    assert run.records(run.samples)[0][-1]["text"]


EXACT: dict[str, dict[str, Any]] = {
    "plain": {"dtype": "fp32"},
    "dropout and accumulation": {"dropout": 0.2, "grad_accumulation": 2, "grad_clip": 0.5, "warmup_steps": 5},
    "bf16": {"dtype": "bf16"},
    "across epochs": {"batch_size": 64, "dropout": 0.1},
    "char": {"tokenizer": "char", "schedule": "constant", "steps": None, "epochs": 0.2},
    "bpe": {"tokenizer": "bpe", "tokenizer_options": {"vocab_size": "300"}, "dropout": 0.1},
}


@pytest.mark.parametrize(
    ("settings", "cuts"),
    [*((name, (5,)) for name in EXACT), ("dropout and accumulation", tuple(range(1, 11)))],
    ids=[*EXACT, "ten interruptions"],
)
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(text_file: Path, settings: str, cuts: tuple[int, ...]) -> None:
    chosen = {**SMALL, "threads": 1, **EXACT[settings]}
    straight = list(gpt2demo.train(text_file, run="straight", **chosen))
    pieces = _until(gpt2demo.train(text_file, run="cut", **chosen), cuts[0])
    for cut in (*cuts[1:], 10**9):
        torch.rand(7)  # what else is drawn must not matter
        pieces += _until(resume("cut"), cut)
    assert steps(pieces) == steps(straight)
    assert_same_run("straight", "cut")
    assert logged_steps("cut") == logged_steps("straight")


def logged_steps(name: str) -> list[int]:
    return [json.loads(line)["step"] for line in find_run(name).metrics.read_text(encoding="utf-8").splitlines()]


def _until(events: Iterator[Event], last: int) -> list[Event]:
    """Take the events up to a step, then leave: the trainer saves when its generator is closed."""
    taken = []
    for event in events:
        taken.append(event)
        if isinstance(event, Step) and event.step >= last:
            break
    events.close()  # type: ignore[attr-defined]
    return taken


def test_leaving_the_loop_saves_and_says_interrupted(text_file: Path) -> None:
    _until(gpt2demo.train(text_file, run="a", **SMALL), 5)
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
    asked = list(resume("a", stop=lambda: "interrupted"))
    assert asked[-1] == Ended("interrupted", 4)
    assert list(resume("a"))[-1] == Ended("finished", 12)


def test_a_finished_run_can_be_made_longer(text_file: Path) -> None:
    run_all(text_file, run="a")
    with pytest.raises(RunError, match="has done all its 12 steps; give a larger --steps"):
        list(resume("a"))
    assert find_run("a").state().status == "finished", "a refused resume changes nothing"
    assert list(resume("a", steps=15))[-1] == Ended("finished", 15)


def test_two_trainings_cannot_write_one_run(text_file: Path) -> None:
    events = gpt2demo.train(text_file, run="a", **SMALL)
    next(events)
    with pytest.raises(RunError, match="is training it"):
        next(resume("a"))
    events.close()  # type: ignore[attr-defined]


def test_a_loss_that_is_not_finite_stops_before_the_update(text_file: Path) -> None:
    events = gpt2demo.train(
        text_file, run="a", learning_rate=1e3, grad_clip=0, schedule="constant", save_every=1, **{**SMALL, "steps": 400}
    )
    with pytest.raises(TrainingError, match=r"step \d+: loss .*learning-rate"):
        list(events)
    assert find_run("a").state().status == "failed"
    assert find_run("a").state().error
    newest = checkpoint.newest(find_run("a").checkpoints)
    assert all(torch.isfinite(tensor).all() for tensor in load_file(newest.path / "model.safetensors").values())


def test_only_the_newest_and_the_best_checkpoints_stay(text_file: Path) -> None:
    run_all(text_file, run="a", save_every=2, eval_every=2, keep=2)
    run = find_run("a")
    kept = sorted(path.name for path in run.checkpoints.iterdir())
    assert kept == ["step-00000010", "step-00000012"]
    best = checkpoint.best_of(list(checkpoint.valid_checkpoints(run.checkpoints)))
    assert best is not None
    assert best.path.name in kept


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"n_layr": 3}, SettingError, "n_layr: unknown setting"),
        ({"n_head": 5}, SettingError, "n_embd=32 is not divisible by n_head=5"),
        ({"preset": "huge"}, SettingError, "unknown preset 'huge'; available: nano, seed, gpt2"),
        ({"n_positions": 5000}, DataError, "needs at least 5001"),
        ({"vocab_size": 100}, SettingError, "vocab_size=100: the tokenizer has 256"),
        ({"run": "../evil"}, RunError, "'../evil'"),
        ({"epochs": 1}, SettingError, "either steps or epochs"),
        ({"learning_rate": float("nan")}, SettingError, "learning_rate='nan'"),
        ({"tokenizer_options": {"x": "1"}}, SettingError, "'byte': x: unknown setting"),
        ({"dataset": "tales"}, SettingError, "either text files or an example dataset"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    text_file: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint) as raised:
        run_all(text_file, **settings)
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "runs").glob("[!.]*"))


def test_a_taken_name_says_how_to_go_on(text_file: Path) -> None:
    run_all(text_file, run="a")
    with pytest.raises(RunError, match="gpt2demo resume a"):
        run_all(text_file, run="a")
    assert isinstance(run_all(text_file)[0], Started)
    assert {run.name for run in map(Run, find_run("a").path.parent.iterdir())} == {"a", "text-nano"}


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    config = TrainConfig(steps=1000, learning_rate=1.0, warmup_steps=100, min_learning_rate=0.1)
    rates = [learning_rate(step, 1000, config) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 101)
    assert rates[:101] == sorted(rates[:101])
    assert rates[100] == 1.0
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[550] == pytest.approx(0.55)
    assert rates[1000] == pytest.approx(0.1)
    constant = config.with_changes(schedule="constant", warmup_steps=0)
    assert {learning_rate(step, 1000, constant) for step in range(1000)} == {1.0}


def test_accumulated_batches_are_one_large_batch(text_file: Path) -> None:
    large = run_all(text_file, run="large", batch_size=8, dtype="fp32")
    small = run_all(text_file, run="small", batch_size=2, grad_accumulation=4, dtype="fp32")
    for left, right in zip(steps(large), steps(small), strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_weight_decay_pulls_matrices_alone() -> None:
    from gpt2demo.model import GPT2
    from gpt2demo.training.optimizers import adamw

    optimizer = adamw(GPT2(ModelConfig()), TrainConfig(steps=1, weight_decay=0.3))
    assert [(group["weight_decay"], {p.dim() for p in group["params"]}) for group in optimizer.param_groups] == [
        (0.3, {2}),
        (0.0, {1}),
    ]
