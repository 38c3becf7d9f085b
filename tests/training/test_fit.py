"""Memory, time and disk of a training are measured in another process; the largest batch that fits is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from samples import SMALL, Cli, train_small

import gpt2demo
from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.errors import SettingError, TrainingError
from gpt2demo.runs.find import find_run
from gpt2demo.training import fit
from gpt2demo.training.dry_run import dry_run
from gpt2demo.training.fit import Measurement, estimate, largest_batch, probe, sizes

GB = 10**9
TINY = ModelConfig(n_positions=16, n_embd=32, n_head=2, n_layer=1)
LARGE = ModelConfig(n_positions=1024, n_embd=768, n_head=12, n_layer=12)
TRAIN = TrainConfig(batch_size=12, grad_accumulation=40, steps=10, threads=1)


@dataclass
class FakeProbe:
    """Stands for a process whose memory grows by a gigabyte per sequence."""

    fixed: int  # weights, gradients and optimizer state
    parameters: int
    available: int = 20 * GB
    device: str = "cpu"
    dtype: str = "float32"
    limit: int = 1000

    def measure(self, batch_size: int, steps: int = 1) -> Measurement | None:
        """Return what a batch needs, or None above the limit."""
        memory = self.fixed + GB * batch_size
        return (
            Measurement(batch_size, memory, 0.5, 0.25, state=self.fixed - 8 * self.parameters)
            if batch_size <= self.limit
            else None
        )


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Return a function that replaces the process; checkpointing saves half of the fixed memory in it."""

    def use(fixed: int, **options: Any) -> None:
        @contextmanager
        def fake(model: ModelConfig, train: TrainConfig, processes: int = 1) -> Iterator[FakeProbe]:
            yield FakeProbe(fixed // 2 if train.checkpoint_activations else fixed, model.n_parameters, **options)

        monkeypatch.setattr(fit, "probe", fake)

    return use


@pytest.mark.parametrize(
    ("sequences", "processes", "expected"),
    [(12, 1, [12, 6, 4, 3, 2, 1]), (12, 2, [6, 3, 2, 1]), (12, 4, [3, 1]), (7, 1, [7, 1]), (7, 2, [])],
)
def test_sizes_keep_the_sequences_per_step(sequences: int, processes: int, expected: list[int]) -> None:
    assert sizes(TRAIN.with_changes(batch_size=1, grad_accumulation=sequences), processes) == expected


@pytest.mark.parametrize(("fixed", "batch_size"), [(1, 16), (5, 15), (10, 10), (18, 2), (18.1, 1), (19, 1)])
def test_the_largest_batch_that_fits_is_found(memory: Any, fixed: float, batch_size: int) -> None:
    memory(round(fixed * GB))
    train, facts = largest_batch(LARGE, TRAIN)
    assert (train.batch_size, train.grad_accumulation) == (batch_size, 480 // batch_size)
    assert facts["predicted"] == fixed * GB + GB * batch_size <= facts["available"]
    assert facts["measured"][1] == fixed * GB + GB


def test_on_a_gpu_the_batch_is_tried(memory: Any) -> None:
    memory(5 * GB, device="cuda", limit=9)
    assert largest_batch(LARGE, TRAIN)[0].batch_size == 8


@pytest.mark.parametrize("options", [{"fixed": 19 * GB + 1}, {"fixed": GB, "limit": 0}])
def test_if_no_sequence_fits_that_is_an_error(memory: Any, options: dict[str, int]) -> None:
    memory(**options)
    with pytest.raises(SettingError, match="one sequence of 1024 positions .* try --checkpoint-activations"):
        largest_batch(LARGE, TRAIN)


@pytest.mark.parametrize(
    ("fixed", "advice"),
    [
        (5, None),
        (10, "--batch-size 10 --grad-accumulation 48"),
        (16, "--batch-size 4 --grad-accumulation 120"),
        (20, "--checkpoint-activations --batch-size 10 --grad-accumulation 48"),
        (40, None),
    ],
)
def test_an_estimate_names_the_nearest_setting_that_fits(memory: Any, fixed: int, advice: str | None) -> None:
    memory(fixed * GB)
    found = estimate(LARGE, TRAIN)
    assert found.advice == advice
    assert found.fits == (fixed == 5)
    assert found.memory == pytest.approx((fixed + 12) * GB, rel=1e-6)


def test_an_estimate_has_time_and_disk(memory: Any) -> None:
    """10 steps of 40 batches of half a second, 11 evaluations of 2 * 20 batches of a quarter; two kept, best and new checkpoint."""
    memory(5 * GB)
    found = estimate(LARGE, TRAIN)
    assert (found.step_seconds, found.seconds) == (20, 10 * 20 + 11 * 40 * 0.25)
    assert found.tokens_per_step == 480 * 1024
    assert found.disk == 4 * (5 * GB - 4 * LARGE.n_parameters), "weights and optimizer state, without gradients"
    assert estimate(LARGE, TRAIN, processes=4).step_seconds == 5


def test_without_a_text_an_estimate_in_epochs_has_no_end(memory: Any) -> None:
    memory(5 * GB)
    epochs = TRAIN.with_changes(steps=None, epochs=2)
    assert (estimate(LARGE, epochs).steps, estimate(LARGE, epochs).seconds) == (None, None)
    assert estimate(LARGE, epochs, windows=4800).steps == 20


def test_a_process_measures_real_steps() -> None:
    """The process imports torch, which takes two seconds."""
    with probe(TINY, TRAIN) as measuring:
        one, many = measuring.measure(1), measuring.measure(512, steps=2)
    assert measuring.device == "cpu"
    assert one
    assert many
    assert 100e6 < one.memory < many.memory < measuring.available
    assert many.micro_batch_seconds > 0
    assert many.evaluation_seconds > 0
    assert 8 * TINY.n_parameters <= one.state < 8 * TINY.n_parameters + 1000


def test_a_process_whose_memory_ran_out_measures_nothing() -> None:
    """The first weight alone has 64 TB."""
    with probe(TINY.with_changes(vocab_size=10**6, n_embd=16_384, n_layer=256), TRAIN) as measuring:
        assert measuring.measure(1) is None
        assert measuring.measure(1) is None


def test_another_failure_is_an_error() -> None:
    unknown = TRAIN.with_changes(optimizer="unknown")
    with pytest.raises(TrainingError, match="unknown optimizer 'unknown'"), probe(TINY, unknown) as measuring:
        measuring.measure(1)


# ---------------------------------------------------------------------------------------------- trainings


def test_a_run_records_numbers_and_its_resume_does_not_measure(
    memory: Any, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(17 * GB)
    train_small(text_file, run="a", batch_size="auto", preset="nano", steps=2)
    info = find_run("a").info()
    assert (info["train"]["batch_size"], info["train"]["grad_accumulation"]) == (2, 8)
    assert info["memory"] == {"available": 20 * GB, "measured": {"1": 18 * GB, "2": 19 * GB}, "predicted": 19 * GB}
    monkeypatch.setattr(fit, "probe", None)
    list(gpt2demo.Run("a").resume(steps=3))


def test_the_sequences_per_step_are_those_of_the_preset_and_the_accumulation(memory: Any, text_file: Path) -> None:
    memory(5 * GB)
    train_small(text_file, run="a", batch_size="auto", grad_accumulation=3, preset="nano", steps=1)
    assert find_run("a").info()["train"]["batch_size"] == 12, "the largest divisor of 16 * 3 up to 15"


def test_auto_and_shard_are_refused(text_file: Path) -> None:
    with pytest.raises(SettingError, match="batch_size='auto'.*shard"):
        train_small(text_file, run="a", batch_size="auto", shard=True)


def test_a_dry_run_leaves_nothing_behind(memory: Any, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(tmp_path / "new" / "runs"))
    memory(5 * GB)
    found = dry_run(text_file, **{**SMALL, "steps": None, "epochs": 1, "batch_size": "auto"})
    assert found.steps
    assert found.batch_size == 8, "the requested 8 sequences are replaced by the preset's 16, of which 15 would fit"
    assert not (tmp_path / "new" / "runs").exists()


def test_a_dry_run_is_printed(invoke: Cli, memory: Any, text_file: Path) -> None:
    memory(15 * GB)
    options = ["train", text_file, "--preset=nano", "--tokenizer=byte", "--dry-run"]
    shown = invoke(*options)
    assert "steps       700 of 2,048 tokens each (16 sequences x 1)" in shown.stdout
    assert "no: try --batch-size 4 --grad-accumulation 4" in shown.stdout
    values = json.loads(invoke(*options, "--json").stdout)
    assert values["fits"] is False
    assert values["steps"] == 700
    assert invoke("train", text_file, "--json").returncode == 2
