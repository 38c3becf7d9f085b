"""Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for all other parameters, as one optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2demo import hookimpl

if TYPE_CHECKING:
    import torch

    from gpt2demo.config import TrainConfig
    from gpt2demo.interfaces import OptimizerFactory


def muon(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return Muon for the matrices of the layers, and AdamW for embeddings, biases and norms."""
    from gpt2demo_muon.optimizer import muon_and_adamw  # imports torch

    return muon_and_adamw(model, config)


@hookimpl
def gpt2demo_optimizers() -> dict[str, OptimizerFactory]:
    """Return the optimizer of this plugin by name."""
    return {"muon": muon}
