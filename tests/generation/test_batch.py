"""Batches: each row is the text that its prompt would have alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from samples import decided_model

from gpt2demo import plugins
from gpt2demo.config import ModelConfig
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import Error, SettingError
from gpt2demo.generation.generate import Generation, Model
from gpt2demo.generation.load import load
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.model import GPT2
from gpt2demo.tokenization.byte import ByteTokenizer

CONTEXT = 16


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(decided_model(CONTEXT))


@pytest.mark.parametrize("filler", [0, 255])
def test_a_padded_row_has_the_logits_of_its_text_alone(engine: TorchEngine, filler: int) -> None:
    """In the first pass, in a later pass over several positions and in single steps; with any ids as padding."""
    ids = np.random.default_rng(0).integers(0, 256, (3, 9))
    padding = np.array([0, 2, 4])
    for row, count in enumerate(padding):
        ids[row, :count] = filler
    engine.reset()
    found = [engine.feed(ids[:, :5], padding), *(engine.feed(ids[:, a:b]) for a, b in ((5, 7), (7, 8), (8, 9)))]
    for row, count in enumerate(padding):
        alone = engine.logits(ids[row : row + 1, count:])[0]
        for logits, end in zip(found, (5, 7, 8, 9), strict=True):
            np.testing.assert_allclose(logits[row], alone[end - count - 1], atol=2e-5)


def test_a_reset_clears_the_padding(engine: TorchEngine) -> None:
    ids = np.arange(8).reshape(2, 4)
    engine.reset()
    plain = engine.feed(ids)
    engine.reset()
    assert not np.allclose(engine.feed(ids, np.array([1, 2])), plain)
    engine.reset()
    np.testing.assert_array_equal(engine.feed(ids), plain)


def test_padding_after_the_first_ids_is_refused(engine: TorchEngine) -> None:
    engine.reset()
    engine.feed(np.zeros((1, 4), np.int64))
    with pytest.raises(SettingError, match="padding after 4 positions"):
        engine.feed(np.zeros((1, 4), np.int64), np.array([1]))


# ---------------------------------------------------------------------------------------------- texts


PROMPTS = ["Once", "The quick brown fox", "", "Zoë", "a prompt that is longer than the context of the model"]
SETTINGS = {"max_new_tokens": 45, "seed": 7}
CHAINS = {
    "greedy": ("temperature:value=0",),
    "default": (),
    "with penalties": ("repetition-penalty:penalty=1.5", "no-repeat-ngram:size=2", "frequency-penalty", "top-k:k=9"),
    "with a state": ("stateful", "temperature:value=2"),
}


class Stateful(Sampler):
    """A temperature that grows with the observed ids of the row."""

    traceable = False

    def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
        return logits / (1 + context.state.get("seen", torch.zeros(len(logits), 1)))

    def observe(self, ids: torch.Tensor, context: SamplingContext) -> None:
        context.state["seen"] = context.state.get("seen", 0) + ids[:, None] / 1000


@pytest.fixture(autouse=True)
def _stateful_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the stateful sampler."""
    create = plugins.create_sampler
    monkeypatch.setattr(plugins, "create_sampler", lambda spec: Stateful() if spec == "stateful" else create(spec))


@pytest.fixture(scope="module")
def model(engine: TorchEngine) -> Model:
    return Model(engine, ByteTokenizer(), "test", Path())


def alone(model: Model, prompt: str, row: int = 0, **settings: object) -> Generation:
    """Return the finished generation for a single prompt."""
    generation = model.generate(prompt, row=row, **{**SETTINGS, **settings})
    assert "".join(generation) == generation.text
    return generation


@pytest.mark.parametrize("name", CHAINS)
def test_each_text_of_a_batch_is_that_of_its_prompt_alone(model: Model, name: str) -> None:
    """With prompts of several lengths, and past the context length of 16 three times."""
    batch = model.generate_batch(PROMPTS, samplers=CHAINS[name], **SETTINGS)
    for prompt, found in zip(PROMPTS, batch, strict=True):
        expected = alone(model, prompt, samplers=CHAINS[name])
        assert (found.ids, found.text, found.reason) == (expected.ids, expected.text, expected.reason)
        assert found.rereads == expected.rereads
        assert len(found.rereads) >= 3
    assert len({tuple(text.ids) for text in batch}) >= 4, "texts of equal length may become the same"


@pytest.mark.parametrize("name", ["default", "with a state"])
def test_samples_of_a_prompt_differ_and_each_can_be_generated_alone(model: Model, name: str) -> None:
    batch = model.generate_batch(["Once", "The quick"], samples=3, samplers=CHAINS[name], **SETTINGS)
    assert [(bytes(text.prompt), text.row) for text in batch] == [(p, row) for p in (b"Once", b"The quick") for row in range(3)]
    assert len({tuple(text.ids) for text in batch}) == 6
    for text in batch:
        assert text.ids == alone(model, bytes(text.prompt).decode(), text.row, samplers=CHAINS[name]).ids


def test_a_text_that_has_ended_does_not_change_the_others(model: Model) -> None:
    """It may end in any window."""
    texts = [alone(model, prompt) for prompt in PROMPTS]
    for end in (0, 5, 17, 40):
        stop = texts[0].ids[end]
        batch = model.generate_batch(PROMPTS, stop_tokens=[stop], **SETTINGS)
        for found, whole in zip(batch, texts, strict=True):
            length = whole.ids.index(stop) + 1 if stop in whole.ids else len(whole.ids)
            assert (found.ids, found.reason) == (whole.ids[:length], "stop" if stop in whole.ids else "length")


def test_a_row_that_has_ended_is_not_read_again() -> None:
    fed: list[int] = []

    class Counting(TorchEngine):
        def feed(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
            fed.append(len(ids))
            return super().feed(ids, padding)

    torch.manual_seed(0)
    model = Model(Counting(GPT2(ModelConfig(n_positions=8, n_embd=16, n_head=2, n_layer=1))), ByteTokenizer(), "test", Path())
    first = [text.ids[0] for text in model.generate_batch(["a"], samples=2, seed=0, max_new_tokens=1)]
    assert first[0] != first[1]
    fed.clear()
    texts = model.generate_batch(["a"], samples=2, seed=0, max_new_tokens=10, stop_tokens=[first[0]])
    assert [text.reason for text in texts] == ["stop", "length"]
    assert fed == [2] * 8 + [1] * 2
    fed.clear()
    model.generate_batch(["a"], samples=2, seed=0, max_new_tokens=10, stop_tokens=first)
    assert fed == [2], "the loop ends when all rows have ended"


class Recording(Sampler):
    """Records the prompts of each call."""

    prompts: ClassVar[list[list[list[int]]]] = []

    def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
        assert logits.shape[0] == context.ids.shape[0]
        self.prompts.append(context.ids[:, : context.prompt_length].tolist())
        return logits


def test_samplers_are_called_once_for_texts_of_equal_length_and_without_padding(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "create_sampler", lambda spec: Recording())
    Recording.prompts.clear()
    model.generate_batch(["ab", "xyz", "cd"], max_new_tokens=1, seed=0, samplers=["recording"])
    assert Recording.prompts == [[list(b"ab"), list(b"cd")], [list(b"xyz")]]


def test_an_exported_model_generates_the_same_batch(tiny_checkpoint: Path, tiny_export: Path) -> None:
    """With prompts of several lengths, past the context length."""
    prompts = ["Line 1", "the quick brown fox jumps over 3 lazy dogs", ""]
    settings = {"seed": 2, "samples": 2, "max_new_tokens": 60, "samplers": ("top-k:k=20", "repetition-penalty:penalty=1.2")}
    original, exported = (
        [(text.ids, text.rereads) for text in load(folder, device="cpu").generate_batch(prompts, **settings)]
        for folder in (tiny_checkpoint, tiny_export)
    )
    assert original == exported
    assert all(rereads for _, rereads in original)


def test_a_batch_may_be_empty(model: Model) -> None:
    assert model.generate_batch([]) == []
    assert [text.text for text in model.generate_batch(["a", "b"], max_new_tokens=0)] == ["", ""]


def test_generate_returns_one_text(model: Model) -> None:
    with pytest.raises(SettingError, match=r"samples=2: .*generate_batch"):
        model.generate("a", samples=2)


def test_too_little_memory_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU torch raises a RuntimeError."""

    def fail(*args: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("gpt2demo.engines.torch.KeyValueCache", fail)
    model = Model(TorchEngine(decided_model(CONTEXT)), ByteTokenizer(), "m", Path("m"))
    with pytest.raises(
        Error, match="out of memory with a batch of 6 texts with up to 16 positions; try fewer samples or prompts"
    ):
        model.generate_batch(["a", "b"], samples=3)
