"""A training in two processes equals the training in one: losses, weights, optimizer state, evaluations, and resumed runs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from samples import SMALL

from gpt2demo import plugins
from gpt2demo.config import TrainConfig
from gpt2demo.errors import CheckpointError, SettingError
from gpt2demo.events import Ended, Evaluation, Event, Step
from gpt2demo.plugins.wrappers import guarded_optimizer
from gpt2demo.runs import checkpoint, weights
from gpt2demo.runs.folder import Run
from gpt2demo.training import prepare_run, train_run
from gpt2demo.training.processes import Group, Processes
from gpt2demo.training.sharding import Sharded

SETTINGS: dict[str, Any] = {**SMALL, "threads": 1, "dtype": "fp32", "steps": 6, "eval_every": 3, "grad_accumulation": 2}

Values = list[list[float]]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Forked processes compute on one thread."""


def prepare(text: Path, name: str = "one", **settings: Any) -> Run:
    return prepare_run(text, run=name, **{**SETTINGS, **settings})


def copy(run: Run, name: str) -> Run:
    return Run(Path(shutil.copytree(run.path, run.path.parent / name)))


def values(events: Iterator[Event]) -> Values:
    """Return losses and gradient norms of the steps, and losses of the evaluations."""
    found: Values = []
    for event in events:
        if isinstance(event, Step):
            found.append([event.step, event.loss, event.grad_norm])
        elif isinstance(event, Evaluation):
            found.append(list(astuple(event)))
    return found


def train_until(last: int, run: Run, group: Group) -> Values:
    """Train until a step; return what `values` does."""
    done, found = 0, []
    for event in train_run(run, lambda: "stopped" if done >= last else None, group):
        done = event.step if isinstance(event, Step) else done
        found += values(iter([event]))
    return found


def tensors(run: Run) -> dict[str, torch.Tensor]:
    """Return weights and optimizer state of the newest checkpoint."""
    newest = checkpoint.newest(run.checkpoints).path
    return load_file(newest / "model.safetensors") | load_file(newest / "trainer.safetensors")


def assert_close(left: Run, right: Run, limit: float) -> None:
    """Compare weights and optimizer states."""
    mine, other = tensors(left), tensors(right)
    assert mine.keys() == other.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], other[name], rtol=0, atol=limit, msg=lambda text, name=name: f"{name}: {text}")


# ---------------------------------------------------------------------------------------------- equal results

EXACT, STEP, WEIGHTS = 0.0, 1e-6, 1e-4  # limits; Adam makes steps of full size from gradients that are rounding errors
CASES: dict[str, tuple[dict[str, Any], float, float]] = {
    "replicas": ({"dropout": 0.1, "grad_clip": 0.1}, EXACT, EXACT),
    "replicas in bf16": ({"dropout": 0.1, "dtype": "bf16"}, EXACT, EXACT),
    "replicas with frozen layers": ({"freeze_layers": 1}, EXACT, EXACT),
    "replicas, two micro-batches each": ({"grad_accumulation": 4, "batch_size": 4, "dropout": 0.1}, STEP, WEIGHTS),
    "shards of an odd vocabulary": ({"dropout": 0.1, "vocab_size": 257, "shard": True, "grad_clip": 0.1}, STEP, WEIGHTS),
    "shards with frozen layers": ({"freeze_layers": 1, "shard": True}, STEP, WEIGHTS),
    "shards, two micro-batches each": ({"grad_accumulation": 4, "batch_size": 4, "shard": True}, STEP, WEIGHTS),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(text_file: Path, tmp_path: Path, case: str) -> None:
    settings, per_step, per_weight = CASES[case]
    one = prepare(text_file, **settings)
    two = copy(one, "two")
    alone = values(train_run(one))
    first, second = on_ranks(tmp_path / "ranks", lambda group: values(train_run(two, group=group)))
    assert first == second, "all processes yield the same events"
    assert len(first) == len(alone) == 9
    for mine, other in zip(alone, first, strict=True):
        assert mine == pytest.approx(other, rel=per_step, abs=0), case
    assert_close(one, two, per_weight)
    assert {path.name for path in one.checkpoints.iterdir()} == {path.name for path in two.checkpoints.iterdir()}
    assert one.records(one.metrics)[0][-1]["loss"] == pytest.approx(two.records(two.metrics)[0][-1]["loss"], rel=STEP)


def test_each_process_has_half_of_a_sharded_model(text_file: Path, tmp_path: Path) -> None:
    run = prepare(text_file, shard=True, steps=1)

    def size(group: Processes) -> int:
        events = train_run(run, group=group)
        next(events)
        parameters = events.gi_frame.f_locals["training"].model.parameters()  # type: ignore[attr-defined]
        local = sum(parameter.to_local().numel() for parameter in parameters)
        list(events)
        return int(local)

    assert Sharded.sharded
    half = run.info()["parameters"] / 2
    assert on_ranks(tmp_path / "ranks", size) == pytest.approx([half, half], rel=0.01)


@pytest.mark.parametrize("shard", [False, True])
def test_an_optimizer_of_a_plugin(text_file: Path, tmp_path: Path, shard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps are proportional to the gradients: the weights are as close as these."""

    def momentum(name: str, model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        return guarded_optimizer(name, torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.9))

    monkeypatch.setattr(plugins, "create_optimizer", momentum)
    one = prepare(text_file, shard=shard, grad_accumulation=4, batch_size=4)
    two = copy(one, "two")
    values(train_run(one))
    on_ranks(tmp_path / "ranks", lambda group: values(train_run(two, group=group)))
    assert_close(one, two, STEP)


@pytest.mark.parametrize("shard", [False, True])
def test_a_run_moves_between_one_process_and_two(text_file: Path, tmp_path: Path, shard: bool) -> None:
    """Steps 1 and 2 in two processes, 3 and 4 in one, 5 and 6 in two again."""
    straight = prepare(text_file, shard=shard, dropout=0.1)
    moved = copy(straight, "moved")
    expected = values(train_run(straight))
    pieces = on_ranks(tmp_path / "first", lambda group: train_until(2, moved, group))[0]
    pieces += train_until(4, moved, Group())
    pieces += on_ranks(tmp_path / "last", lambda group: train_until(6, moved, group))[0]
    assert len(pieces) == len(expected)
    for mine, other in zip(expected, pieces, strict=True):
        assert mine == pytest.approx(other, rel=STEP if shard else EXACT, abs=0)
    assert_close(straight, moved, WEIGHTS if shard else EXACT)


def test_a_run_may_be_divided_into_smaller_batches_for_more_processes(text_file: Path, tmp_path: Path) -> None:
    """Each step and each evaluation reads the same text as before."""
    straight = prepare(text_file, grad_accumulation=1, batch_size=8)
    divided = copy(straight, "divided")
    expected = values(train_run(straight))
    train_until(3, divided, Group())
    changes = {"batch_size": 4, "grad_accumulation": 2}
    rest = on_ranks(tmp_path / "ranks", lambda group: values(train_run(divided, group=group, **changes)))[0]
    for mine, other in zip(expected[-len(rest) :], rest, strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=0)
    with pytest.raises(SettingError, match="are 16 sequences per step, but the run has 8; they cannot change"):
        list(train_run(divided, batch_size=8))


# ---------------------------------------------------------------------------------------------- ending together


def test_a_request_to_stop_in_any_process_ends_all_at_the_same_step(text_file: Path, tmp_path: Path) -> None:
    run = prepare(text_file)

    def train(group: Processes) -> list[object]:
        done = 0
        for event in train_run(run, lambda: "interrupted" if group.rank == 1 and done == 2 else None, group):
            done = event.step if isinstance(event, Step) else done
        assert isinstance(event, Ended)
        return [event.status, event.step]

    assert on_ranks(tmp_path / "ranks", train) == [["interrupted", 2], ["interrupted", 2]]
    assert run.state().status == "interrupted"
    assert checkpoint.newest(run.checkpoints).step == 2


def test_a_full_disk_of_the_leader_ends_all_with_the_same_message(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(text_file, save_every=2)
    save = weights.save_checkpoint

    def fail_at_step_4(folder: Path, model: Any, tokenizer: Path, optimizer: Any, progress: dict[str, Any]) -> Any:
        if progress["step"] == 4:
            raise CheckpointError("no space left")
        return save(folder, model, tokenizer, optimizer, progress)

    monkeypatch.setattr(weights, "save_checkpoint", fail_at_step_4)
    results = on_ranks(tmp_path / "ranks", lambda group: values(train_run(run, group=group)))
    assert results == [["CheckpointError", "no space left"], ["ProcessError", "no space left"]]
    assert (run.state().status, run.state().error) == ("failed", "no space left")
    assert checkpoint.newest(run.checkpoints).step == 2


@pytest.mark.parametrize(
    ("fault", "message"), [("ends", "another process of the training has ended"), ("hangs", "did not answer in time")]
)
def test_the_leader_saves_when_another_process_is_lost(text_file: Path, tmp_path: Path, fault: str, message: str) -> None:
    """The second process ends or hangs after step 2, in the middle of a step of the first one."""
    run = prepare(text_file)

    def train(group: Processes) -> None:
        for event in train_run(run, group=group):
            if isinstance(event, Step) and event.step == 2 and group.rank == 1:
                time.sleep(0 if fault == "ends" else 8)
                os._exit(1)

    leader, other = on_ranks(tmp_path / "ranks", train, timeout=timedelta(seconds=3))
    assert leader[0] == "ProcessError"
    assert message in leader[1]
    assert other is None
    assert checkpoint.newest(run.checkpoints).step == 2
    assert run.state().status == "failed"
    assert values(train_run(run))[0][0] == 3, "the run continues"


# ---------------------------------------------------------------------------------------------- settings and groups


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"batch_size": 8, "grad_accumulation": 1, "nproc": 2}, "--batch-size 4 --grad-accumulation 2 has the same"),
        ({"batch_size": 8, "grad_accumulation": 2, "nproc": 4}, "--batch-size 4 --grad-accumulation 4 has the same"),
        ({"batch_size": 8, "grad_accumulation": 3, "nproc": 2}, "--batch-size 6 --grad-accumulation 4 has the same"),
        ({"batch_size": 5, "grad_accumulation": 1, "nproc": 2}, "divides the 5 sequences"),
    ],
)
def test_an_unequal_share_is_refused_with_a_setting_for_the_same_step(
    text_file: Path, settings: dict[str, Any], advice: str
) -> None:
    with pytest.raises(SettingError, match=rf"^grad_accumulation=\d: \d processes cannot share that equally; .*{advice}"):
        prepare(text_file, **settings)


def test_one_process_of_several_settings_warns(text_file: Path) -> None:
    run = prepare(text_file, nproc=2, steps=1)
    with pytest.warns(UserWarning, match="nproc=2: only this process trains"):
        list(train_run(run))


def test_the_processes_share_every_item_once() -> None:
    for size, count in [(1, 3), (2, 4), (3, 4), (4, 2)]:
        groups = [Group() for _ in range(size)]
        for rank, group in enumerate(groups):
            group.rank, group.size = rank, size
        assert [number for group in groups for number in group.share(count)] == list(range(count))


def test_an_error_of_the_leader_reaches_processes_that_wait_for_it(tmp_path: Path) -> None:
    def lead(group: Processes) -> object:
        def fail() -> None:
            raise SettingError("text=7: is no text")

        assert group.lead(lambda: [group.rank, 2]) == [0, 2]
        return group.lead(fail)

    assert on_ranks(tmp_path / "ranks", lead) == [["SettingError", "text=7: is no text"], ["ProcessError", "text=7: is no text"]]
