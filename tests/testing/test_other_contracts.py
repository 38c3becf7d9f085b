"""The contracts of datasets, exporters, optimizers and schedules detect broken parts, and the reports of samplers are one line."""

from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field

from gpt2demo.interfaces import Dataset
from gpt2demo.testing import DatasetContract, ExporterContract, OptimizerContract, ScheduleContract
from gpt2demo.testing.exporters import save_checkpoint
from gpt2demo.testing.schedules import LENGTHS
from gpt2demo.training.optimizers import adamw
from gpt2demo.training.schedule import cosine, wsd


def failing(contract: type, run: Callable[[Any, str], None]) -> set[str]:
    """Run the tests of a contract like pytest, and return the names of those that fail."""
    failed = set()
    for name in (name for name in dir(contract) if name.startswith("test_")):
        try:
            run(contract(), name)
        except pytest.skip.Exception:
            continue
        except (Exception, pytest.fail.Exception):
            failed.add(name.removeprefix("test_"))
    return failed


# ---------------------------------------------------------------------------------------------- datasets


class ValidDataset(Dataset):
    """Fulfils the contract."""

    summary = "numbers"
    size: int = Field(3, ge=1, description="number of documents")

    def documents(self) -> Iterator[str]:
        yield from map(str, range(self.size))


class YieldsBytes(ValidDataset):
    def documents(self) -> Iterator[Any]:
        yield b"bytes"


class YieldsNothing(ValidDataset):
    def documents(self) -> Iterator[str]:
        yield from ()


class IsRandom(ValidDataset):
    def documents(self) -> Iterator[str]:
        yield str(random.random())


class SharesIterator(ValidDataset):
    shared: ClassVar[list[str]] = []

    def documents(self) -> Iterator[str]:
        for _ in range(4):
            self.shared.append("x")
            yield str(len(self.shared))


class WithoutSummary(ValidDataset):
    summary = ""


class WithoutDescription(Dataset):
    summary = "numbers"
    size: int = 3

    def documents(self) -> Iterator[str]:
        yield "text"


@pytest.mark.parametrize(
    ("dataset", "failed"),
    [
        (ValidDataset, set()),
        (YieldsBytes, {"documents_are_texts"}),
        (YieldsNothing, {"documents_are_texts"}),
        (IsRandom, {"documents_are_the_same_each_time", "two_iterations_are_independent"}),
        (SharesIterator, {"documents_are_the_same_each_time", "two_iterations_are_independent"}),
        (WithoutSummary, {"summary_is_one_line"}),
        (WithoutDescription, {"options_have_description_and_default"}),
    ],
)
def test_datasets(dataset: type, failed: set[str]) -> None:
    contract = type("TestIt", (DatasetContract,), {"dataset": dataset})
    assert failing(contract, lambda case, name: getattr(case, name)()) == failed


# ---------------------------------------------------------------------------------------------- optimizers


def sgd(model: Any, config: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=config.learning_rate, momentum=0.9)


def some_parameters(model: Any, config: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(model.h.parameters()), lr=config.learning_rate)


def not_an_optimizer(model: Any, config: Any) -> Any:
    return object()


class Ascending(torch.optim.SGD):
    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr, maximize=True)


class ConstantRate(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["lr"] = 0.01
        super().step(closure)


class HiddenState(torch.optim.SGD):
    """Keeps its momentum outside of `self.state`."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.count = 0

    def step(self, closure: Any = None) -> None:
        self.count += 1
        for group in self.param_groups:
            group["lr"] /= self.count
        super().step(closure)


class DecaysEverything(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(1 - group["lr"])
        super().step(closure)


def factory(cls: Any) -> Callable[..., Any]:
    """Return a factory that passes all parameters to a class."""
    return lambda model, config: cls(model.parameters(), lr=config.learning_rate)


@pytest.mark.parametrize(
    ("optimizer", "failed"),
    [
        (adamw, set()),
        (sgd, set()),
        (some_parameters, {"it_is_an_optimizer_of_all_trainable_parameters"}),
        (factory(Ascending), {"steps_lower_the_loss"}),
        (factory(ConstantRate), {"the_learning_rate_of_each_step_is_used"}),
        (factory(HiddenState), {"a_restored_state_continues_exactly"}),
        (factory(DecaysEverything), {"frozen_parameters_stay"}),
    ],
    ids=["adamw", "sgd", "some parameters", "ascending", "constant rate", "hidden state", "decays everything"],
)
def test_optimizers(optimizer: Callable[..., Any], failed: set[str], tmp_path: Path) -> None:
    contract = type("TestIt", (OptimizerContract,), {"optimizer": optimizer})

    def run(case: Any, name: str) -> None:
        getattr(case, name)(*([tmp_path] if "restored" in name else []))

    assert failing(contract, run) == failed


def test_another_object_is_not_an_optimizer() -> None:
    contract = type("TestIt", (OptimizerContract,), {"optimizer": not_an_optimizer})
    with pytest.raises(AssertionError, match="returned object, not an optimizer"):
        contract().test_it_is_an_optimizer_of_all_trainable_parameters()


# ---------------------------------------------------------------------------------------------- schedules


def calls_counted() -> Callable[..., float]:
    """Return a schedule whose factor depends on the number of calls."""
    calls = itertools.count(1)
    return lambda step, total_steps, config: 1 / next(calls)


VALID, PEAK, WARM_UP, SAME = (
    "factors_are_finite_and_not_negative",
    "the_peak_rate_is_the_highest",
    "any_warm_up_works",
    "the_same_step_has_the_same_factor",
)


@pytest.mark.parametrize(
    ("schedule", "failed"),
    [
        (cosine, set()),
        (wsd, set()),
        (lambda step, total_steps, config: 1, set()),
        (lambda step, total_steps, config: "1", {VALID, PEAK, WARM_UP}),
        (lambda step, total_steps, config: True, {VALID}),
        (lambda step, total_steps, config: math.nan, {VALID, PEAK, WARM_UP}),
        (lambda step, total_steps, config: 1 - 2 * step / total_steps, {VALID, WARM_UP}),
        (lambda step, total_steps, config: 1.5, {PEAK, WARM_UP}),
        (lambda step, total_steps, config: 0.0, {PEAK}),
        (lambda step, total_steps, config: step / (total_steps - 1), {VALID, PEAK, WARM_UP}),
        (lambda step, total_steps, config: (step + 1) / (config.warmup_steps or 1), {PEAK, WARM_UP}),
        (calls_counted(), {SAME}),
    ],
    ids=["cosine", "wsd", "int", "str", "bool", "nan", "negative", "above 1", "zero", "divides by 0", "beyond the peak", "state"],
)
def test_schedules(schedule: Callable[..., Any], failed: set[str]) -> None:
    contract = type("TestIt", (ScheduleContract,), {"schedule": schedule})
    arguments: dict[str, list[dict[str, int]]] = {
        VALID: [{"total_steps": total} for total in LENGTHS],
        PEAK: [{"total_steps": total} for total in LENGTHS],
        WARM_UP: [{"total_steps": total, "warmup_steps": warmup} for total in LENGTHS for warmup in (0, 5, 100)],
        SAME: [{}],
    }

    def run(case: Any, name: str) -> None:
        for one in arguments[name.removeprefix("test_")]:
            getattr(case, name)(**one)

    assert failing(contract, run) == failed


# ---------------------------------------------------------------------------------------------- exporters


class ValidExporter:
    """Fulfils the contract."""

    summary = "the step"
    dtypes = ("fp32", "fp16")

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        report(dtype)
        (folder / "model.bin").write_bytes((checkpoint / "model.safetensors").read_bytes())


class WritesNothing(ValidExporter):
    def export(self, checkpoint: Path, folder: Path, **options: Any) -> None:
        pass


class WritesElsewhere(ValidExporter):
    def export(self, checkpoint: Path, folder: Path, **options: Any) -> None:
        super().export(checkpoint, folder, **options)
        Path("log.txt").write_text("here")


class ChangesTheCheckpoint(ValidExporter):
    def export(self, checkpoint: Path, folder: Path, **options: Any) -> None:
        super().export(checkpoint, folder, **options)
        with (checkpoint / "extra").open("a") as file:
            file.write("x")


class TakesAnyOption(ValidExporter):
    def __init__(self, *, unknown_option: str = "") -> None:
        pass


class RequiresAnOption(ValidExporter):
    def __init__(self, level: int) -> None:
        pass


@pytest.mark.parametrize(
    ("exporter", "expected"),
    [
        (ValidExporter, set()),
        (WritesNothing, {"every_dtype_is_exported"}),
        (WritesElsewhere, {"nothing_is_written_elsewhere"}),
        (ChangesTheCheckpoint, {"every_dtype_is_exported", "nothing_is_written_elsewhere"}),
        (TakesAnyOption, {"unknown_dtypes_and_options_are_refused"}),
        (RequiresAnOption, {"options_are_keyword_only_with_a_default"}),
    ],
)
def test_exporters(exporter: type, expected: set[str], tmp_path: Path) -> None:
    contract = type("TestIt", (ExporterContract,), {"exporter": exporter})

    def run(case: Any, name: str) -> None:
        folder = tmp_path / name
        available = {"tmp_path": folder, "source": save_checkpoint(folder / "runs" / "tiny")}
        test = getattr(case, name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            names = test.__func__.__code__.co_varnames[1 : test.__func__.__code__.co_argcount]
            with registered(case):
                test(**{key: {**available, "monkeypatch": patch}[key] for key in names})

    failed = failing(contract, run)
    assert expected <= failed
    assert bool(failed) == bool(expected)


def registered(case: ExporterContract) -> Any:
    """Return a context manager that registers the exporter of a case."""
    return contextmanager(ExporterContract.registered.__wrapped__)(case)  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------- reports of samplers

CASES = """
import random, torch
from pydantic import Field
from gpt2demo.interfaces import Sampler
from gpt2demo.testing import SamplerContract

class Identity(Sampler):
    def __call__(self, logits, context): return logits

class WithoutRange(Sampler):
    t: float = Field(1.0, description="shift")
    def __call__(self, logits, context): return logits - self.t

class Branches(Sampler):
    def __call__(self, logits, context):
        return torch.stack([row if bool(row[0] > 1) else row - 1 for row in logits])

class Random(Sampler):
    def __call__(self, logits, context): return logits + torch.rand_like(logits) * 1e-3

class PythonRandom(Sampler):
    def __call__(self, logits, context): return logits + random.random() * 1e-3 * torch.arange(logits.shape[-1])

class TestIdentity(SamplerContract): sampler = Identity
class TestWithoutRange(SamplerContract): sampler = WithoutRange
class TestBranches(SamplerContract): sampler = Branches
class TestRandom(SamplerContract): sampler = Random
class TestPythonRandom(SamplerContract): sampler = PythonRandom
"""


@pytest.mark.slow
def test_a_broken_sampler_has_one_failure_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(CASES, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "test_mine.py", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist"]
    env = {**os.environ, "GPT2DEMO_TEST_PROFILE": "quick", "COLUMNS": "400"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert [line.split("::")[1] for line in failed] == ["TestWithoutRange", "TestBranches", "TestRandom", "TestPythonRandom"]
    assert "t has no range; set ge or gt, and le or lt" in done.stdout
    assert "Branches cannot be traced into a graph: it may branch on values" in failed[1]
    assert all("the sampler uses random numbers" in line for line in failed[2:])
    assert "torch.__trace" not in done.stdout


def test_an_unknown_profile_is_refused() -> None:
    env = {**os.environ, "GPT2DEMO_TEST_PROFILE": "slow"}
    done = subprocess.run(
        [sys.executable, "-c", "import gpt2demo.testing.profiles"], env=env, capture_output=True, text=True, check=False
    )
    assert "GPT2DEMO_TEST_PROFILE='slow': use one of full, quick" in done.stderr
