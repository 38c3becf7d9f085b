"""Verify an exported model against its original.

Every mode in which a host program may run the graph (prefill at once or in chunks, single steps; one row, or three with padding)
is compared with one pass of the PyTorch model over the same ids, without cache and without padding.

Shapes: N = compared positions, T = positions of a row, B = rows, V = vocabulary.
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
from gpt2demo.metrics import log_softmax, negative_log_likelihood, perplexity
from gpt2demo.model import GPT2
from gpt2demo.runs.folder import Run

LIMIT = 1e-3
"""Largest allowed difference of a logit in float32. If the two best logits are closer than this, either may be the best."""
ROUNDED = {"fp16": (1e-3, 1.002), "int8": (1e-2, 1.01), "int4": (1e-1, 1.1)}
"""Limits for the other dtypes: largest mean divergence from the original's distribution in nats, in any mode, and largest growth
factor of the perplexity. Single logits are not limited."""
CONSISTENCY = 1e-5
"""Limit for the other dtypes: largest mean divergence of one mode from another, in nats."""
TEXT_TOKENS = 4096
"""Tokens of held-out text for the perplexity; at least one window is used."""
STEPS = 32
"""Length of the single-step part of a row."""
BATCH_LENGTH = 128
"""Longest row in a batch of three. With a large context and vocabulary, longer rows would fill the memory with logits."""
BLOCK = 64
"""Positions per block of a comparison, which computes in float64."""
SAMPLE = """\
In the evening the children sat by the window and watched the rain. "Tell us a story," said the smallest of them, and the old
man put down his book. Once upon a time, he began, there was a king who owned 12 clocks, and no two of them agreed.
"""

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass
class Comparison:
    """Accumulated difference between the logits of two models."""

    mode: str
    positions: int = 0
    largest: float = 0.0
    divergence: float = 0.0
    agreed: int = 0
    mismatches: int = 0
    dtype: str = "fp32"

    def add(self, reference: Floats, measured: Floats) -> None:
        """Add positions, logits (N, V) each."""
        for start in range(0, len(reference), BLOCK):
            self._add(reference[start : start + BLOCK], measured[start : start + BLOCK])

    def _add(self, reference: Floats, measured: Floats) -> None:
        second, best = np.partition(reference, -2, axis=-1)[:, -2:].T if reference.shape[1] > 1 else (0.0, np.inf)
        agree = reference.argmax(axis=-1) == measured.argmax(axis=-1)
        p, q = log_softmax(reference), log_softmax(measured)
        self.positions += len(reference)
        self.largest = float(np.maximum(self.largest, np.abs(reference - measured).max()))  # keeps NaN, unlike max()
        self.divergence += float((np.exp(p) * (p - q)).sum())
        self.agreed += int(agree.sum())
        self.mismatches += int((~agree & (best - second > LIMIT)).sum())

    @property
    def violation(self) -> str | None:
        """Description of an exceeded limit, or None."""
        if self.dtype != "fp32":
            limit = ROUNDED[self.dtype][0]
            message = f"{self.mode}: the distributions diverge by {self.mean_divergence:.3g} nats, the limit is {limit:g}"
            return None if self.mean_divergence <= limit else message
        if not self.largest <= LIMIT:
            return f"{self.mode}: a logit differs by {self.largest:.3g}, the limit is {LIMIT:g}"
        if self.mismatches:
            return f"{self.mode}: the most likely token differs at {self.mismatches} of {self.positions} positions"
        return None

    @property
    def mean_divergence(self) -> float:
        """Kullback-Leibler divergence of the export's distribution from the original's, in nats per position."""
        mean = self.divergence / self.positions
        return 0.0 if mean < 0 else mean  # rounding may make a zero slightly negative; a NaN is kept

    def as_dict(self) -> dict[str, Any]:
        """Return the entry for the certificate."""
        return {
            "way": self.mode,
            "positions": self.positions,
            "largest_difference": self.largest,
            "kl_divergence": self.mean_divergence,
            "argmax_agreement": self.agreed / self.positions,
            "mismatches_outside_near_ties": self.mismatches,
        }


def verify(model: GPT2, folder: Path, checkpoint: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Compare an export with the model from which it was made.

    Args:
        model: the original, in float32 on the CPU, in evaluation mode.
        folder: the export; its gpt2demo.json already has the first part of the certificate.
        checkpoint: folder of the original; the held-out text is taken from its run.
        tokenizer: the model's tokenizer.

    Returns:
        The second part of the certificate.

    Raises:
        ExportError: a limit is exceeded; the message contains the mode and the difference.
    """
    engine = OnnxEngine(folder, "cpu")
    dtype = engine.exported.dtype
    text, ids = held_out(checkpoint, tokenizer, model.config.vocab_size)
    held, perplexities = compare_on_text(model, engine, ids)
    full_context = np.resize(ids, model.config.n_positions)
    comparisons = [held, *compare_modes(partial(reference_logits, model), engine, full_context)]
    for comparison in comparisons:
        comparison.dtype = dtype
        if violation := comparison.violation:
            raise ExportError(f"{MODEL} differs from the PyTorch model: {violation}")
    if dtype in ROUNDED:
        check_consistency(engine, full_context)
    growth = ROUNDED[dtype][1] if dtype in ROUNDED else 1 + LIMIT
    if not perplexities["onnx"] <= growth * perplexities["torch"]:
        worse = f"perplexity {perplexities['onnx']:.4g} instead of {perplexities['torch']:.4g}, the limit is {growth:g} times"
        raise ExportError(f"{MODEL} is worse than the PyTorch model: {worse}; choose a larger --dtype")
    return {
        "limits": limits(dtype),
        "comparisons": [comparison.as_dict() for comparison in comparisons],
        "perplexity": {"text": text, **perplexities},
        "greedy": compare_greedy(model, engine, ids, LIMIT),
        "sampled": compare_sampled(model, engine, ids, tokenizer.vocab_size),
    }


def check_consistency(engine: OnnxEngine, ids: Ids) -> None:
    """Check that all modes of a model with rounded weights agree with its own prefill.

    The limits for rounded weights are wide enough to hide an error in the graph. Two modes use the same rounded weights, so their
    difference has a narrow limit.

    Raises:
        ExportError: a mode differs.
    """
    for comparison in compare_modes(lambda row: read_rows(engine, [row])[0], engine, ids):
        if not comparison.mean_divergence <= CONSISTENCY:
            message = f"the distributions diverge by {comparison.mean_divergence:.3g} nats, the limit is {CONSISTENCY:g}"
            raise ExportError(f"the modes of {MODEL} disagree: {comparison.mode}: {message}")


def limits(dtype: str) -> dict[str, float]:
    """Return the limits of a dtype, for the certificate."""
    if dtype in ROUNDED:
        return {"kl_divergence": ROUNDED[dtype][0], "perplexity_growth": ROUNDED[dtype][1]}
    return {"largest_difference": LIMIT, "mismatches_outside_near_ties": 0, "perplexity_growth": 1 + LIMIT}


def held_out(checkpoint: Path, tokenizer: Tokenizer, vocab_size: int) -> tuple[str, Ids]:
    """Return a text's description and its ids, at least two; the model was not trained on it.

    It is the validation text of the checkpoint's run or, outside a run, those characters of `SAMPLE` that the tokenizer can
    encode.
    """
    run = Run.of_checkpoint(checkpoint)
    if run and (file := run.data / "validation.npy").is_file():
        ids = np.load(file, mmap_mode="r", allow_pickle=False)[: TEXT_TOKENS + 1].astype(np.int64)
        if len(ids) > 1 and ids.max() < vocab_size:
            return "the run's validation text", ids
    known = [index for character in SAMPLE for index in _encoded(tokenizer, character)]
    return "a fixed sample", np.array(known if len(known) > 1 else [0, 0], dtype=np.int64)


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text; none if the tokenizer cannot encode it."""
    try:
        return tokenizer.encode(text)
    except TokenizerError:
        return []


# ---------------------------------------------------------------------------------------------- logits


@torch.inference_mode()
def reference_logits(model: GPT2, ids: Ids) -> Floats:
    """Return the PyTorch model's logits (T, V) for one row of ids (T,): one pass, no cache, no padding."""
    logits: Floats = model(torch.from_numpy(np.ascontiguousarray(ids))[None])[0].numpy()
    return logits


def read_rows(engine: OnnxEngine, rows: Sequence[Ids], cuts: Sequence[int] = ()) -> list[Floats]:
    """Return the exported model's logits for rows in one batch, padded on the left and split into several calls.

    Args:
        engine: the exported model; its cache is emptied first.
        rows: ids of each row, (T,); T may differ.
        cuts: increasing positions in the padded rows where one call ends and the next begins.

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


def compare_modes(logits_of: Callable[[Ids], Floats], engine: OnnxEngine, ids: Ids) -> Iterator[Comparison]:
    """Compare all modes, over the full context.

    Args:
        logits_of: returns the reference logits (T, V) of a row (T,).
        engine: the exported model.
        ids: (T,), a row of the context's length.
    """
    T = len(ids)
    reference = logits_of(ids)
    chunks = sorted({1, T // 3, T // 2})
    modes = {"prefill": [], "chunked prefill": chunks, "single steps": range(max(1, T - STEPS), T)}
    for mode, cuts in modes.items():
        comparison = Comparison(mode)
        comparison.add(reference, read_rows(engine, [ids], cuts)[0])
        yield comparison
    comparison = Comparison("without cache")
    for length in sorted({1, min(2, T), max(1, T // 2), max(1, T - 1), T}):
        comparison.add(reference[length - 1 : length], read_rows(engine, [ids[:length]])[0][-1:])
    yield comparison
    yield from compare_batches(logits_of, engine, ids[:BATCH_LENGTH])


def compare_batches(logits_of: Callable[[Ids], Floats], engine: OnnxEngine, ids: Ids) -> Iterator[Comparison]:
    """Compare a batch of three rows of different lengths, the shorter ones padded on the left."""
    T = len(ids)
    rows = [ids, ids[-max(1, 2 * T // 3) :], ids[: max(1, T // 3)]]
    references = [logits_of(row) for row in rows]
    modes = {"prefill": [], "chunked prefill": sorted({T // 4, T // 2}), "single steps": range(max(1, T - STEPS), T)}
    for mode, cuts in modes.items():
        comparison = Comparison(f"3 padded rows, {mode}")
        for reference, measured in zip(references, read_rows(engine, rows, cuts), strict=True):
            comparison.add(reference, measured)
        yield comparison


def compare_on_text(model: GPT2, engine: OnnxEngine, ids: Ids) -> tuple[Comparison, dict[str, Any]]:
    """Compare the models on windows of held-out text (N,); return the comparison and both perplexities."""
    comparison = Comparison("held-out text")
    torch_loss, onnx_loss = 0.0, 0.0
    n_positions = model.config.n_positions
    for start in range(0, max(1, len(ids) - n_positions), n_positions):
        window = ids[start : start + n_positions + 1]
        reference, measured = reference_logits(model, window[:-1]), read_rows(engine, [window[:-1]])[0]
        comparison.add(reference, measured)
        torch_loss += total_loss(reference, window[1:])
        onnx_loss += total_loss(measured, window[1:])
    means = {"torch": torch_loss / comparison.positions, "onnx": onnx_loss / comparison.positions}
    return comparison, {
        "tokens": comparison.positions,
        **{name: perplexity(mean) for name, mean in means.items()},
    }


def total_loss(logits: Floats, targets: Ids) -> float:
    """Return the sum of the negative log-likelihoods of targets (N,) under logits (N, V), in nats."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(targets), BLOCK)]
    return sum(negative_log_likelihood(logits[block], targets[block]) for block in blocks)
