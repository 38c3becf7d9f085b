"""Early stopping: the training ends after some evaluations without a better validation loss, also when it is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import SMALL, Cli, train_small

import gpt2demo
from gpt2demo.events import Ended, Evaluation, Event, Sample, Saved
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run
from gpt2demo.training.patience import Patience
from gpt2demo.training.train import resume

OVERFITTING = {
    "n_layer": 1,
    "n_positions": 16,
    "sample_tokens": 1,
    "steps": 100,
    "eval_every": 5,
    "learning_rate": 0.02,
    "patience": 2,
}


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Write random letters, of which a model can only learn the ones for training by heart."""
    letters = np.random.default_rng(0).integers(97, 123, 1500).astype(np.uint8)
    path = tmp_path / "letters.txt"
    path.write_bytes(letters.tobytes())
    return path


def see(patience: Patience, *losses: float) -> list[bool]:
    """Observe losses at steps 10, 20, …; return after which of them the training stops."""
    stops = []
    for number, loss in enumerate(losses, start=1):
        patience.observe(10 * number, loss)
        stops.append(patience.exhausted)
    return stops


def losses(events: list[Event]) -> list[float]:
    """Return the validation losses."""
    return [event.validation_loss for event in events if isinstance(event, Evaluation)]


def end(events: list[Event]) -> Ended:
    """Return the last event."""
    assert isinstance(events[-1], Ended)
    return events[-1]


def test_only_a_lower_loss_is_better() -> None:
    assert see(Patience(2), 3.0, 2.0, 2.0, 1.9, 1.95, 1.9) == [False] * 5 + [True]


def test_without_a_limit_a_training_never_stops_early() -> None:
    assert not any(see(Patience(None), 1.0, 2.0, 3.0, 4.0))


def test_the_reason_has_the_best_loss_and_its_step() -> None:
    see(patience := Patience(2), 3.0, 2.0, 2.5, 2.25)
    assert patience.restart() == "no better validation loss in 2 evaluations, the best is 2.0000 at step 20"
    assert not patience.exhausted


@pytest.fixture
def stopped(text_file: Path) -> list[Event]:
    """Train a run `a` that stops early."""
    return train_small(text_file, run="a", **OVERFITTING)


def test_a_training_stops_after_evaluations_without_a_better_loss(stopped: list[Event]) -> None:
    found, run = losses(stopped), find_run("a")
    best = found.index(min(found))
    assert len(found) == best + 3
    assert end(stopped) == Ended(
        "stopped", 5 * (best + 2), f"no better validation loss in 2 evaluations, the best is {min(found):.4f} at step {5 * best}"
    )
    assert run.state().status == "stopped"


def test_the_best_checkpoint_is_kept(stopped: list[Event]) -> None:
    found = losses(stopped)
    kept = [saved.validation_loss for saved in map(checkpoint.verify, find_run("a").checkpoints.glob("step-*"))]
    assert min(found[1:]) in kept


def test_resume_continues_with_as_many_evaluations(stopped: list[Event]) -> None:
    """The best loss is still that of before."""
    before, again = losses(stopped), list(resume("a"))
    assert end(again).status == "stopped"
    after = Patience(2)
    see(after, min(before))
    assert see(after, *losses(again)) == [False] * (len(losses(again)) - 1) + [True]


def interrupted(text_file: Path, after: type, number: int) -> Iterator[Event]:
    """Yield the events of a run `cut` that is interrupted after the given event of a kind, and then resumed once."""
    events = gpt2demo.train(text_file, **{**SMALL, **OVERFITTING, "run": "cut", "threads": 1})
    for event in events:
        yield event
        number -= isinstance(event, after)
        if not number:
            events.close()  # type: ignore[attr-defined]
            break
    yield from resume("cut")


@pytest.mark.parametrize(("event", "back"), [(Evaluation, 0), (Evaluation, 1), (Sample, 0), (Saved, 0), (Saved, 1)])
def test_an_interrupted_training_stops_at_the_same_step(stopped: list[Event], text_file: Path, event: Any, back: int) -> None:
    """Interrupted around one of the last evaluations: it counts once, and counting goes on when the run is resumed."""
    number = sum(isinstance(one, event) for one in stopped) - back
    events = list(interrupted(text_file, event, number))
    if event is Saved and not back:  # the checkpoint after the decision: the run continues
        assert end(events).step > end(stopped).step
    else:
        assert losses(events) == losses(stopped)
        assert end(events) == end(stopped)


def test_the_command_line_says_why(text_file: Path, invoke: Cli) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | OVERFITTING).items()]
    done = invoke("train", text_file, *options, "--run", "a", "--sample-tokens", 0)
    assert done.returncode == 0, done.stderr
    assert "stopped after step" in done.stderr
    assert "no better validation loss in 2 evaluations, the best is" in done.stderr
