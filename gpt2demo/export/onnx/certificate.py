"""Proof that an exported model is the model it was made from.

Every way of reading that a host may choose (all at once, in chunks, id by id; one row or three with padding) is compared with
one plain pass of the PyTorch model over the same ids, without cache and without padding.

Legend for shapes: N = positions compared, T = positions of a row, B = rows, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpt2demo.engines.exported import MODEL
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.errors import ExportError, TokenizerError
from gpt2demo.export.onnx.continuations import compare_greedy, compare_sampled
from gpt2demo.interfaces import Tokenizer
from gpt2demo.model import GPT2
from gpt2demo.runs.folder import Run

LIMIT = 1e-3
"""Largest difference of a logit in float32. Where the two best logits are closer than this, either may win."""
ROUNDED = {"fp16": (1e-3, 1.002), "int8": (1e-2, 1.01), "int4": (1e-1, 1.1)}
"""For weights with fewer bits: the largest mean divergence from the original's distribution, in nats, in any way of reading, and
the largest factor by which the perplexity may grow. Single logits may differ by what the rounding makes of them."""
ITSELF = 1e-5
"""For these: the largest mean divergence of one way of reading from another, in nats."""
TOKENS = 4096
"""How much held-out text is read for the perplexity, at least one window."""
STEPS = 32
BATCH_LENGTH = 128
"""Longest row in a batch of three: at a large context and vocabulary their logits would fill the memory."""
SAMPLE = """\
In the evening the children sat by the window and watched the rain. "Tell us a story," said the smallest of them, and the old
man put down his book. Once upon a time, he began, there was a king who owned 12 clocks, and no two of them agreed.
"""

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass
class Comparison:
    """How far two models' logits are apart, over all positions added."""

    way: str
    positions: int = 0
    largest: float = 0.0
    divergence: float = 0.0
    agreed: int = 0
    mismatches: int = 0
    dtype: str = "fp32"

    def add(self, reference: Floats, measured: Floats) -> None:
        """Count in some positions' logits, (N, V) each."""
        for start in range(0, len(reference), 64):  # in blocks: float64 of everything would be large
            self._add(reference[start : start + 64], measured[start : start + 64])

    def _add(self, reference: Floats, measured: Floats) -> None:
        second, best = np.partition(reference, -2, axis=-1)[:, -2:].T if reference.shape[1] > 1 else (0.0, np.inf)
        agree = reference.argmax(axis=-1) == measured.argmax(axis=-1)
        p, q = log_softmax(reference), log_softmax(measured)
        self.positions += len(reference)
        self.largest = float(np.maximum(self.largest, np.abs(reference - measured).max()))  # keeps NaN, as max() does not
        self.divergence += float((np.exp(p) * (p - q)).sum())
        self.agreed += int(agree.sum())
        self.mismatches += int((~agree & (best - second > LIMIT)).sum())

    @property
    def complaint(self) -> str | None:
        """What is beyond the limits, or None."""
        if self.dtype != "fp32":
            limit = ROUNDED[self.dtype][0]
            far = f"{self.way}: the distributions diverge by {self.mean_divergence:.3g} nats, the limit is {limit:g}"
            return None if self.mean_divergence <= limit else far
        if not self.largest <= LIMIT:
            return f"{self.way}: a logit differs by {self.largest:.3g}, the limit is {LIMIT:g}"
        if self.mismatches:
            return f"{self.way}: the likeliest token differs at {self.mismatches} of {self.positions} positions"
        return None

    @property
    def mean_divergence(self) -> float:
        """Kullback-Leibler, of the original's distribution from the export's, in nats a position."""
        mean = self.divergence / self.positions
        return 0.0 if mean < 0 else mean  # rounding may take a zero below itself; a NaN stays one

    def as_dict(self) -> dict[str, Any]:
        """For the certificate."""
        return {
            "way": self.way,
            "positions": self.positions,
            "largest_difference": self.largest,
            "kl_divergence": self.mean_divergence,
            "argmax_agreement": self.agreed / self.positions,
            "mismatches_outside_near_ties": self.mismatches,
        }


def prove(model: GPT2, folder: Path, checkpoint: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Compare an exported folder with the model it was made from.

    Args:
        model: the original, in float32 on the CPU, in evaluation mode.
        folder: the export; its gpt2demo.json already names the file's checksum and shape.
        checkpoint: the original's folder; held-out text is taken from its run.
        tokenizer: the model's.

    Returns:
        The second part of the certificate.

    Raises:
        ExportError: the two differ by more than the limits; says where and by how much.
    """
    engine = OnnxEngine(folder, "cpu")
    dtype = engine.exported.dtype
    text, ids = held_out(checkpoint, tokenizer, model.config.vocab_size)
    held, perplexity = compare_on_text(model, engine, ids)
    whole = np.resize(ids, model.config.n_positions)
    comparisons = [held, *compare_ways(partial(reference_logits, model), engine, whole)]
    for comparison in comparisons:
        comparison.dtype = dtype
        if complaint := comparison.complaint:
            raise ExportError(f"{MODEL} is not the PyTorch model: {complaint}")
    if dtype in ROUNDED:
        check_itself(engine, whole)
    growth = ROUNDED[dtype][1] if dtype in ROUNDED else 1 + LIMIT
    if not perplexity["onnx"] <= growth * perplexity["torch"]:
        worse = f"perplexity {perplexity['onnx']:.4g} instead of {perplexity['torch']:.4g}, the limit is {growth:g} times"
        raise ExportError(f"{MODEL} is worse than the PyTorch model: {worse}; choose a larger --dtype")
    return {
        "limits": limits(dtype),
        "comparisons": [comparison.as_dict() for comparison in comparisons],
        "perplexity": {"text": text, **perplexity},
        "greedy": compare_greedy(model, engine, ids, LIMIT),
        "sampled": compare_sampled(model, engine, ids, tokenizer.vocab_size),
    }


def check_itself(engine: OnnxEngine, ids: Ids) -> None:
    """Make sure that a model with rounded weights reads in every way as it does all at once.

    What the rounding makes of the logits leaves room for mistakes in the graph; between two ways of reading there is no rounding
    of weights.

    Raises:
        ExportError: it does not.
    """
    for comparison in compare_ways(lambda row: replay(engine, [row])[0], engine, ids):
        if not comparison.mean_divergence <= ITSELF:
            far = f"the distributions diverge by {comparison.mean_divergence:.3g} nats, the limit is {ITSELF:g}"
            raise ExportError(f"{MODEL} does not read alike in all ways: {comparison.way}: {far}")


def limits(dtype: str) -> dict[str, float]:
    """What an export has to keep, for its certificate."""
    if dtype in ROUNDED:
        return {"kl_divergence": ROUNDED[dtype][0], "perplexity_growth": ROUNDED[dtype][1]}
    return {"largest_difference": LIMIT, "mismatches_outside_near_ties": 0, "perplexity_growth": 1 + LIMIT}


def held_out(checkpoint: Path, tokenizer: Tokenizer, vocab_size: int) -> tuple[str, Ids]:
    """The ids of a text that the model was not trained on, at least two, and what text it is.

    It is the validation text of the checkpoint's run; outside a run a fixed sample, as far as the tokenizer can express it.
    """
    run = Run.of_checkpoint(checkpoint)
    if run and (file := run.data / "validation.npy").is_file():
        ids = np.load(file, mmap_mode="r", allow_pickle=False)[: TOKENS + 1].astype(np.int64)
        if len(ids) > 1 and ids.max() < vocab_size:
            return "the run's validation text", ids
    known = [index for character in SAMPLE for index in _encoded(tokenizer, character)]
    return "a fixed sample", np.array(known if len(known) > 1 else [0, 0], dtype=np.int64)


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text, none when the tokenizer cannot express it."""
    try:
        return tokenizer.encode(text)
    except TokenizerError:
        return []


# ---------------------------------------------------------------------------------------------- logits


@torch.inference_mode()
def reference_logits(model: GPT2, ids: Ids) -> Floats:
    """The PyTorch model's logits (T, V) for one row of ids (T,): one pass, no cache, no padding."""
    logits: Floats = model(torch.from_numpy(np.ascontiguousarray(ids))[None])[0].numpy()
    return logits


def replay(engine: OnnxEngine, rows: Sequence[Ids], cuts: Sequence[int] = ()) -> list[Floats]:
    """The exported model's logits for some rows, read together, padded on the left, in pieces that end at the cuts.

    Args:
        engine: the exported model; its cache is emptied first.
        rows: the ids of each row, (T,), T may differ.
        cuts: rising positions on the padded axis where one call ends and the next, on the cache, begins.

    Returns:
        The logits of each row, (T, V).
    """
    width = max(len(row) for row in rows)
    padding = [width - len(row) for row in rows]
    ids = np.stack([np.pad(row, (pad, 0)) for row, pad in zip(rows, padding, strict=True)])
    edges = [0, *cuts, width]
    engine.reset()
    pieces = [engine.read(ids[:, start:end], np.array(padding)) for start, end in pairwise(edges) if end > start]
    logits = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
    return [row[pad:] for row, pad in zip(logits, padding, strict=True)]


def compare_ways(logits_of: Callable[[Ids], Floats], engine: OnnxEngine, ids: Ids) -> Iterator[Comparison]:
    """Compare all ways of reading, up to the full context.

    Args:
        logits_of: gives the logits (T, V) of a row (T,) that are right.
        engine: the exported one.
        ids: (T,), as many as the context is long.
    """
    T = len(ids)
    reference = logits_of(ids)
    chunks = sorted({1, T // 3, T // 2})
    alone = {"prefill": [], "chunked prefill": chunks, "single steps": range(max(1, T - STEPS), T)}
    for way, cuts in alone.items():
        comparison = Comparison(way)
        comparison.add(reference, replay(engine, [ids], cuts)[0])
        yield comparison
    comparison = Comparison("without cache, each prefix anew")
    for length in sorted({1, min(2, T), max(1, T // 2), max(1, T - 1), T}):
        comparison.add(reference[length - 1 : length], replay(engine, [ids[:length]])[0][-1:])
    yield comparison
    yield from compare_batches(logits_of, engine, ids[:BATCH_LENGTH])


def compare_batches(logits_of: Callable[[Ids], Floats], engine: OnnxEngine, ids: Ids) -> Iterator[Comparison]:
    """Compare three rows of different lengths read together, the shorter ones padded on the left."""
    T = len(ids)
    rows = [ids, ids[-max(1, 2 * T // 3) :], ids[: max(1, T // 3)]]
    references = [logits_of(row) for row in rows]
    ways = {"prefill": [], "chunked prefill": sorted({T // 4, T // 2}), "single steps": range(max(1, T - STEPS), T)}
    for way, cuts in ways.items():
        comparison = Comparison(f"3 padded rows, {way}")
        for reference, measured in zip(references, replay(engine, rows, cuts), strict=True):
            comparison.add(reference, measured)
        yield comparison


def compare_on_text(model: GPT2, engine: OnnxEngine, ids: Ids) -> tuple[Comparison, dict[str, Any]]:
    """Compare on windows of held-out text (N,), and measure both models' perplexity there."""
    comparison = Comparison("held-out text")
    torch_loss, onnx_loss = 0.0, 0.0
    n_positions = model.config.n_positions
    for start in range(0, max(1, len(ids) - n_positions), n_positions):
        window = ids[start : start + n_positions + 1]
        reference, measured = reference_logits(model, window[:-1]), replay(engine, [window[:-1]])[0]
        comparison.add(reference, measured)
        torch_loss += loss(reference, window[1:])
        onnx_loss += loss(measured, window[1:])
    means = {"torch": torch_loss / comparison.positions, "onnx": onnx_loss / comparison.positions}
    return comparison, {
        "tokens": comparison.positions,
        **{name: float(np.exp(min(mean, 700))) for name, mean in means.items()},
    }


def log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    """Logarithm of the softmax over the last axis."""
    result: npt.NDArray[np.float64] = torch.from_numpy(logits).double().log_softmax(dim=-1).numpy()
    return result


def loss(logits: Floats, targets: Ids) -> float:
    """Sum of the negative log-likelihoods of targets (N,) under logits (N, V), in nats."""
    blocks = range(0, len(targets), 64)
    return -sum(
        float(log_softmax(logits[i : i + 64])[np.arange(len(targets[i : i + 64])), targets[i : i + 64]].sum()) for i in blocks
    )
