"""Output of `gpt2demo train --dry-run`, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

from gpt2demo.cli.printing import print_result
from gpt2demo.memory import in_units

if TYPE_CHECKING:
    from gpt2demo.training.fit import Estimate


def print_estimate(estimate: Estimate, *, as_json: bool) -> None:
    """Print what a training would need, and whether it fits."""
    if as_json:
        print_result(json.dumps({**asdict(estimate), "fits": estimate.fits}))
    else:
        print_result(*(f"{name:<12}{text}" for name, text in _rows(estimate)), sep="\n")


def _rows(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each line."""
    yield "parameters", f"{estimate.parameters:,}"
    batch = f"{estimate.batch_size} sequences x {estimate.grad_accumulation}"
    yield "steps", f"{estimate.steps:,} of {estimate.tokens_per_step:,} tokens each ({batch})"
    needed = "more than available" if estimate.memory is None else in_units(estimate.memory)
    yield "memory", f"{needed}, of {in_units(estimate.available)} available ({estimate.device}, {estimate.dtype})"
    if estimate.step_seconds is not None and estimate.seconds is not None:
        total = timedelta(seconds=round(estimate.seconds))
        yield "time", f"{estimate.step_seconds:.3g} s per step, {total} until the end with evaluations"
    yield "disk", f"{in_units(estimate.disk)} for checkpoints, {in_units(estimate.disk_free)} free"
    yield "fits", _verdict(estimate)


def _verdict(estimate: Estimate) -> str:
    """Return whether a training fits, with the nearest setting if it does not."""
    if estimate.fits:
        return "yes"
    if estimate.disk > estimate.disk_free:
        return "no: the disk is too small; try a smaller --keep"
    return f"no: try {estimate.advice or 'a smaller model or --n-positions'}"
