"""The contract of samplers, as a class of tests."""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import Phase, given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from torch import Tensor

from gpt2demo.config import validate
from gpt2demo.errors import SettingError, summary
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.testing.profiles import examples

INF = math.inf
SCALES = (0.0, 1e-6, 0.1, 1.0, 5.0, 100.0, 1e4, 1e30, 3e38)
N_STEPS = 4  # tokens per generation, for samplers with state

many = examples(60, 15, phases=[Phase.generate])  # shrinking the seed of random logits gives no simpler example


@st.composite
def logits_steps(draw: st.DrawFn) -> list[Tensor]:
    """Generate the logits (B, V) of several steps: flat, peaked and huge ones, ties, and rows with few tokens left."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows, width = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 7, 64, 300]))
    return [_logits(draw, generator, rows, width) for _ in range(N_STEPS)]


def _logits(draw: st.DrawFn, generator: torch.Generator, rows: int, width: int) -> Tensor:
    scales = torch.tensor([[draw(st.sampled_from(SCALES))] for _ in range(rows)])
    logits = torch.rand(rows, width, generator=generator).mul(2).sub(1).mul(scales)
    if draw(st.booleans()):
        logits = logits.round()
    excluded = torch.rand(rows, width, generator=generator) < draw(st.sampled_from([0.0, 0.0, 0.5, 0.95, 1.0]))
    survivor = torch.randint(width, (rows, 1), generator=generator)
    return logits.masked_fill(excluded.scatter(-1, survivor, False), -INF)


class Generation:
    """A generation without a model: runs the sampler on given logits and appends the most likely token."""

    def __init__(self, sampler: Sampler, rows: int, width: int) -> None:
        self.sampler = sampler
        prompt = torch.arange(5).remainder(width).expand(rows, 5)
        self.context = SamplingContext(prompt, prompt_length=5)

    def step(self, logits: Tensor) -> Tensor:
        """Generate one token and return the sampler's logits."""
        result = self.sampler(logits, self.context)
        chosen = result.argmax(dim=-1)
        self.sampler.observe(chosen, self.context)
        self.context.ids = torch.cat([self.context.ids, chosen.unsqueeze(-1)], dim=-1)
        return result


class SamplerContract:
    """Tests of the contract of `gpt2demo.interfaces.Sampler`. Subclass it and set `sampler`.

    Each test runs with the default options, and with each option at both ends of its range.

    Attributes:
        sampler: the sampler class to test.
    """

    sampler: ClassVar[type[Sampler]]

    def test_options_have_description_range_and_default(self) -> None:
        """The command line and the web page create their controls from them."""
        assert issubclass(self.sampler, Sampler), f"{self.sampler.__name__} is not a subclass of gpt2demo.interfaces.Sampler"
        self.sampler()
        for name, field in self.sampler.model_fields.items():
            assert field.description, f"{name} has no description"
            if field.annotation in (int, float):
                low, high = limits(field)
                assert low < high, f"{name} has no range; set ge or gt, and le or lt"

    def test_invalid_options_raise_an_error_that_names_them(self) -> None:
        """Values outside the range, NaN, infinities, booleans, text, and unknown names."""
        for name, field in self.sampler.model_fields.items():
            if field.annotation in (int, float):
                outside = (bound + step for bound, step in zip(limits(field), (-1, 1), strict=True) if not math.isnan(bound))
                for value in (*outside, "nan", "inf", "-inf", "true", "many", ""):
                    check_invalid(self.sampler, name, value)
        check_invalid(self.sampler, "unknown_option", 1)

    def test_options_are_frozen(self) -> None:
        """A sampler cannot be modified, and has no unknown options."""
        assert self.sampler.model_config["frozen"], "model_config: frozen is not True"
        assert self.sampler.model_config["extra"] == "forbid", "model_config: extra is not 'forbid'"

    @many
    @given(steps=logits_steps(), data=st.data())
    def test_output_can_be_sampled(self, steps: list[Tensor], data: st.DataObject) -> None:
        """The output keeps shape and dtype, without NaN or +inf, and each row has at least one finite value."""
        for before, after in self.run(steps, data):
            assert isinstance(after, Tensor), f"returned {type(after).__name__}, not a tensor"
            assert after.shape == before.shape, f"returned shape {tuple(after.shape)} for logits of shape {tuple(before.shape)}"
            assert after.dtype == torch.float32, f"returned {after.dtype}, not torch.float32"
            assert after.amax(dim=-1).isfinite().all(), "a row has NaN, +inf or no finite value"

    @many
    @given(steps=logits_steps(), data=st.data())
    def test_excluded_tokens_stay_excluded(self, steps: list[Tensor], data: st.DataObject) -> None:
        """A sampler does not restore tokens that an earlier one excluded."""
        for before, after in self.run(steps, data):
            assert (after[before == -INF] == -INF).all(), "restored a token that an earlier sampler had excluded"

    @many
    @given(steps=logits_steps(), data=st.data())
    def test_inputs_are_not_modified(self, steps: list[Tensor], data: st.DataObject) -> None:
        """Logits and ids are not modified in place."""
        generation = self.generation(steps, data)
        for logits in steps:
            ids = generation.context.ids
            logits_before, ids_before = logits.clone(), ids.clone()
            generation.step(logits)
            assert torch.equal(logits, logits_before), "the sampler modified the logits"
            assert torch.equal(ids, ids_before), "the sampler modified the ids"

    @many
    @given(steps=logits_steps(), data=st.data())
    def test_output_is_deterministic(self, steps: list[Tensor], data: st.DataObject) -> None:
        """The same input gives the same output, and torch's random generator is not used."""
        if self.is_random():
            fail("the sampler uses random numbers; the draw is the only random step, so return the same logits each time")
        generation = self.generation(steps, data)
        again = Generation(generation.sampler, *steps[0].shape)
        for logits in steps:
            assert torch.equal(generation.step(logits), again.step(logits)), "the same input gave another output"

    @many
    @given(steps=logits_steps(), data=st.data())
    def test_rows_are_independent(self, steps: list[Tensor], data: st.DataObject) -> None:
        """Each row gives the same result alone and in a batch."""
        generation = self.generation(steps, data)
        alone = [Generation(generation.sampler, 1, steps[0].shape[1]) for _ in steps[0]]
        for logits in steps:
            together = generation.step(logits)
            single = torch.cat([one.step(logits[row : row + 1]) for row, one in enumerate(alone)])
            assert same_distribution(together, single), "a row gave another result in a batch than alone"

    @many
    @given(steps=logits_steps(), data=st.data())
    def test_generations_are_independent(self, steps: list[Tensor], data: st.DataObject) -> None:
        """State is kept in the context: one sampler can serve two generations alternately."""
        generation = self.generation(steps, data)
        other = Generation(generation.sampler, *steps[0].shape)
        undisturbed = Generation(generation.sampler, *steps[0].shape)
        for logits, elsewhere in zip(steps, reversed(steps), strict=True):
            other.step(elsewhere)
            same = torch.equal(generation.step(logits), undisturbed.step(logits))
            assert same, "another generation changed the result; keep state in context.state, not in the sampler or its class"

    def test_onnx_graph_gives_the_same_output(self, tmp_path: Path) -> None:
        """The traced graph agrees with Python for other logits, batch sizes and lengths; skipped if `traceable` is False."""
        if not self.sampler.traceable:
            pytest.skip(f"{self.sampler.__name__}.traceable is False")
        self.skip_if_random()
        try:
            run = onnx_graph(self.sampler(), tmp_path / "sampler.onnx")
        except Exception as error:  # torch raises many kinds
            reason = f"it may branch on values ({summary(innermost(error))[:150]})"
            fail(f"{self.sampler.__name__} cannot be traced into a graph: {reason}; set traceable = False")
        generator = torch.Generator().manual_seed(0)
        for rows, length in ((2, 12), (1, 9), (5, 30)):
            logits = torch.randn(rows, 50, generator=generator).mul(3).round(decimals=2)
            logits = logits.masked_fill(torch.rand(rows, 50, generator=generator) < 0.2, -INF)
            ids = torch.randint(6, (rows, length), generator=generator)
            same = same_distribution(run(logits, ids), self.sampler()(logits, SamplingContext(ids, prompt_length=1)))
            assert same, (
                f"the graph gave another result for {rows} rows of {length} ids; avoid branches, or set traceable = False"
            )

    def generation(self, steps: list[Tensor], data: st.DataObject) -> Generation:
        """Return a generation with one of the sampler's variants. Skip random samplers, which another test reports."""
        self.skip_if_random()
        return Generation(data.draw(st.sampled_from(list(variants(self.sampler)))), *steps[0].shape)

    def skip_if_random(self) -> None:
        """Skip the test for a random sampler: its other failures would only follow from that."""
        if self.is_random():
            pytest.skip("the sampler uses random numbers, see test_output_is_deterministic")

    @classmethod
    @cache
    def is_random(cls) -> bool:
        """Return whether the sampler uses a global random generator: its seed changes the output."""
        logits = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
        for sampler in variants(cls.sampler):
            outputs = []
            for seed in (1, 1, 2):
                with seeded(seed) as is_used:
                    outputs.append(Generation(sampler, 2, 40).step(logits.clone()))
                    used = is_used()
            if used or (torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])):
                return True
        return False

    def run(self, steps: list[Tensor], data: st.DataObject) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the logits before and after the sampler for each step."""
        generation = self.generation(steps, data)
        for logits in steps:
            yield logits, generation.step(logits)


def fail(text: str) -> NoReturn:
    """Fail the test with one line, without a traceback."""
    pytest.fail(text, pytrace=False)


@contextmanager
def seeded(seed: int) -> Iterator[Callable[[], bool]]:
    """Seed the generators of torch, numpy and Python inside the block. The value returns whether torch's has been used."""
    before = torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # samplers may use it
    unused = torch.Generator().manual_seed(seed).get_state()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield lambda: not torch.equal(torch.random.get_rng_state(), unused)
    finally:
        torch.random.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def innermost(error: BaseException) -> BaseException:
    """Return the exception that caused others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def no_logging() -> Iterator[None]:
    """Suppress log messages: torch logs hundreds for each graph, which pytest would show after a failure."""
    before, trace = logging.root.manager.disable, logging.getLogger("torch.__trace")  # which ignores `logging.disable`
    logging.disable(logging.CRITICAL)
    trace.disabled = True
    try:
        yield
    finally:
        logging.disable(before)
        trace.disabled = False


def limits(field: FieldInfo) -> tuple[float, float]:
    """Return the smallest and largest value in a field's range; NaN for a missing bound."""
    low = high = math.nan
    whole = field.annotation is int
    for bound in field.metadata:
        if isinstance(bound, Ge):
            low = float(bound.ge)  # type: ignore[arg-type]  # the bounds of a number are numbers, here and below
        elif isinstance(bound, Gt):
            low = bound.gt + 1 if whole else math.nextafter(bound.gt, INF)  # type: ignore[operator, arg-type]
        elif isinstance(bound, Le):
            high = float(bound.le)  # type: ignore[arg-type]
        elif isinstance(bound, Lt):
            high = bound.lt - 1 if whole else math.nextafter(bound.lt, -INF)  # type: ignore[operator, arg-type]
    return low, high


def variants(cls: type[Sampler]) -> Iterator[Sampler]:
    """Yield the sampler with its default options, and with each number at both ends of its range."""
    yield cls()
    for name, field in cls.model_fields.items():
        if field.annotation in (int, float):
            for value in limits(field):
                if not math.isnan(value):
                    yield cls(**{name: value})


def check_invalid(cls: type[BaseModel], name: str, value: Any) -> None:
    """Check that an option's value raises a one-line error with the option's name."""
    with pytest.raises(SettingError, match=name) as caught:
        validate(cls, {name: str(value)}, strings=True)
    assert "\n" not in str(caught.value), "the message has more than one line"


def same_distribution(one: Tensor, other: Tensor) -> bool:
    """Return whether the same tokens remain with the same probabilities, up to rounding."""
    close = torch.allclose(one.softmax(dim=-1), other.softmax(dim=-1), rtol=0, atol=1e-6)
    return close and torch.equal(one == -INF, other == -INF)


class Traced(torch.nn.Module):
    """A sampler as a module with inputs logits and ids."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Run one step with a prompt of one token."""
        return self.sampler(logits, SamplingContext(ids, prompt_length=1)).clone()  # a graph must not return its input


def onnx_graph(sampler: Sampler, path: Path, width: int = 50) -> Callable[[Tensor, Tensor], Tensor]:
    """Export a sampler to ONNX; return a function of logits (B, width) and ids (B, T) that runs it in onnxruntime."""
    import onnxruntime

    example = (torch.randn(2, width), torch.randint(width, (2, 12)))
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=8)
    with warnings.catch_warnings(), no_logging():
        warnings.simplefilter("ignore")  # from libraries
        program = torch.onnx.export(
            Traced(sampler).eval(),
            example,
            dynamo=True,
            dynamic_shapes={"logits": {0: batch}, "ids": {0: batch, 1: time}},
            verbose=False,
        )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}  # without the ids, if the sampler does not use them

    def run(logits: Tensor, ids: Tensor) -> Tensor:
        inputs = {"logits": logits.numpy(), "ids": ids.numpy()}
        return torch.from_numpy(session.run(None, {name: inputs[name] for name in names})[0])

    return run
