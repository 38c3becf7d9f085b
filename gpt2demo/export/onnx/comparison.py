"""Compare the logits of two models, and keep logits in files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpt2demo.metrics import log_softmax

LIMIT = 1e-3
"""Largest allowed difference of a logit in float32. If the two best logits are closer than this, either may be the best."""
RELATIVE = 1e-4
"""The same, relative to the largest logit, if that is less. Rounding in float32 is proportional to the logits; on models with 2
to 12 layers it was at most 2e-6 of the largest."""
BLOCK = 16
"""Positions per block of a comparison, which needs a few copies in float64: 6 MB each with GPT-2's vocabulary."""

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Logits(Protocol):
    """Logits (N, V) in memory or in a file."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, key: slice, /) -> Floats:
        """Return the logits of some positions."""
        ...


class StoredLogits:
    """Logits (N, V) in a file, of which only the requested positions are in memory.

    Args:
        file: a file written by `numpy.save`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def __len__(self) -> int:
        """Return N."""
        return len(np.load(self._file, mmap_mode="r", allow_pickle=False))

    def __getitem__(self, key: slice) -> Floats:
        """Return a copy of the logits of some positions. The file is mapped only for this."""
        return np.array(np.load(self._file, mmap_mode="r", allow_pickle=False)[key])


class LogitsCache:
    """Logits of rows of ids, computed once and kept in files, so that a model need not be in memory while another is compared.

    Args:
        folder: an empty folder for the files.
        compute: returns the logits (T, V) of a row (T,).
    """

    def __init__(self, folder: Path, compute: Callable[[Ids], Floats]) -> None:
        self._folder = folder
        self._compute: Callable[[Ids], Floats] | None = compute
        folder.mkdir()

    def __call__(self, ids: Ids) -> StoredLogits:
        """Return the logits of a row."""
        file = self._folder / f"{hashlib.sha256(ids.tobytes()).hexdigest()}.npy"
        if not file.exists():
            assert self._compute is not None, "this row was not computed before the model was released"
            np.save(file, self._compute(ids))
        return StoredLogits(file)

    def release(self) -> None:
        """Drop the model."""
        self._compute = None


@dataclass
class Comparison:
    """Accumulated difference between the logits of two models.

    Attributes:
        mode: the mode of the measured model.
        positions: number of compared positions.
        largest: largest difference of a logit.
        scale: largest magnitude of a reference logit.
        divergence: sum of the divergences, in nats.
        agreed: positions where the most likely token is the same.
        mismatches: positions where it differs, and the two best logits are not nearly equal.
    """

    mode: str
    positions: int = 0
    largest: float = 0.0
    scale: float = 0.0
    divergence: float = 0.0
    agreed: int = 0
    mismatches: int = 0

    def add(self, reference: Logits, measured: Logits, first: int = 0) -> None:
        """Add positions: logits (N, V), compared with N positions of the reference from `first` on."""
        for start in range(0, len(measured), BLOCK):
            block = measured[start : start + BLOCK]
            self._add(reference[first + start : first + start + len(block)], block)

    def _add(self, reference: Floats, measured: Floats) -> None:
        second, best = np.partition(reference, -2, axis=-1)[:, -2:].T if reference.shape[1] > 1 else (0.0, np.inf)
        agree = reference.argmax(axis=-1) == measured.argmax(axis=-1)
        p, q = log_softmax(reference), log_softmax(measured)
        self.positions += len(reference)
        self.largest = float(np.maximum(self.largest, np.abs(reference - measured).max()))  # keeps NaN, unlike max()
        self.scale = float(np.maximum(self.scale, np.abs(reference).max()))
        self.divergence += float((np.exp(p) * (p - q)).sum())
        self.agreed += int(agree.sum())
        self.mismatches += int((~agree & (best - second > LIMIT)).sum())

    @property
    def limit(self) -> float:
        """Largest allowed difference of a logit in float32."""
        return min(LIMIT, RELATIVE * self.scale)

    @property
    def violation(self) -> str | None:
        """Description of an exceeded limit of a model that computes in float32, or None."""
        if not self.largest <= self.limit:
            return f"{self.mode}: a logit differs by {self.largest:.3g}, the limit is {self.limit:.3g}"
        if self.mismatches:
            return f"{self.mode}: the most likely token differs at {self.mismatches} of {self.positions} positions"
        return None

    def divergence_above(self, limit: float) -> str | None:
        """Return a description of a mean divergence above a limit, or None."""
        message = f"{self.mode}: the distributions diverge by {self.mean_divergence:.3g} nats, the limit is {limit:.3g}"
        return None if self.mean_divergence <= limit else message

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
