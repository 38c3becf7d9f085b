"""Inference engines: `torch.py` and `onnx.py` implement the same interface, `gpt2demo.interfaces.Engine`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import SettingError
from gpt2demo.interfaces import Engine


def check_feed(ids: npt.NDArray[np.int64], engine: Engine, padding: npt.NDArray[np.int64] | None = None) -> None:
    """Check the arguments of `Engine.feed` before they reach a runtime.

    Raises:
        SettingError: an id, the number of positions or the padding is invalid; see `Engine.feed`.
    """
    if ids.ndim != 2 or ids.size == 0:
        raise SettingError(f"ids of shape {ids.shape}: expected (batch, at least one position)")
    low, high = (int(ids.item()),) * 2 if ids.size == 1 else (int(ids.min()), int(ids.max()))
    if low < 0 or high >= engine.vocab_size:
        raise SettingError(f"id {low if low < 0 else high} is outside the vocabulary of {engine.vocab_size}")
    if engine.length + ids.shape[1] > engine.n_positions:
        raise SettingError(f"{engine.length + ids.shape[1]} positions are more than the context of {engine.n_positions}")
    if padding is None:
        return
    if engine.length:
        raise SettingError(f"padding after {engine.length} positions: it is only allowed with the first ids after a reset")
    if padding.shape != ids.shape[:1] or int(padding.min()) < 0 or int(padding.max()) >= ids.shape[1]:
        allowed = f"one value for each of {ids.shape[0]} rows, from 0 to {ids.shape[1] - 1}"
        raise SettingError(f"padding {padding.tolist()}: expected {allowed}")
