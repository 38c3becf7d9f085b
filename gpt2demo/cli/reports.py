"""Output of `gpt2demo eval` and `gpt2demo inspect`, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from gpt2demo.cli.printing import print_list, print_result, quoted

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2demo.evaluation.report import Report, Samples
    from gpt2demo.inspection.report import Inspection
    from gpt2demo.inspection.surprise import TokenSurprise


def print_inspection(inspection: Inspection, page: Path | None, *, as_json: bool) -> None:
    """Print an inspection: as JSON, as the path of its page, or each token with its surprise."""
    if as_json:
        print_result(json.dumps(inspection.as_dict()))
    elif page:
        print_result(page)
    else:
        print_list([_token(token) for token in inspection.tokens], as_json=False)


def _token(token: TokenSurprise) -> dict[str, object]:
    """Return a token as a row of a table."""
    expected = "  ".join(f"{quoted(share.text)} {share.probability:.3f}" for share in token.top[:3])
    return {"token": quoted(token.text), "bits": token.bits, "rank": token.rank, "expected": expected}


def print_reports(reports: Sequence[Report], *, as_json: bool, several: bool) -> None:
    """Print the evaluation of one model, or of several on the same text."""
    if as_json:
        values = [report.as_dict() for report in reports]
        print_result(json.dumps(values if several else values[0]))
    elif several:
        print_list([_row(report) for report in reports], as_json=False)
        print_result(*_baselines(reports[0]), sep="\n")
    else:
        print_result(*lines(reports[0]), sep="\n")


def lines(report: Report) -> Iterator[str]:
    """Yield the evaluation of one model as lines of text."""
    score = report.score
    yield (
        f"loss {score.loss:.4f}  perplexity {score.perplexity:.3f}  bits per byte {score.bits_per_byte:.4f}  "
        f"bits per character {score.bits_per_character:.4f}"
    )
    yield (
        f"tokens {score.tokens:,}  stride {score.stride}  most likely token correct {score.top1:.1%}  among the five most likely "
        f"{score.top5:.1%}"
    )
    yield from _baselines(report)
    if report.overfitting_since is not None:
        yield f"overfitting since step {report.overfitting_since:,}: the validation loss rose, the training loss fell"
    if report.samples:
        yield from _samples(report.samples)


def _baselines(report: Report) -> Iterator[str]:
    if report.baselines:
        values = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in asdict(report.baselines).items())
        yield f"baselines in bits per byte: {values}"
        yield report.verdict or ""


def _samples(samples: Samples) -> Iterator[str]:
    """Yield the properties of samples, each followed by that of held-out text of equal size."""
    copied, held_out, variety, usual = samples.copied, samples.held_out_copied, samples.variety, samples.held_out_variety
    yield (
        f"copied from the training text: {copied.share:.1%} of {samples.samples} samples, longest run {copied.longest} bytes "
        f"(held-out text: {held_out.share:.1%}, {held_out.longest})"
    )
    yield (
        f"different words {variety.distinct_1:.2f}, pairs {variety.distinct_2:.2f}, triples {variety.distinct_3:.2f}, repetition "
        f"{variety.repetition:.1%} (held-out text: {usual.distinct_1:.2f}, {usual.distinct_2:.2f}, {usual.distinct_3:.2f}, "
        f"{usual.repetition:.1%})"
    )
    if samples.grammatical is not None:
        yield f"sentences that the grammar of the stories accepts: {samples.grammatical:.1%}"


def _row(report: Report) -> dict[str, object]:
    """Return a model as a row of a table."""
    score, samples = report.score, report.samples
    return {
        "model": str(report.model),
        "engine": report.engine,
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits per byte": score.bits_per_byte,
        "top 1": score.top1,
        "top 5": score.top5,
        "tokens": score.tokens,
        "copied": samples.copied.share if samples else None,
    }
