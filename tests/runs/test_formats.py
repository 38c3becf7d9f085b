"""Runs of older formats load and resume: a tiny run of each released format, with its text and the losses of its resume."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

import gpt2demo
from gpt2demo import layers
from gpt2demo.runs.folder import FORMAT, runs_dir
from gpt2demo.training.events import Step
from gpt2demo.training.train import resume

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("format-*"))


def test_every_format_has_a_fixture() -> None:
    assert [path.name for path in FIXTURES] == [f"format-{number}" for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_an_old_run_generates_and_resumes_as_before(fixture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its dropout masks were drawn by torch."""
    monkeypatch.setattr(layers, "FAST_BERNOULLI", True)
    shutil.copytree(fixture, runs_dir() / "old")
    golden = json.loads((fixture / "golden.json").read_text(encoding="utf-8"))
    model = gpt2demo.load("old")
    assert "".join(model.generate(golden["prompt"], max_new_tokens=24, temperature=0)) == golden["text"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # versions and machine differ from those of the fixture
        losses = [(event.step, event.loss) for event in resume("old") if isinstance(event, Step)]
    assert [step for step, _ in losses] == [step for step, _ in golden["losses"]]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in golden["losses"]], rel=1e-4)


def test_an_old_run_warns_that_its_dropout_masks_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors for which this package draws them itself."""
    monkeypatch.setattr(layers, "FAST_BERNOULLI", False)
    shutil.copytree(FIXTURES[0], runs_dir() / "old")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        next(resume("old")).step  # noqa: B018
    assert any("dropout changed from torch to gpt2demo" in str(warning.message) for warning in caught)
