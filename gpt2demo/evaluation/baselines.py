"""Baselines of a run: how well simple methods predict its validation text after seeing its training text.

They show whether a model is good, which a loss alone does not. All are in bits per byte of the same text, and so comparable with
each other and with models of any tokenizer.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError

from gpt2demo.data.tokens import load_ids, load_sizes
from gpt2demo.errors import CheckpointError, DataError
from gpt2demo.evaluation.ngrams import KneserNey
from gpt2demo.evaluation.score import plain_text
from gpt2demo.generation.generate import Model
from gpt2demo.interfaces import Decoder
from gpt2demo.progress import task
from gpt2demo.runs.folder import Run
from gpt2demo.storage import read_json, write_json

TOKEN_LIMIT = 5_000_000
"""Training tokens, and bytes, that are counted, the last ones, and validation tokens that are predicted, the first ones: five
million take about a minute and 2 GB."""
XZ_LIMIT = 2**24
"""Training bytes that xz sees, the last ones: it needs about a second for each million."""
FILE = "baselines.json"
Bits = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Ids = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Baselines:
    """Bits per byte of a validation text.

    Attributes:
        uniform: all tokens are equally likely.
        unigram: each token is as likely as it is frequent in the training text.
        kneser_ney_3, kneser_ney_5: trigram and 5-gram models of the tokens, see `KneserNey`.
        kneser_ney_5_bytes: a 5-gram model of the bytes; it does not depend on the tokenizer.
        xz: the compressor's additional output for the validation text after the training text.
    """

    uniform: Bits
    unigram: Bits
    kneser_ney_3: Bits
    kneser_ney_5: Bits
    kneser_ney_5_bytes: Bits
    xz: Bits


NAMES = {
    "uniform": "guessing",
    "unigram": "a unigram",
    "kneser_ney_3": "counting three tokens",
    "kneser_ney_5": "counting five tokens",
    "kneser_ney_5_bytes": "counting five bytes",
    "xz": "the compressor xz",
}
"""How a sentence names each baseline."""


def baselines(run: Run, model: Model) -> Baselines:
    """Return the baselines of a run, from its folder or else computed and stored there.

    Args:
        run: a run with its ids.
        model: a model with the run's tokenizer.

    Raises:
        DataError: the run's ids are missing or damaged.
    """
    sizes = {name: asdict(size) for name, size in load_sizes(run.data).items()}
    with suppress(CheckpointError, ValidationError):
        stored = read_json(run.path / FILE)
        if stored.get("text") == sizes:
            return TypeAdapter(Baselines).validate_python(stored.get("bits_per_byte"))
    train, validation = load_ids(run.data, "train"), load_ids(run.data, "validation")
    found = compute(train, validation, model.tokenizer)
    with suppress(CheckpointError):  # a folder that is read-only: they are computed again the next time
        write_json(run.path / FILE, {"text": sizes, "bits_per_byte": asdict(found)})
    return found


def compute(train: Ids, validation: Ids, tokenizer: Decoder) -> Baselines:
    """Compute the baselines of a validation text.

    Args:
        train, validation: (N,) and (M,) ids.
        tokenizer: decodes them.

    Raises:
        DataError: a text is empty.
    """
    vocab_size = tokenizer.vocab_size
    if not len(train) or not len(validation):
        raise DataError("the training or the validation text is empty")
    train, validation = train[-TOKEN_LIMIT:], validation[:TOKEN_LIMIT]
    text = plain_text(tokenizer, validation).encode()
    train_bytes = np.frombuffer(plain_text(tokenizer, train).encode(), np.uint8)
    validation_bytes = np.frombuffer(text, np.uint8)
    methods: dict[str, Callable[[], float]] = {
        "uniform": lambda: len(validation) * math.log2(vocab_size),
        "unigram": lambda: unigram_bits(train, validation, vocab_size),
        "kneser_ney_3": lambda: KneserNey(train, vocab_size, 3).bits(validation),
        "kneser_ney_5": lambda: KneserNey(train, vocab_size, 5).bits(validation),
        "kneser_ney_5_bytes": lambda: KneserNey(train_bytes[-TOKEN_LIMIT:], 256, 5).bits(validation_bytes),
        "xz": lambda: xz_bits(train_bytes[-XZ_LIMIT:].tobytes(), text[:XZ_LIMIT]) * len(text) / len(text[:XZ_LIMIT]),
    }
    found = {}
    with task("counting for the baselines", len(methods)) as advance:
        for name, bits in methods.items():
            found[name] = bits() / len(text)
            advance(1)
    return Baselines(**found)


def unigram_bits(train: Ids, validation: Ids, vocab_size: int) -> float:
    """Return the bits of a text under the frequencies of another, each raised by one occurrence."""
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return float(-np.log2(counts[validation] / counts.sum()).sum())


def xz_bits(train: bytes, validation: bytes) -> float:
    """Return the bits by which the compressed training text grows if the validation text follows it."""
    filters: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**26}]
    sizes = [len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=filters)) for text in (train, train + validation)]
    return 8.0 * (sizes[1] - sizes[0])


def verdict(bits_per_byte: float, found: Baselines) -> str:
    """Return one sentence that compares a model with the baselines.

    The strongest baseline that it beats and the weakest that it does not are named.
    """
    values = sorted(((getattr(found, field.name), NAMES[field.name]) for field in fields(found)), reverse=True)
    beaten = [f"{name} ({value:.2f})" for value, name in values if value > bits_per_byte]
    ahead = [f"{name} ({value:.2f})" for value, name in values if value <= bits_per_byte]
    start = f"{bits_per_byte:.2f} bits per byte: "
    if not ahead:
        return f"{start}better than every baseline; the best is {beaten[-1]}."
    if not beaten:
        return f"{start}not even as good as {ahead[0]}. Train longer, or with a smaller learning rate."
    return f"{start}better than {beaten[-1]}, not yet as good as {ahead[0]}. Train longer or larger."
