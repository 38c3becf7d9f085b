"""Verify an exported model against its original.

Every mode in which a host program may run the graph (prefill at once or in chunks, single steps; one row, or three with padding)
is compared with one pass of the PyTorch model over the same ids, without cache and without padding:

- The graph in float32, with the weights that the file stores, with the PyTorch model that has the same weights. What differs is
  the order of sums in float32, so every logit has a narrow limit, whatever the dtype of the weights. See `float32.py`.
- The graph as it is, with the original. Rounded weights and activations change the distribution; limits are wide (`ROUNDED`).
- The modes of the graph as it is, with each other (`CONSISTENCY`, `SPREAD`).

For float32 weights the first two are the same. The PyTorch model and an onnxruntime session are never in memory at the same time:
the logits of the model are computed first and kept in files.

Shapes: N = compared positions, T = positions of a row, B = rows, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from gpt2demo.data.tokens import ids_file, load_ids
from gpt2demo.engines.exported import MODEL, Dtype, check_export
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import CheckpointError, ExportError, TokenizerError
from gpt2demo.export.onnx.comparison import BLOCK, LIMIT, RELATIVE, Comparison, Floats, Ids, Logits, LogitsCache
from gpt2demo.export.onnx.continuations import GREEDY, Text, compare_greedy, compare_sampled, greedy, greedy_prompt
from gpt2demo.export.onnx.float32 import write_float32
from gpt2demo.export.onnx.weights import round_weights
from gpt2demo.export.overflow import activations_within, check_logits
from gpt2demo.interfaces import Engine, Tokenizer
from gpt2demo.memory import release_memory
from gpt2demo.metrics import negative_log_likelihood, perplexity
from gpt2demo.model import GPT2
from gpt2demo.runs.folder import Run
from gpt2demo.runs.weights import load_model
from gpt2demo.storage import require_space

ROUNDED = {"fp16": (1e-3, 1.002), "int8": (1e-2, 1.01), "int4": (1e-1, 1.1)}
"""Limits for the other dtypes: largest mean divergence from the original's distribution in nats, in any mode, and largest growth
factor of the perplexity. Single logits are not limited."""
CONSISTENCY = 1e-5
"""Limit for the other dtypes: largest mean divergence of a mode from the PyTorch model with the same weights, in nats, unless
rounding of activations explains more."""
SPREAD = 4.0
"""The same, as a multiple of the largest mean divergence in prefill of single rows, which is the rounding of activations.

Rounding adds an error e to the logits, and the divergence is Var(e) / 2 to second order. A difference in the last bit of float32
changes which way later activations are rounded, so each mode has another e from the same distribution, and Var(e) is the same. On
means over few positions, and on models with 2 to 12 layers, the largest ratio measured was 1.2. An error in one mode adds its
own variance, so one that is hidden here changes the logits less than rounding does; in float32 nothing hides it.
"""
TEXT_TOKENS = 4096
"""Tokens of held-out text for the perplexity; at least one window is used."""
STEPS = 32
"""Length of the single-step part of a row."""
BATCH_LENGTH = 128
"""Longest row in a batch of three. With a large context and vocabulary, longer rows would fill the memory with logits."""
SAMPLE = """\
In the evening the children sat by the window and watched the rain. "Tell us a story," said the smallest of them, and the old
man put down his book. Once upon a time, he began, there was a king who owned 12 clocks, and no two of them agreed.
"""

LogitsOf = Callable[[Ids], Logits]
"""Returns the reference logits (T, V) of a row (T,)."""
Piece = tuple[Ids, int, Floats]
"""A row of ids (T,), a position in it, and the measured logits (N, V) from that position on."""


def verify(folder: Path, checkpoint: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Compare an export with the model from which it was made.

    Args:
        folder: the export; its gpt2demo.json already has the first part of the certificate.
        checkpoint: folder of the original; the held-out text is taken from its run.
        tokenizer: the model's tokenizer.

    Returns:
        The second part of the certificate.

    Raises:
        ExportError: a limit is exceeded; the message contains the mode and the difference.
    """
    exported = check_export(folder)
    dtype, config = exported.dtype, exported.config
    description, ids = held_out(checkpoint, tokenizer, config.vocab_size)
    row = np.resize(ids, config.n_positions)
    rows = [*windows(ids, config.n_positions), row, *batch_rows(row)]
    require_space(folder, 4 * config.vocab_size * 2 * sum(map(len, rows)))
    with TemporaryDirectory(dir=folder, prefix="logits-") as scratch:
        original, stored, text = references(
            load_model(checkpoint, mapped=True), dtype, Path(scratch), rows, greedy_prompt(ids, config)
        )
        certificate = {} if dtype == "fp32" else compare_in_float32(folder, Path(scratch), stored, row)
        release_memory()
        engine = OnnxEngine(folder, "cpu")
        held, perplexities = compare_on_text(original, engine, ids)
        comparisons = [held, *compare_arithmetic(original, stored, engine, row)]
        check_perplexity(perplexities, dtype)
    certificate |= {
        "limits": limits(dtype),
        "comparisons": [comparison.as_dict() for comparison in comparisons],
        "perplexity": {"text": description, **perplexities},
        "greedy": compare_greedy(text, engine, lambda: load_model(checkpoint, mapped=True), LIMIT),
    }
    del engine
    release_memory()
    exact = dtype == "fp32"

    def reference() -> Engine:
        return TorchEngine(load_model(checkpoint, mapped=True)) if exact else OnnxEngine(folder, "cpu")

    return certificate | {"sampled": compare_sampled(reference, OnnxEngine(folder, "cpu"), ids, tokenizer.vocab_size)}


def references(model: GPT2, dtype: Dtype, scratch: Path, rows: Sequence[Ids], prompt: Ids) -> tuple[LogitsOf, LogitsOf, Text]:
    """Compute what needs the PyTorch model.

    Args:
        model: the original, in float32 on the CPU, in evaluation mode. Its weights are replaced.
        dtype: dtype of the export's weights.
        scratch: folder for the logits.
        rows: rows whose logits will be compared.
        prompt: ids of the prompt for the greedy text.

    Returns:
        Logits of the original, logits of the model with the weights that the export stores, and the original's greedy text.

    Raises:
        ExportError: logits are not finite, or an activation is too large for float16.
    """
    original = LogitsCache(scratch / "original", partial(reference_logits, model))
    for row in rows:
        original(row)
    text = greedy(TorchEngine(model), prompt, GREEDY)
    stored = original
    if dtype != "fp32":
        round_weights(model, dtype)
        stored = LogitsCache(scratch / "stored", partial(reference_logits, model))
        with activations_within(model, torch.float16, "fp32 or int8") if dtype == "fp16" else nullcontext():
            for row in rows:
                stored(row)
    original.release()
    stored.release()
    return original, stored, text


def compare_in_float32(folder: Path, scratch: Path, stored: LogitsOf, row: Ids) -> dict[str, Any]:
    """Compare the graph in float32 with the PyTorch model that has the same weights; return the part of the certificate.

    Raises:
        ExportError: a logit differs by more than the limit.
    """
    (scratch / "float32").mkdir()
    write_float32(folder, scratch / "float32")
    release_memory()
    engine = OnnxEngine(scratch / "float32", "cpu")
    comparisons = []
    for (comparison,) in compare_modes([stored], engine, row):
        if violation := comparison.violation:
            raise ExportError(f"{MODEL} in float32 differs from the PyTorch model with the same weights: {violation}")
        comparisons.append(comparison.as_dict())
    return {"float32": {"limits": limits("fp32"), "comparisons": comparisons}}


def compare_arithmetic(original: LogitsOf, stored: LogitsOf, engine: OnnxEngine, row: Ids) -> list[Comparison]:
    """Compare all modes of the graph as it is with the original; return the comparisons.

    Raises:
        ExportError: a mode differs from the original or, with rounded weights, by more than rounding explains.
    """
    dtype = engine.exported.dtype
    limit = 0.0 if dtype == "fp32" else consistency_limit(stored, engine, row)
    comparisons = []
    for comparison, own in compare_modes([original, stored], engine, row):
        violation = comparison.violation if dtype == "fp32" else comparison.divergence_above(ROUNDED[dtype][0])
        if violation:
            raise ExportError(f"{MODEL} differs from the PyTorch model: {violation}")
        if dtype != "fp32" and (violation := own.divergence_above(limit)):
            raise ExportError(f"the modes of {MODEL} disagree: {violation}")
        comparisons.append(comparison)
    return comparisons


def consistency_limit(stored: LogitsOf, engine: OnnxEngine, row: Ids) -> float:
    """Return the limit for the divergence of a mode from the PyTorch model with the same weights; see `SPREAD`."""
    prefixes = Comparison("the positions of `read_prefixes`, which are few")
    comparisons = [prefixes]
    for ids in (row, *batch_rows(row)):
        comparison, reference, measured = Comparison("prefill"), stored(ids), engine.logits(ids[None])[0]
        comparison.add(reference, measured)
        comparisons.append(comparison)
        if ids is row:
            for length in prefix_lengths(len(row)):
                prefixes.add(reference, measured[length - 1 : length], length - 1)
    return max(CONSISTENCY, SPREAD * max(comparison.mean_divergence for comparison in comparisons))


def check_perplexity(perplexities: dict[str, Any], dtype: Dtype) -> None:
    """Check that rounding did not make the model worse.

    Raises:
        ExportError: the perplexity has grown by more than the limit.
    """
    growth = limits(dtype)["perplexity_growth"]
    if not perplexities["onnx"] <= growth * perplexities["torch"]:
        worse = f"perplexity {perplexities['onnx']:.4g} instead of {perplexities['torch']:.4g}, the limit is {growth:g} times"
        raise ExportError(f"{MODEL} is worse than the PyTorch model: {worse}; choose a larger --dtype")


def limits(dtype: Dtype) -> dict[str, float]:
    """Return the limits of a dtype, for the certificate."""
    if dtype in ROUNDED:
        return {"kl_divergence": ROUNDED[dtype][0], "perplexity_growth": ROUNDED[dtype][1]}
    differences = {"largest_difference": LIMIT, "relative_difference": RELATIVE}
    return {**differences, "mismatches_outside_near_ties": 0, "perplexity_growth": 1 + LIMIT}


def held_out(checkpoint: Path, tokenizer: Tokenizer, vocab_size: int) -> tuple[str, Ids]:
    """Return a text's description and its ids, at least two; the model was not trained on it.

    It is the validation text of the checkpoint's run or, outside a run, those characters of `SAMPLE` that the tokenizer can
    encode.

    Raises:
        DataError: the run's ids are damaged.
    """
    run = Run.of_checkpoint(checkpoint)
    if run and ids_file(run.data, "validation").exists():
        ids = load_ids(run.data, "validation")[: TEXT_TOKENS + 1].astype(np.int64)
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
    """Return the PyTorch model's logits (T, V) for one row of ids (T,): one pass, no cache, no padding.

    Raises:
        ExportError: they are not finite.
    """
    logits = model(torch.from_numpy(np.ascontiguousarray(ids))[None])[0]
    check_logits(logits)
    result: Floats = logits.numpy()
    return result


def batch_rows(ids: Ids) -> list[Ids]:
    """Return three rows of different lengths, taken from one row (T,)."""
    ids = ids[:BATCH_LENGTH]
    T = len(ids)
    return [ids, ids[-max(1, 2 * T // 3) :], ids[: max(1, T // 3)]]


def windows(ids: Ids, n_positions: int) -> list[Ids]:
    """Split held-out text (N,) into rows of the context's length; each row's targets are one position further."""
    return [ids[start : start + n_positions + 1][:-1] for start in range(0, max(1, len(ids) - n_positions), n_positions)]


def read_pieces(engine: OnnxEngine, rows: Sequence[Ids], cuts: Sequence[int] = ()) -> Iterator[Piece]:
    """Yield the exported model's logits for rows in one batch, padded on the left and split into several calls.

    Args:
        engine: the exported model; its cache is emptied first.
        rows: ids of each row, (T,); T may differ.
        cuts: increasing positions in the padded rows where one call ends and the next begins.

    Raises:
        ExportError: onnxruntime cannot run the graph.
    """
    width = max(len(row) for row in rows)
    padding = [width - len(row) for row in rows]
    ids = np.stack([np.pad(row, (pad, 0)) for row, pad in zip(rows, padding, strict=True)])
    engine.reset()
    for start, end in pairwise([0, *cuts, width]):
        if end > start:
            try:
                logits = engine.read(ids[:, start:end], np.array(padding))
            except CheckpointError as error:
                raise ExportError(f"{MODEL} cannot be run: {error}") from None
            for row, pad, measured in zip(rows, padding, logits, strict=True):
                if end > pad:
                    yield row, max(0, start - pad), measured[max(0, pad - start) :]
            del logits, measured  # with a large vocabulary the largest tensor; the next ones must not be added to it


def read_modes(engine: OnnxEngine, ids: Ids) -> Iterator[tuple[str, Iterator[Piece]]]:
    """Yield the name and the logits of each mode, for a row (T,) of the context's length."""
    T, rows = len(ids), batch_rows(ids)
    B = len(rows[0])
    modes: dict[str, tuple[Sequence[Ids], Sequence[int]]] = {
        "prefill": ([ids], []),
        "chunked prefill": ([ids], sorted({1, T // 3, T // 2})),
        "single steps": ([ids], range(max(1, T - STEPS), T)),
        "3 padded rows, prefill": (rows, []),
        "3 padded rows, chunked prefill": (rows, sorted({B // 4, B // 2})),
        "3 padded rows, single steps": (rows, range(max(1, B - STEPS), B)),
    }
    for name, (batch, cuts) in modes.items():
        yield name, read_pieces(engine, batch, cuts)
    yield "without cache", read_prefixes(engine, ids)


def prefix_lengths(T: int) -> list[int]:
    """Return the lengths of the prefixes of a row (T,) to compare."""
    return sorted({1, min(2, T), max(1, T // 2), max(1, T - 1), T})


def read_prefixes(engine: OnnxEngine, ids: Ids) -> Iterator[Piece]:
    """Yield the logits after prefixes of a row (T,), each in a call of its own."""
    for length in prefix_lengths(len(ids)):
        for _, _, logits in read_pieces(engine, [ids[:length]]):
            yield ids, length - 1, logits[-1:].copy()
            del logits


def compare_modes(references: Sequence[LogitsOf], engine: OnnxEngine, ids: Ids) -> Iterator[list[Comparison]]:
    """Compare all modes, over the full context, with several references; yield a comparison for each reference.

    Args:
        references: functions that return the logits of a row.
        engine: the exported model.
        ids: (T,), a row of the context's length.
    """
    for mode, pieces in read_modes(engine, ids):
        comparisons = [Comparison(mode) for _ in references]
        for row, start, logits in pieces:
            for comparison, logits_of in zip(comparisons, references, strict=True):
                comparison.add(logits_of(row), logits, start)
            del logits
        yield comparisons


def compare_on_text(original: LogitsOf, engine: OnnxEngine, ids: Ids) -> tuple[Comparison, dict[str, Any]]:
    """Compare the models on windows of held-out text (N,); return the comparison and both perplexities.

    Raises:
        ExportError: the logits differ by more than the limits of the dtype.
    """
    comparison = Comparison("held-out text")
    losses = {"torch": 0.0, "onnx": 0.0}
    for index, window in enumerate(windows(ids, engine.n_positions)):
        first = index * engine.n_positions + 1
        targets = ids[first : first + len(window)]
        reference = original(window)
        for _, _, measured in read_pieces(engine, [window]):
            comparison.add(reference, measured)
            losses["onnx"] += total_loss(measured, targets)
            del measured
        losses["torch"] += total_loss(reference, targets)
    dtype = engine.exported.dtype
    if violation := comparison.violation if dtype == "fp32" else comparison.divergence_above(ROUNDED[dtype][0]):
        raise ExportError(f"{MODEL} differs from the PyTorch model: {violation}")
    means = {name: perplexity(loss / comparison.positions) for name, loss in losses.items()}
    return comparison, {"tokens": comparison.positions, **means}


def total_loss(logits: Logits, targets: Ids) -> float:
    """Return the sum of the negative log-likelihoods of targets (N,) under logits (N, V), in nats."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(targets), BLOCK)]
    return sum(negative_log_likelihood(logits[block], targets[block]) for block in blocks)
