"""What runs a model: `torch.py` and `onnx.py`, behind the same contract (`gpt2demo.interfaces.Engine`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import SettingError
from gpt2demo.interfaces import Engine


def check_feed(ids: npt.NDArray[np.int64], engine: Engine) -> None:
    """Refuse ids that a model cannot read, before any runtime sees them.

    Raises:
        SettingError: an id is outside the vocabulary, or there are more positions than the model has.
    """
    if ids.ndim != 2 or ids.size == 0:
        raise SettingError(f"ids of shape {ids.shape}: expected (batch, at least one position)")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= engine.vocab_size:
        raise SettingError(f"id {low if low < 0 else high}: is outside the vocabulary of {engine.vocab_size}")
    if engine.length + ids.shape[1] > engine.n_positions:
        raise SettingError(f"{engine.length + ids.shape[1]} positions are more than the context of {engine.n_positions}")
