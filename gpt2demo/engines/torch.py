"""The PyTorch engine: the model itself with a preallocated key/value cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from gpt2demo.config import ModelConfig
from gpt2demo.engines import check_feed
from gpt2demo.model import GPT2, KeyValueCache


class TorchEngine:
    """Runs a `GPT2` step by step.

    Args:
        model: the model, on its device. It is put into evaluation mode during `feed` and left as it was.
    """

    name = "torch"

    def __init__(self, model: GPT2) -> None:
        self.model = model
        self.config: ModelConfig = model.config
        self.n_positions = model.config.n_positions
        self.vocab_size = model.config.vocab_size
        self._device = model.wte.weight.device
        self.provider: str = self._device.type
        self._cache: KeyValueCache | None = None

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self._cache.length if self._cache else 0

    def reset(self) -> None:
        """Empty the cache."""
        self._cache = None

    def feed(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read (B, T) further ids; give the logits (B, V) after the last."""
        check_feed(ids, self)
        if self._cache is None:
            self._cache = KeyValueCache(self.config, ids.shape[0], self.model.wte.weight)
        return self._forward(ids, self._cache, last_only=True)[:, -1]

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Logits at every position, (B, T) -> (B, T, V)."""
        self.reset()
        check_feed(ids, self)
        return self._forward(ids, None, last_only=False)

    @torch.inference_mode()
    def _forward(self, ids: npt.NDArray[np.int64], cache: KeyValueCache | None, *, last_only: bool) -> npt.NDArray[np.float32]:
        """Run the model without dropout, and leave it in the mode it was in."""
        training = self.model.training
        self.model.eval()
        logits = self.model(torch.from_numpy(ids).to(self._device), cache, last_only=last_only)
        self.model.train(training)
        result: npt.NDArray[np.float32] = logits.float().cpu().numpy()
        return result
