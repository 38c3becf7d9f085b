"""Generation: seeds, the context limit, streaming, stops, and invalid settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from samples import decided_model

from gpt2demo.config import DEFAULT_CHAIN, GenerateConfig
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import PluginError, SettingError
from gpt2demo.generation.generate import Generation, Model
from gpt2demo.tokenization.byte import ByteTokenizer

CONTEXT = 16


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(TorchEngine(decided_model(CONTEXT)), ByteTokenizer(), "test", Path())


class ScriptedEngine:
    """An engine whose greedy text is given, whatever it reads."""

    name = provider = "scripted"
    vocab_size = 256

    def __init__(self, text: bytes, n_positions: int = 1000) -> None:
        self.text, self.n_positions, self.length = text, n_positions, 0
        self.fed: list[list[int]] = []

    def reset(self) -> None:
        self.length = 0

    def feed(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
        self.fed.append(ids[0].tolist())
        self.length += ids.shape[1]
        logits = np.zeros((1, 256), np.float32)
        logits[0, self.text[(len(self.fed) - 1) % len(self.text)]] = 100
        return logits

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        raise AssertionError("generation must only request the last position")


def generation_of(text: str | bytes, **settings: object) -> Generation:
    """Return a generation of a given text."""
    raw = text.encode() if isinstance(text, str) else text
    config = GenerateConfig.create(**{"max_new_tokens": len(raw), "temperature": 0, **settings})
    return Generation(ScriptedEngine(raw), ByteTokenizer(), [1], config)


def test_the_same_seed_gives_the_same_text(model: Model) -> None:
    texts = ["".join(model.generate("Once", max_new_tokens=40, seed=seed)) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_a_random_seed_is_reported(model: Model) -> None:
    generation = model.generate("Once", max_new_tokens=20)
    text = "".join(generation)
    assert "".join(model.generate("Once", max_new_tokens=20, seed=generation.seed)) == text


def test_greedy_tokens_are_the_same_with_and_without_a_cache(model: Model) -> None:
    """Also past the context length, where the older half of the window is dropped and the newer half is read again."""
    generation = model.generate("Once", max_new_tokens=60, temperature=0)
    list(generation)
    ids, start = list(b"Once"), 0
    for _ in range(60):
        if len(ids) - start > CONTEXT:
            start = len(ids) - CONTEXT // 2
        window = torch.tensor([ids[start:]])
        ids.append(int(model.engine.model(window)[0, -1].argmax()))  # type: ignore[attr-defined]
    assert generation.ids == ids[4:]
    assert len(set(generation.ids)) > 5


def test_only_the_end_of_a_long_prompt_is_read(model: Model) -> None:
    long, end = "abcdefgh" * 100 + "The quick brown ", "The quick brown "
    generation = model.generate(long, max_new_tokens=1, temperature=0)
    list(generation)
    assert generation.dropped == 800
    short = model.generate(end, max_new_tokens=1, temperature=0)
    list(short)
    assert generation.ids == short.ids


def test_only_new_tokens_are_read() -> None:
    engine = ScriptedEngine(b"abcdefghij", n_positions=4)
    list(Generation(engine, ByteTokenizer(), [1, 2], GenerateConfig(max_new_tokens=6, temperature=0)))
    a, b, c, d, e = b"abcde"
    assert engine.fed == [[1, 2], [a], [b], [b, c], [d], [e]]


def test_a_note_reports_when_the_context_was_full() -> None:
    engine = ScriptedEngine(b"abcdefghij", n_positions=4)
    generation = Generation(engine, ByteTokenizer(), [1, 2], GenerateConfig(max_new_tokens=9, temperature=0))
    assert "".join(generation) == "abcdefghi"
    assert engine.fed[3::3] == [list(b"bc"), list(b"ef")]
    assert generation.rereads == [3, 6]
    assert generation.notes == [
        "the context of 4 tokens was full after 3 new ones: the older half was dropped and the newer half read again, 2 times"
    ]
    assert generation_of("abc").notes == []


def test_an_empty_prompt_starts_a_document(model: Model) -> None:
    assert model.prompt_ids("") == [10]


@pytest.mark.parametrize("text", ["plain", "Zoë 🙂 👩‍👩‍👧 한국어 עברית", "\r\n\ttabs"])
def test_pieces_are_whole_characters_and_join_to_the_text(text: str) -> None:
    pieces = list(generation_of(text))
    assert "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


def test_an_incomplete_character_at_the_end_is_replaced() -> None:
    assert "".join(generation_of("ab🙂".encode()[:-1])) == "ab\N{REPLACEMENT CHARACTER}"
    assert "".join(generation_of(b"a\xffb")) == "a\N{REPLACEMENT CHARACTER}b"


def test_a_text_ends_before_a_stop_text_and_contains_no_part_of_it() -> None:
    generation = generation_of("one END two", stop=["END"])
    assert "".join(generation) == "one "
    assert generation.reason == "stop"
    assert "".join(generation_of("one EN", stop=["END"])) == "one EN"
    assert "".join(generation_of("aab", stop=["ab", "b"])) == "a"


def test_a_text_ends_before_a_stop_token() -> None:
    for token in (ord("c"), str(ord("c")), "c"):
        generation = generation_of("abcabc", stop_tokens=["z", token])
        assert ("".join(generation), generation.ids, generation.reason) == ("ab", list(b"abc"), "stop")
    assert "".join(generation_of("7 of 55", stop_tokens=["55"])) == "", "digits are an id, here that of 7"


def test_text_that_was_held_back_is_returned_at_a_stop_token() -> None:
    assert "".join(generation_of("one ENd", stop=["END"], stop_tokens=["d"])) == "one EN"


class ByteTokenizerWithEnd(ByteTokenizer):
    """A byte tokenizer with an end-of-text id."""

    eos_id = 255


def test_the_end_of_text_id_ends_a_text_also_if_it_is_a_stop_token() -> None:
    config = GenerateConfig(max_new_tokens=9, temperature=0, stop_tokens=("b", 255))
    generation = Generation(ScriptedEngine(b"a\xffb"), ByteTokenizerWithEnd(), [1], config)
    assert ("".join(generation), generation.reason) == ("a", "end")


def test_a_text_ends_at_its_maximum_length(model: Model) -> None:
    generation = model.generate("a", max_new_tokens=5, temperature=0)
    assert "".join(generation) == generation.text
    assert (generation.reason, len(generation.ids)) == ("length", 5)
    assert list(model.generate("a", max_new_tokens=0)) == []


def test_the_chain_consists_of_the_given_samplers_or_is_the_default() -> None:
    assert GenerateConfig().chain == DEFAULT_CHAIN
    assert GenerateConfig(samplers=("top-k:k=3", "temperature:value=2")).chain == ("top-k:k=3", "temperature:value=2")
    assert GenerateConfig(temperature=0.5, top_p=0.9).chain == ("temperature:value=0.5", "top-p:p=0.9")
    assert GenerateConfig(top_k=5, samplers=("top-p:p=0.5",)).chain == ("top-k:k=5", "top-p:p=0.5")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"temperature": -1}, SettingError, "temperature=.*greater than or equal to 0"),
        ({"temperature": float("nan")}, SettingError, "temperature='nan'.*finite"),
        ({"top_p": 0}, SettingError, "top_p=.*greater than 0"),
        ({"top_p": 1.5}, SettingError, "top_p="),
        ({"top_k": 0}, SettingError, "top_k="),
        ({"max_new_tokens": -1}, SettingError, "max_new_tokens="),
        ({"stop": ["", "x"]}, SettingError, "must not be empty"),
        ({"stop_tokens": [256]}, SettingError, "stop_tokens=256: unknown token; use an id from 0 to 255"),
        ({"stop_tokens": ["ab"]}, SettingError, "stop_tokens='ab': unknown token"),
        ({"samples": 0}, SettingError, "samples=.*greater than or equal to 1"),
        ({"logprobs": -1}, SettingError, "logprobs="),
        ({"samplers": ["nope"]}, PluginError, "unknown sampler 'nope'; available: .*temperature"),
        ({"samplers": ["top-p:q=1"]}, SettingError, "'top-p': q: unknown setting"),
        ({"samplers": ["top-k:k=1e9"]}, SettingError, "'top-k': k="),
        ({"samplers": ["top-k:k"]}, SettingError, "NAME:key=value"),
        ({"frobnicate": 1}, SettingError, "frobnicate: unknown setting"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line(
    model: Model, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        model.generate("a", **settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [0, 1e-45, 1e-10, 1.0, 1e6])
def test_extreme_temperatures_are_valid(model: Model, value: float) -> None:
    generation = model.generate("a", max_new_tokens=3, temperature=value, seed=0)
    list(generation)
    assert len(generation.ids) == 3


def test_a_generation_can_be_closed_early() -> None:
    generation = generation_of("abcdef")
    assert [next(generation), next(generation)] == ["a", "b"]
    generation.close()
    assert list(generation) == []
    assert (generation.text, generation.reason) == ("ab", None)


def test_a_generation_has_the_attributes_of_its_continuation(model: Model) -> None:
    """While it runs and when it has ended."""
    generation = model.generate("Once", max_new_tokens=30, seed=1, row=2, logprobs=1, explain=True)
    names = ["prompt", "ids", "text", "seed", "row", "reason", "dropped", "rereads", "logprobs", "explanations"]
    names += ["time_to_first_token_ms", "tokens_per_second", "notes"]
    for _ in generation:
        assert [getattr(generation, name) for name in names] == [getattr(generation.continuation, name) for name in names]
    assert (len(generation.ids), generation.reason) == (30, "length")
    assert len(generation.logprobs) == len(generation.explanations) == 30
    assert generation.rereads
