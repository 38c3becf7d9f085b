"""The kit finds what it is for: parts that break the contract in one place each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from pydantic import Field
from torch import Tensor

from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.testing import SamplerContract, TokenizerContract
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.tokenization.char import CharTokenizer

INF = float("inf")
TOKENIZER_TESTS = [name for name in dir(TokenizerContract) if name.startswith("test_")]
SAMPLER_TESTS = [name for name in dir(SamplerContract) if name.startswith("test_")]


def failures(contract: type, tests: list[str], tmp_path: Path) -> set[str]:
    """The tests of a contract class that fail, called as pytest calls them."""
    failed = set()
    for name in tests:
        given = {"tmp_path": tmp_path / name} if "tmp_path" in getattr(contract, name).__code__.co_varnames else {}
        (tmp_path / name).mkdir()
        if name == "test_a_megabyte_of_one_thing_takes_no_time":
            given = {"run": "a", "record_property": lambda name, value: None}
        try:
            getattr(contract(), name)(**given)
        except (Exception, pytest.fail.Exception):
            failed.add(name)
    return failed


class Fine(ByteTokenizer):
    """Keeps to everything, with a file of its own."""

    def save(self, folder: Path) -> None:
        (folder / "file").write_text("fine")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return CharTokenizer.load(folder) and cls() if not (folder / "file").exists() else cls()


class Forgetful(Fine):
    """Loses line ends."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("\r\n", "\n"))

    encode_array = None  # type: ignore[assignment]


class Replacing(Fine):
    """Makes question marks of what is no character."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.encode(errors="replace").decode())

    encode_array = None  # type: ignore[assignment]


class OutOfRange(Fine):
    vocab_size = 200


class Ending(Fine):
    """Text can produce its end."""

    eos_id = 10


class Counting(Fine):
    """Gives other ids the second time."""

    calls = 0

    def encode(self, text: str) -> list[int]:
        type(self).calls += 1
        return [*super().encode(text), *[32] * (self.calls % 2)]

    encode_array = None  # type: ignore[assignment]


class Odd(Fine):
    """Its array is not its list."""

    def encode_array(self, text: str) -> Any:
        return super().encode_array(text)[::-1]


class Lenient(Fine):
    """Takes any id for some byte."""

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode([index % 256 for index in ids])


class Wordy(Fine):
    """Decodes differently when more follows."""

    def decode(self, ids: Sequence[int]) -> str:
        text = super().decode(ids)
        return text.upper() if len(ids) > 5 else text


class Amnesiac(CharTokenizer):
    """Is another one after loading."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(super().load(folder).characters[::-1])


class Crashing(CharTokenizer):
    """Lets every error of a damaged file through."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(__import__("json").loads((folder / "characters.json").read_text()))


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (Forgetful, "round_trip"),
        (Replacing, "half_a_surrogate"),
        (OutOfRange, "training_texts_survive"),
        (Ending, "round_trip"),
        (Counting, "round_trip"),
        (Odd, "round_trip"),
        (Lenient, "out_of_range"),
        (Wordy, "streaming"),
        (Amnesiac, "save_and_load"),
        (Crashing, "damaged_files"),
    ],
)
def test_a_broken_tokenizer_is_found(tokenizer: type, expected: str, tmp_path: Path) -> None:
    found = failures(type("TestBroken", (TokenizerContract,), {"tokenizer": tokenizer}), TOKENIZER_TESTS, tmp_path)
    assert any(expected in name for name in found), found


class Narrow(Sampler):
    """Keeps to everything."""

    threshold: float = Field(1.0, ge=0, le=10, description="how far below the best")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - self.threshold, -INF)


class InPlace(Narrow):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.masked_fill_(logits < logits.amax(-1, keepdim=True), -INF)


class Reviving(Narrow):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.clamp(min=-1e4)


class Emptying(Narrow):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.masked_fill(logits.softmax(-1) < 0.5, -INF)


class Overflowing(Narrow):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits * 100


class Doubling(Narrow):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return super().__call__(logits, context).double()


class Drawing(Narrow):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits + torch.rand_like(logits) * 1e-3


class Averaging(Narrow):
    """Looks at the other rows."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        far = logits < logits.amax() - self.threshold
        return logits.masked_fill(far & (logits < logits.amax(-1, keepdim=True)), -INF)


class Shared(Narrow):
    """Keeps its state in the class."""

    memory: ClassVar[list[Tensor]] = []

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits - 0.5 if len(self.memory) % 2 else logits

    def observe(self, ids: Tensor, context: SamplingContext) -> None:
        self.memory.append(ids)


class Branching(Narrow):
    """Cannot be traced and does not say so."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits if bool((logits > 1).any()) else logits * 2


class Mute(Sampler):
    threshold: float = Field(1.0, ge=0, le=10)

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits


class Boundless(Sampler):
    threshold: float = Field(1.0, ge=0, description="how far")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (InPlace, "inputs_are_not_changed"),
        (Reviving, "stays_ruled_out"),
        (Emptying, "can_be_drawn_from"),
        (Overflowing, "can_be_drawn_from"),
        (Doubling, "can_be_drawn_from"),
        (Drawing, "nothing_is_random"),
        (Averaging, "does_not_know_its_batch"),
        (Shared, "two_generations"),
        (Branching, "traced_into_onnx"),
        (Mute, "have_a_description"),
        (Boundless, "have_a_description"),
    ],
)
def test_a_broken_sampler_is_found(sampler: type, expected: str, tmp_path: Path) -> None:
    tests = [name for name in SAMPLER_TESTS if expected in name]
    assert failures(type("TestBroken", (SamplerContract,), {"sampler": sampler}), tests, tmp_path) == set(tests) != set()


def test_parts_that_keep_to_the_contract_pass(tmp_path: Path) -> None:
    assert not failures(type("TestFine", (TokenizerContract,), {"tokenizer": Fine}), TOKENIZER_TESTS, tmp_path)
    assert not failures(type("TestNarrow", (SamplerContract,), {"sampler": Narrow}), SAMPLER_TESTS, tmp_path)


def test_it_runs_over_everything_installed(tmp_path: Path) -> None:
    """As `pytest --pyargs gpt2demo.testing` does, from any folder."""
    import subprocess
    import sys

    from gpt2demo import plugins

    command = [sys.executable, "-m", "pytest", "--pyargs", "gpt2demo.testing", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    classes = set(re.findall(r"::(Test\w+)::", done.stdout))
    assert len(classes) == len(plugins.tokenizers()) + len(plugins.samplers())
    assert {"TestByte", "TestBpe", "TestTopK", "TestNoRepeatNgram"} <= classes
