"""Baselines of a run: known values, stored with the run, and the sentence that compares a model with them."""

from __future__ import annotations

import lzma
import math
from dataclasses import replace

import numpy as np
import pytest

import gpt2demo
from gpt2demo.errors import DataError
from gpt2demo.evaluation import baselines as module
from gpt2demo.evaluation.baselines import Baselines, baselines, compute, unigram_bits, verdict, xz_bits
from gpt2demo.generation.load import load
from gpt2demo.runs.folder import Run
from gpt2demo.tokenization.byte import ByteTokenizer

SOME = Baselines(uniform=4.0, unigram=3.5, kneser_ney_3=2.5, kneser_ney_5=2.2, kneser_ney_5_bytes=2.3, xz=2.4)


def test_uniform_bits_are_those_of_the_vocabulary() -> None:
    ids = np.frombuffer(b"to be or not to be", np.uint8)
    found = compute(ids, ids, ByteTokenizer())
    assert found.uniform == 8.0
    assert found.kneser_ney_5 == found.kneser_ney_5_bytes < found.unigram < found.uniform


def test_ends_of_text_are_tokens_but_have_no_bytes() -> None:
    bpe = gpt2demo.tokenizers()["bpe"].train(["ab ab ab ab"], vocab_size=260)
    plain = np.array(bpe.encode("ab ab ab ab"))
    with_ends = np.append(plain, bpe.eos_id)
    first, second = compute(plain, plain, bpe), compute(plain, with_ends, bpe)
    assert second.uniform == pytest.approx(first.uniform * len(with_ends) / len(plain))
    assert (second.kneser_ney_5_bytes, second.xz) == (first.kneser_ney_5_bytes, first.xz)


def test_unigram_bits_count_one_more_of_each() -> None:
    train, text = np.array([0, 0, 0, 1]), np.array([0, 1, 2])
    assert unigram_bits(train, text, 3) == pytest.approx(-math.log2(4 / 7) - math.log2(2 / 7) - math.log2(1 / 7))


def test_xz_compresses_a_text_with_what_it_has_seen() -> None:
    noise = np.random.default_rng(0).bytes(2000)
    assert xz_bits(noise, noise) < 8 * 100, "a repeated text costs almost nothing"
    assert xz_bits(b"", noise) == pytest.approx(8 * len(lzma.compress(noise)), rel=0.05)


def test_baselines_of_a_run_are_computed_once(run_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("mine")
    first = baselines(run_copy, model)
    monkeypatch.setattr(module, "compute", None)
    assert baselines(run_copy, model) == first
    (run_copy.path / module.FILE).write_text('{"text": 1}')
    with pytest.raises(TypeError):  # computed again
        baselines(run_copy, model)


@pytest.mark.parametrize("damage", ["", "[]", '{"bits_per_byte": {"xz": "high"}}', "{"])
def test_damaged_baselines_are_computed_again(run_copy: Run, damage: str) -> None:
    model = load("mine")
    first = baselines(run_copy, model)
    (run_copy.path / module.FILE).write_text(damage)
    assert baselines(run_copy, model) == first


def test_an_empty_text_has_no_baselines() -> None:
    with pytest.raises(DataError, match="empty"):
        compute(np.array([], np.int64), np.array([1]), ByteTokenizer())


@pytest.mark.parametrize(
    ("bits", "sentence"),
    [
        (5.0, "5.00 bits per byte: not even as good as guessing (4.00). Train longer, or with a smaller learning rate."),
        (2.31, "2.31 bits per byte: better than the compressor xz (2.40), not yet as good as counting five bytes (2.30)."),
        (2.25, "2.25 bits per byte: better than counting five bytes (2.30), not yet as good as counting five tokens (2.20)."),
        (2.1, "2.10 bits per byte: better than every baseline; the best is counting five tokens (2.20)."),
    ],
)
def test_one_sentence_compares_a_model_with_its_neighbors(bits: float, sentence: str) -> None:
    assert verdict(bits, SOME).startswith(sentence)


def test_a_model_as_good_as_a_baseline_does_not_beat_it() -> None:
    assert "not yet as good as counting five tokens (2.20)" in verdict(2.2, SOME)
    assert "better than every baseline" in verdict(2.2, replace(SOME, kneser_ney_5=2.21))
