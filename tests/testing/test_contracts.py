"""The contract tests detect broken parts: each class here violates the contract in one place."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from pydantic import Field
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.errors import TokenizerError
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.testing import KINDS, SamplerContract, TokenizerContract, test_registered
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.tokenization.char import CharTokenizer

INF = float("inf")


def contract_tests(contract: type, words: str) -> list[str]:
    """Return the names of a contract's tests that contain some words."""
    return [name for name in dir(contract) if name.startswith("test_") and words in name]


def failures(contract: type, tests: list[str], tmp_path: Path) -> set[str]:
    """Call tests of a contract like pytest does, and return the names of those that fail."""
    failed = set()
    for name in tests:
        test = getattr(contract(), name)
        arguments: dict[str, Any] = {}
        if "tmp_path" in test.__code__.co_varnames:
            arguments["tmp_path"] = tmp_path / name
            arguments["tmp_path"].mkdir()
        if name == "test_long_repetitions_are_encoded_quickly":
            arguments = {"run": "a", "record_property": lambda name, value: None}
        try:
            test(**arguments)
        except pytest.skip.Exception:
            continue
        except (Exception, pytest.fail.Exception):
            failed.add(name)
    return failed


class ValidTokenizer(ByteTokenizer):
    """Fulfils the contract, and has a file."""

    def save(self, folder: Path) -> None:
        (folder / "file").write_text("valid")

    @classmethod
    def load(cls, folder: Path) -> Self:
        if not (folder / "file").exists():
            raise TokenizerError(f"{folder / 'file'}: missing")
        return cls()


class LosesLineEnds(ValidTokenizer):
    """Replaces \\r\\n."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("\r\n", "\n"))

    encode_array = None  # type: ignore[assignment]


class ReplacesSurrogates(ValidTokenizer):
    """Encodes a lone surrogate as a question mark."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.encode(errors="replace").decode())

    encode_array = None  # type: ignore[assignment]


class IdsOutOfRange(ValidTokenizer):
    vocab_size = 200


class EncodesItsEnd(ValidTokenizer):
    """Its end-of-text id is also a line break."""

    eos_id = 10


class Nondeterministic(ValidTokenizer):
    """Returns different ids on the second call."""

    calls = 0

    def encode(self, text: str) -> list[int]:
        type(self).calls += 1
        return [*super().encode(text), *[32] * (self.calls % 2)]

    encode_array = None  # type: ignore[assignment]


class OtherArray(ValidTokenizer):
    """Its array differs from its list."""

    def encode_array(self, text: str) -> Any:
        return super().encode_array(text)[::-1]


class AcceptsAnyId(ValidTokenizer):
    """Decodes ids that are out of range."""

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode([index % 256 for index in ids])


class DecodesUnstably(ValidTokenizer):
    """Decodes the first ids differently if more follow."""

    def decode(self, ids: Sequence[int]) -> str:
        text = super().decode(ids)
        return text.upper() if len(ids) > 5 else text


class LoadsAnother(CharTokenizer):
    """Loads a tokenizer with other ids."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(super().load(folder).characters[::-1])


class RaisesOtherErrors(CharTokenizer):
    """Raises other errors than TokenizerError for a damaged file."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(json.loads((folder / "characters.json").read_text()))


@pytest.mark.parametrize(
    ("tokenizer", "violated"),
    [
        (LosesLineEnds, "difficult_fragments_round_trip"),
        (ReplacesSurrogates, "lone_surrogates"),
        (IdsOutOfRange, "training_texts_round_trip"),
        (EncodesItsEnd, "training_texts_round_trip"),
        (Nondeterministic, "any_text_round_trips"),
        (OtherArray, "any_text_round_trips"),
        (AcceptsAnyId, "ids_out_of_range_raise"),
        (DecodesUnstably, "streaming_of_any_ids"),
        (LoadsAnother, "save_and_load"),
        (RaisesOtherErrors, "damaged_files"),
    ],
)
def test_a_broken_tokenizer_fails(tokenizer: type, violated: str, tmp_path: Path) -> None:
    (test,) = contract_tests(TokenizerContract, violated)
    assert failures(type("TestBroken", (TokenizerContract,), {"tokenizer": tokenizer}), [test], tmp_path) == {test}


class ValidSampler(Sampler):
    """Fulfils the contract."""

    threshold: float = Field(1.0, ge=0, le=10, description="distance below the best token")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - self.threshold, -INF)


class ModifiesLogits(ValidSampler):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.masked_fill_(logits < logits.amax(-1, keepdim=True), -INF)


class RestoresTokens(ValidSampler):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.clamp(min=-1e4)


class ExcludesAll(ValidSampler):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits.masked_fill(logits.softmax(-1) < 0.5, -INF)


class Overflows(ValidSampler):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits * 100


class ReturnsFloat64(ValidSampler):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return super().__call__(logits, context).double()


class IsRandom(ValidSampler):
    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits + torch.rand_like(logits) * 1e-3


class MixesRows(ValidSampler):
    """Uses the maximum over all rows."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        far = logits < logits.amax() - self.threshold
        return logits.masked_fill(far & (logits < logits.amax(-1, keepdim=True)), -INF)


class SharesState(ValidSampler):
    """Keeps its state in the class instead of the context."""

    memory: ClassVar[list[Tensor]] = []

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits - 0.5 if len(self.memory) % 2 else logits

    def observe(self, ids: Tensor, context: SamplingContext) -> None:
        self.memory.append(ids)


class BranchesOnValues(ValidSampler):
    """Cannot be traced, but has `traceable = True`."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits if bool((logits > 1).any()) else logits * 2


class WithoutDescription(Sampler):
    threshold: float = Field(1.0, ge=0, le=10)

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits


class WithoutRange(Sampler):
    threshold: float = Field(1.0, ge=0, description="distance")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits


@pytest.mark.parametrize(
    ("sampler", "violated"),
    [
        (ModifiesLogits, "inputs_are_not_modified"),
        (RestoresTokens, "excluded_tokens_stay_excluded"),
        (ExcludesAll, "output_can_be_sampled"),
        (Overflows, "output_can_be_sampled"),
        (ReturnsFloat64, "output_can_be_sampled"),
        (IsRandom, "output_is_deterministic"),
        (MixesRows, "rows_are_independent"),
        (SharesState, "generations_are_independent"),
        (BranchesOnValues, "onnx_graph"),
        (WithoutDescription, "options_have_description"),
        (WithoutRange, "options_have_description"),
    ],
)
def test_a_broken_sampler_fails(sampler: type, violated: str, tmp_path: Path) -> None:
    (test,) = contract_tests(SamplerContract, violated)
    assert failures(type("TestBroken", (SamplerContract,), {"sampler": sampler}), [test], tmp_path) == {test}


class UsesPythonRandom(ValidSampler):
    """Random without torch's generator."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits + random.random() * 1e-3 * torch.arange(logits.shape[-1])


class ReturnsItsInput(ValidSampler):
    """Fulfils the contract and changes nothing."""

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        return logits


@pytest.mark.parametrize(
    ("sampler", "violated", "message"),
    [
        (IsRandom, "output_is_deterministic", "the sampler uses random numbers"),
        (UsesPythonRandom, "output_is_deterministic", "the sampler uses random numbers"),
        (BranchesOnValues, "onnx_graph", "BranchesOnValues cannot be traced into a graph: it may branch on values"),
    ],
)
def test_the_report_is_one_line(sampler: type, violated: str, message: str, tmp_path: Path) -> None:
    (test,) = contract_tests(SamplerContract, violated)
    case = type("TestBroken", (SamplerContract,), {"sampler": sampler})()
    with pytest.raises(pytest.fail.Exception, match=message) as caught:
        getattr(case, test)(*([tmp_path] if violated == "onnx_graph" else []))
    assert "\n" not in str(caught.value)
    assert not caught.value.pytrace


@pytest.mark.parametrize(
    ("sampler", "violated"), [(WithoutRange, "options_have_description"), (IsRandom, "output_is_deterministic")]
)
def test_one_fault_is_one_failure(sampler: type, violated: str, tmp_path: Path) -> None:
    contract = type("TestBroken", (SamplerContract,), {"sampler": sampler})
    failed = failures(contract, contract_tests(SamplerContract, ""), tmp_path)
    assert failed == set(contract_tests(SamplerContract, violated))


@pytest.mark.parametrize(
    ("contract", "attributes"),
    [
        (TokenizerContract, {"tokenizer": ValidTokenizer}),
        (SamplerContract, {"sampler": ValidSampler}),
        (SamplerContract, {"sampler": ReturnsItsInput}),
    ],
)
def test_a_valid_part_passes(contract: type, attributes: dict[str, type], tmp_path: Path) -> None:
    assert failures(type("TestValid", (contract,), attributes), contract_tests(contract, ""), tmp_path) == set()


def test_all_installed_parts_have_a_test_class() -> None:
    classes = {name for name in vars(test_registered) if name.startswith("Test")}
    assert {"TestByte", "TestBpe", "TestTopK", "TestNoRepeatNgram"} <= classes
    assert {"TestTalesDataset", "TestOnnxExporter", "TestHuggingfaceExporter", "TestAdamwOptimizer"} <= classes
    assert len(classes) == sum(len(plugins.registry().parts(kind)) for kind in KINDS)


@pytest.mark.slow
def test_pytest_collects_all_installed_parts_in_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--pyargs", "gpt2demo.testing", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    collected = set(re.findall(r"::(Test\w+)::", done.stdout))
    assert collected == {name for name in vars(test_registered) if name.startswith("Test")}
