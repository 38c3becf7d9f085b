"""Generation: the same text for the same seed, never half a character, stops where it is told, and a defined end of the context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from samples import SMALL, decided_model

import gpt2demo
from gpt2demo.config import DEFAULT_CHAIN, GenerateConfig
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import PluginError, RunError, SettingError
from gpt2demo.generation.generate import Generation, Model
from gpt2demo.generation.streaming import StopText, StreamDecoder
from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.basic import TopK
from gpt2demo.sampling.draw import Chain, draw
from gpt2demo.tokenization.byte import ByteTokenizer

CONTEXT = 16


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(TorchEngine(decided_model(CONTEXT)), ByteTokenizer(), "test", Path())


class Script:
    """An engine that says what it is told, whatever it reads: for tests of the loop around it."""

    name = provider = "script"
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
        raise AssertionError("generation needs the last position alone")


def say(text: str | bytes, **settings: object) -> Generation:
    raw = text.encode() if isinstance(text, str) else text
    config = GenerateConfig.create(**{"max_new_tokens": len(raw), "temperature": 0, **settings})
    return Generation(Script(raw), ByteTokenizer(), [1], config)


def test_the_same_seed_gives_the_same_text(model: Model) -> None:
    texts = ["".join(model.generate("Once", max_new_tokens=40, seed=seed)) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_without_a_seed_it_says_which_it_took(model: Model) -> None:
    generation = model.generate("Once", max_new_tokens=20)
    text = "".join(generation)
    assert "".join(model.generate("Once", max_new_tokens=20, seed=generation.seed)) == text


def test_with_and_without_cache_the_same_greedy_tokens(model: Model) -> None:
    """Past the context too: the window's older half is dropped, the newer half is read again."""
    generation = model.generate("Once", max_new_tokens=60, temperature=0)
    list(generation)
    ids, start = list(b"Once"), 0
    for _ in range(60):
        if len(ids) - start > CONTEXT:
            start = len(ids) - CONTEXT // 2
        window = torch.tensor([ids[start:]])
        ids.append(int(model.engine.model(window)[0, -1].argmax()))  # type: ignore[attr-defined]
    assert generation.ids == ids[4:]
    assert len(set(generation.ids)) > 5, "a text that repeats one token would prove little"


def test_of_a_prompt_that_is_too_long_the_end_is_read(model: Model) -> None:
    long, end = "abcdefgh" * 100 + "The quick brown ", "The quick brown "
    generation = model.generate(long, max_new_tokens=1, temperature=0)
    list(generation)
    assert generation.dropped == 800
    short = model.generate(end, max_new_tokens=1, temperature=0)
    list(short)
    assert generation.ids == short.ids


def test_only_new_tokens_are_fed() -> None:
    engine = Script(b"abcdefghij", n_positions=4)
    list(Generation(engine, ByteTokenizer(), [1, 2], GenerateConfig(max_new_tokens=6, temperature=0)))
    a, b, c, d, e = b"abcde"
    assert engine.fed == [[1, 2], [a], [b], [b, c], [d], [e]]


def test_it_says_when_the_context_was_full_and_what_was_forgotten() -> None:
    engine = Script(b"abcdefghij", n_positions=4)
    generation = Generation(engine, ByteTokenizer(), [1, 2], GenerateConfig(max_new_tokens=9, temperature=0))
    assert "".join(generation) == "abcdefghi"
    assert engine.fed[3::3] == [list(b"bc"), list(b"ef")]
    assert generation.rereads == [3, 6]
    assert generation.notes == [
        "the context of 4 tokens was full after 3 new ones: its older half was forgotten and the newer half read again, 2 times"
    ]
    assert say("abc").notes == []


def test_an_empty_prompt_is_the_start_of_a_document(model: Model) -> None:
    assert model.prompt_ids("") == [10]


@pytest.mark.parametrize("text", ["plain", "Zoë 🙂 👩‍👩‍👧 한국어 עברית", "\r\n\ttabs"])
def test_pieces_are_whole_characters_and_join_to_the_text(text: str) -> None:
    pieces = list(say(text))
    assert "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


def test_an_incomplete_character_at_the_end_is_shown_as_such() -> None:
    assert "".join(say("ab🙂".encode()[:-1])) == "ab\N{REPLACEMENT CHARACTER}"
    assert "".join(say(b"a\xffb")) == "a\N{REPLACEMENT CHARACTER}b"


class Spaced:
    """A tokenizer of the kind that drops the space before a text's first word."""

    lossless = False
    vocab_size = 3
    eos_id = None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join([" one", " two", "!"][i] for i in ids).removeprefix(" ")


def test_streaming_decode_equals_decoding_at_once() -> None:
    decoder, ids = StreamDecoder(Spaced()), [0, 1, 2, 0, 0]  # type: ignore[arg-type]
    assert "".join([decoder.push(i) for i in ids] + [decoder.flush()]) == Spaced().decode(ids) == "one two! one one"


def test_it_stops_before_a_stop_text_and_never_shows_a_part_of_it() -> None:
    generation = say("one END two", stop=["END"])
    assert "".join(generation) == "one "
    assert generation.reason == "stop"
    assert "".join(say("one EN", stop=["END"])) == "one EN", "what was held back comes at the end"
    assert "".join(say("aab", stop=["ab", "b"])) == "a"


def test_it_ends_at_a_stop_token_which_is_not_shown() -> None:
    for token in (ord("c"), str(ord("c")), "c"):
        generation = say("abcabc", stop_tokens=["z", token])
        assert ("".join(generation), generation.ids, generation.reason) == ("ab", list(b"abc"), "stop")
    assert "".join(say("7 of 55", stop_tokens=["55"])) == "", "digits are an id: 55 is what the bytes call 7"


def test_text_that_is_held_back_comes_before_a_stop_token() -> None:
    assert "".join(say("one ENd", stop=["END"], stop_tokens=["d"])) == "one EN"


class Ending(ByteTokenizer):
    """Bytes, of which the last ends a document."""

    eos_id = 255


def test_the_end_of_a_document_ends_the_text_whatever_the_stop_tokens_are() -> None:
    config = GenerateConfig(max_new_tokens=9, temperature=0, stop_tokens=("b", 255))
    generation = Generation(Script(b"a\xffb"), Ending(), [1], config)
    assert ("".join(generation), generation.reason) == ("a", "end")


def test_stop_text_across_pieces() -> None:
    stops = StopText(["<end>"])
    assert [stops.push(piece) for piece in ("a<", "e", "x<en", "d>tail")] == ["a", "", "<ex", ""]
    assert stops.found


def test_the_reasons_to_end(model: Model) -> None:
    generation = model.generate("a", max_new_tokens=5, temperature=0)
    assert "".join(generation) == generation.text
    assert (generation.reason, len(generation.ids)) == ("length", 5)
    assert list(model.generate("a", max_new_tokens=0)) == []


def test_the_chain_is_what_is_given_else_the_default() -> None:
    assert GenerateConfig().chain == DEFAULT_CHAIN
    assert GenerateConfig(samplers=("top-k:k=3", "temperature:value=2")).chain == ("top-k:k=3", "temperature:value=2")
    assert GenerateConfig(temperature=0.5, top_p=0.9).chain == ("temperature:value=0.5", "top-p:p=0.9")
    assert GenerateConfig(top_k=5, samplers=("top-p:p=0.5",)).chain == ("top-k:k=5", "top-p:p=0.5")


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"temperature": -1}, SettingError, "temperature=.*greater than or equal to 0"),
        ({"temperature": float("nan")}, SettingError, "temperature='nan'.*finite"),
        ({"top_p": 0}, SettingError, "top_p=.*greater than 0"),
        ({"top_p": 1.5}, SettingError, "top_p="),
        ({"top_k": 0}, SettingError, "top_k="),
        ({"max_new_tokens": -1}, SettingError, "max_new_tokens="),
        ({"stop": ["", "x"]}, SettingError, "would stop at once"),
        ({"stop_tokens": [256]}, SettingError, "stop_tokens=256: there is no such token; give an id from 0 to 255"),
        ({"stop_tokens": ["ab"]}, SettingError, "stop_tokens='ab': there is no such token"),
        ({"samples": 0}, SettingError, "samples=.*greater than or equal to 1"),
        ({"logprobs": -1}, SettingError, "logprobs="),
        ({"samplers": ["nope"]}, PluginError, "'nope': there is none; there are .*temperature"),
        ({"samplers": ["top-p:q=1"]}, SettingError, "'top-p': q: there is no such setting"),
        ({"samplers": ["top-k:k=1e9"]}, SettingError, "'top-k': k="),
        ({"samplers": ["top-k:k"]}, SettingError, "NAME:key=value"),
        ({"frobnicate": 1}, SettingError, "frobnicate: there is no such setting"),
    ],
)
def test_a_setting_out_of_range_is_named(
    model: Model, settings: dict[str, object], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint) as raised:
        model.generate("a", **settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [0, 1e-45, 1e-10, 1.0, 1e6])
def test_extreme_temperatures_are_no_trouble(model: Model, value: float) -> None:
    assert len(model.generate("a", max_new_tokens=3, temperature=value, seed=0).prompt) == 1
    assert "".join(model.generate("a", max_new_tokens=3, temperature=value, seed=0)) is not None


class Broken(Sampler):
    """What a plugin may do wrong."""

    value: float = 0.0

    def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
        return logits * float("nan") if self.value else logits[:, :-1]


@pytest.mark.parametrize(("value", "complaint"), [(0.0, "gave shape"), (1.0, "NaN")])
def test_a_sampler_that_misbehaves_is_named(value: float, complaint: str) -> None:
    """Also in the middle of a chain."""
    chain = Chain([TopK(k=4), Broken(value=value), TopK(k=3)], seed=0, prompt_length=1)
    with pytest.raises(SettingError, match=f"sampler Broken.*{complaint}"):
        chain.draw(np.zeros((1, 5), np.float32), np.zeros((1, 1), np.int64), [0])


def test_logits_that_are_no_numbers_are_the_models_fault() -> None:
    chain = Chain([TopK(k=4)], seed=0, prompt_length=1)
    with pytest.raises(SettingError, match="the model's logits are NaN"):
        chain.draw(np.full((1, 5), np.nan, np.float32), np.zeros((1, 1), np.int64), [0])


def test_the_draw_follows_the_distribution_and_never_takes_what_is_ruled_out() -> None:
    logits = torch.tensor([[1.0, float("-inf"), 0.0, 2.0, float("-inf")]])
    drawn = torch.stack([draw(logits, 7, position) for position in range(20_000)])
    counts = torch.bincount(drawn.ravel(), minlength=5).double()
    expected = logits[0].double().softmax(0) * 20_000
    assert counts[1] == counts[4] == 0
    kept = expected > 0
    assert float(((counts - expected)[kept] ** 2 / expected[kept]).sum()) < 18.4, "chi-square, 2 degrees of freedom, p = 1e-4"


def test_rows_and_positions_draw_independently_of_the_batch() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    together = draw(logits, 5, 11)
    assert torch.equal(draw(logits[:2], 5, 11), together[:2])
    same = logits[:1].expand(64, 50)
    assert len(set(draw(same, 5, 11).tolist())) > 5, "rows have numbers of their own"


def test_load_finds_what_is_named(text_file: Path) -> None:
    list(gpt2demo.train(text_file, run="first", **SMALL))
    list(gpt2demo.train(text_file, run="second", **SMALL))
    assert gpt2demo.load().name == "second", "the newest run"
    by_name = gpt2demo.load("first")
    assert "".join(gpt2demo.load(by_name.path).generate("a", seed=1)) == "".join(by_name.generate("a", seed=1))
    with pytest.raises(RunError, match="gpt2demo export first --onnx"):
        gpt2demo.load("first", engine="onnx")
    with pytest.raises(RunError, match="'third'.*first"):
        gpt2demo.load("third")
