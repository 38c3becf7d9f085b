"""The optimizer: torch's Muon and AdamW with a common state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from gpt2demo.config import TrainConfig


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers with one state and one list of parameter groups, as a checkpoint stores them.

    Args:
        muon: for its parameters.
        adamw: for its parameters.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._parts = ((muon, slice(0, len(muon.param_groups))), (adamw, slice(len(muon.param_groups), None)))
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure is used
        """Update all parameters. State and groups are passed on each time, because `load_state_dict` replaces them."""
        for optimizer, groups in self._parts:
            optimizer.state, optimizer.param_groups = self.state, self.param_groups[groups]
            optimizer.step()  # type: ignore[no-untyped-call]  # not annotated in torch


def muon_and_adamw(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return Muon for the matrices of the layers, and AdamW for embeddings, biases and norms.

    Muon's updates are scaled to the root mean square of AdamW's (Liu et al. 2025, section 2.2), so that both use the configured
    learning rate and weight decay.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if name.startswith("h.") and p.dim() == 2]
    embeddings = [p for name, p in named if not name.startswith("h.") and p.dim() == 2]
    vectors = [p for _, p in named if p.dim() < 2]
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    groups: list[dict[str, Any]] = [{"params": embeddings}, {"params": vectors, "weight_decay": 0.0}]
    return MuonAdamW(
        torch.optim.Muon([{"params": matrices}], adjust_lr_fn="match_rms_adamw", **settings),
        torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), fused=True, **settings),
    )
