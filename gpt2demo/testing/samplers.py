"""What every sampler keeps to, as a class of tests."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo
from torch import Tensor

from gpt2demo.config import validate
from gpt2demo.errors import SettingError
from gpt2demo.interfaces import Sampler, SamplingContext

INF = math.inf
SCALES = (0.0, 1e-6, 0.1, 1.0, 5.0, 100.0, 1e4, 1e30, 3e38)
STEPS = 4  # tokens that a test generates, for samplers with a state

many = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


@st.composite
def steps(draw: st.DrawFn) -> list[Tensor]:
    """The logits (B, V) of some steps: flat and steep, huge, with ties, with almost all tokens ruled out or all but one."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows, width = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 7, 64, 300]))
    return [_logits(draw, generator, rows, width) for _ in range(STEPS)]


def _logits(draw: st.DrawFn, generator: torch.Generator, rows: int, width: int) -> Tensor:
    scales = torch.tensor([[draw(st.sampled_from(SCALES))] for _ in range(rows)])
    logits = torch.rand(rows, width, generator=generator).mul(2).sub(1).mul(scales)
    if draw(st.booleans()):
        logits = logits.round()
    ruled_out = torch.rand(rows, width, generator=generator) < draw(st.sampled_from([0.0, 0.0, 0.5, 0.95, 1.0]))
    survivor = torch.randint(width, (rows, 1), generator=generator)
    return logits.masked_fill(ruled_out.scatter(-1, survivor, False), -INF)


class Generation:
    """A generation without a model: it is shown logits, runs the sampler, and takes the likeliest token."""

    def __init__(self, sampler: Sampler, rows: int, width: int) -> None:
        self.sampler = sampler
        prompt = torch.arange(5).remainder(width).expand(rows, 5)
        self.context = SamplingContext(prompt, prompt_length=5)

    def step(self, logits: Tensor) -> Tensor:
        """One token; gives what the sampler made of the logits."""
        result = self.sampler(logits, self.context)
        taken = result.argmax(dim=-1)
        self.sampler.observe(taken, self.context)
        self.context.ids = torch.cat([self.context.ids, taken.unsqueeze(-1)], dim=-1)
        return result


class SamplerContract:
    """Give a subclass the sampler; its tests are then the contract of `gpt2demo.interfaces.Sampler`.

    Each test runs with the default options and with each option at both ends of its range.

    Attributes:
        sampler: the class under test.
    """

    sampler: ClassVar[type[Sampler]]

    def test_options_have_a_description_a_range_and_a_default(self) -> None:
        """The command line and the web page are made from them."""
        assert issubclass(self.sampler, Sampler)
        self.sampler()
        for name, field in self.sampler.model_fields.items():
            assert field.description, f"{name} has no description"
            if field.annotation in (int, float):
                low, high = limits(field)
                assert low < high, f"{name} needs a range: ge or gt, and le or lt"

    def test_options_out_of_range_are_refused_by_name(self) -> None:
        """Numbers outside, NaN, infinities, truth values, text, and names that are unknown."""
        for name, field in self.sampler.model_fields.items():
            if field.annotation in (int, float):
                low, high = limits(field)
                for value in (low - 1, high + 1, "nan", "inf", "-inf", "true", "many", ""):
                    refused(self.sampler, name, value)
        refused(self.sampler, "there_is_no_such_option", 1)

    def test_options_cannot_be_changed(self) -> None:
        """A sampler is one for its whole life."""
        assert self.sampler.model_config["frozen"]
        assert self.sampler.model_config["extra"] == "forbid"

    @many
    @given(shown=steps(), data=st.data())
    def test_what_comes_out_can_be_drawn_from(self, shown: list[Tensor], data: st.DataObject) -> None:
        """The same shape and type, no NaN, nothing infinite above, something left in every row."""
        for before, after in self.run(shown, data):
            assert after.shape == before.shape
            assert after.dtype == torch.float32
            assert after.amax(dim=-1).isfinite().all(), "a row has nothing left, NaN or +inf"

    @many
    @given(shown=steps(), data=st.data())
    def test_what_is_ruled_out_stays_ruled_out(self, shown: list[Tensor], data: st.DataObject) -> None:
        """Samplers narrow the choice; none brings back what one before it took away."""
        for before, after in self.run(shown, data):
            assert (after[before == -INF] == -INF).all()

    @many
    @given(shown=steps(), data=st.data())
    def test_inputs_are_not_changed(self, shown: list[Tensor], data: st.DataObject) -> None:
        """The logits that it is given belong to others, and so do the ids."""
        generation = self.generation(shown, data)
        for logits in shown:
            copies, ids = logits.clone(), generation.context.ids
            ids_before = ids.clone()
            generation.step(logits)
            assert torch.equal(logits, copies)
            assert torch.equal(ids, ids_before)

    @many
    @given(shown=steps(), data=st.data())
    def test_nothing_is_random(self, shown: list[Tensor], data: st.DataObject) -> None:
        """The draw comes after the chain: twice the same, and torch's generator is left alone."""
        generation, before = self.generation(shown, data), torch.random.get_rng_state()
        again = Generation(generation.sampler, *shown[0].shape)
        torch.manual_seed(1)
        first = [generation.step(logits) for logits in shown]
        torch.manual_seed(2)
        second = [again.step(logits) for logits in shown]
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
        unused = torch.Generator().manual_seed(2).get_state()
        assert torch.equal(torch.random.get_rng_state(), unused), "it took random numbers"
        torch.random.set_rng_state(before)

    @many
    @given(shown=steps(), data=st.data())
    def test_a_row_does_not_know_its_batch(self, shown: list[Tensor], data: st.DataObject) -> None:
        """Each row alone gives what it gives in the batch; its history is its own."""
        generation = self.generation(shown, data)
        alone = [Generation(generation.sampler, 1, shown[0].shape[1]) for _ in shown[0]]
        for logits in shown:
            together = generation.step(logits)
            single = torch.cat([one.step(logits[row : row + 1]) for row, one in enumerate(alone)])
            assert same_choice(together, single)

    @many
    @given(shown=steps(), data=st.data())
    def test_two_generations_do_not_meet(self, shown: list[Tensor], data: st.DataObject) -> None:
        """What it remembers it keeps in the context: one sampler serves two generations by turns."""
        generation = self.generation(shown, data)
        other = Generation(generation.sampler, *shown[0].shape)
        undisturbed = Generation(generation.sampler, *shown[0].shape)
        for logits, elsewhere in zip(shown, reversed(shown), strict=True):
            other.step(elsewhere)
            assert torch.equal(generation.step(logits), undisturbed.step(logits))

    def test_it_can_be_traced_into_onnx_or_says_that_it_cannot(self, tmp_path: Path) -> None:
        """The graph gives what Python gives, for other logits, another batch size and a longer text than it was traced with."""
        if not self.sampler.traceable:
            pytest.skip(f"{self.sampler.__name__} says that it cannot be traced")
        run = onnx_graph(self.sampler(), tmp_path / "sampler.onnx")
        generator = torch.Generator().manual_seed(0)
        for rows, length in ((2, 12), (1, 9), (5, 30)):
            logits = torch.randn(rows, 50, generator=generator).mul(3).round(decimals=2)
            logits = logits.masked_fill(torch.rand(rows, 50, generator=generator) < 0.2, -INF)
            ids = torch.randint(6, (rows, length), generator=generator)
            assert same_choice(run(logits, ids), self.sampler()(logits, SamplingContext(ids, prompt_length=1)))

    def generation(self, shown: list[Tensor], data: st.DataObject) -> Generation:
        """A generation with one of the sampler's variants."""
        return Generation(data.draw(st.sampled_from(list(variants(self.sampler)))), *shown[0].shape)

    def run(self, shown: list[Tensor], data: st.DataObject) -> Iterator[tuple[Tensor, Tensor]]:
        """The logits before and after the sampler, step by step."""
        generation = self.generation(shown, data)
        for logits in shown:
            yield logits, generation.step(logits)


def limits(field: FieldInfo) -> tuple[float, float]:
    """The smallest and the largest value in a number's range, just inside where an end is left out; NaN without a range."""
    low = high = math.nan
    whole = field.annotation is int
    for bound in field.metadata:
        if isinstance(bound, Ge):
            low = float(bound.ge)  # type: ignore[arg-type]  # a number's bounds are numbers, here and below
        elif isinstance(bound, Gt):
            low = bound.gt + 1 if whole else math.nextafter(bound.gt, INF)  # type: ignore[operator, arg-type]
        elif isinstance(bound, Le):
            high = float(bound.le)  # type: ignore[arg-type]
        elif isinstance(bound, Lt):
            high = bound.lt - 1 if whole else math.nextafter(bound.lt, -INF)  # type: ignore[operator, arg-type]
    return low, high


def variants(cls: type[Sampler]) -> Iterator[Sampler]:
    """The sampler with its default options, and with each number at the ends of its range."""
    yield cls()
    for name, field in cls.model_fields.items():
        if field.annotation in (int, float):
            for value in limits(field):
                yield cls(**{name: value})


def refused(cls: type[Sampler], name: str, value: Any) -> None:
    """An option's value is refused in one line that names it, as a number and as text."""
    with pytest.raises(SettingError, match=name) as caught:
        validate(cls, {name: str(value)}, strings=True)
    assert "\n" not in str(caught.value)


def same_choice(one: Tensor, other: Tensor) -> bool:
    """The same survivors with the same probabilities, but for rounding."""
    close = torch.allclose(one.softmax(dim=-1), other.softmax(dim=-1), rtol=0, atol=1e-6)
    return close and torch.equal(one == -INF, other == -INF)


class Traced(torch.nn.Module):
    """A sampler as a module of logits and ids."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, logits: Tensor, ids: Tensor) -> Tensor:
        """One step; the prompt is one token long."""
        return self.sampler(logits, SamplingContext(ids, prompt_length=1))


def onnx_graph(sampler: Sampler, path: Path, width: int = 50) -> Callable[[Tensor, Tensor], Tensor]:
    """A sampler as an ONNX graph: a function of logits (B, width) and ids (B, T) that onnxruntime computes."""
    import onnxruntime

    example = (torch.randn(2, width), torch.randint(width, (2, 12)))
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about themselves
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
    names = [given.name for given in session.get_inputs()]

    def run(logits: Tensor, ids: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(("logits", "ids"), (logits, ids), strict=True) if name in names}
        return torch.from_numpy(session.run(None, given)[0])

    return run
