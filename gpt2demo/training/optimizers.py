"""The built-in optimizer, registered through the same hook as a plugin's, and layer freezing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import OptimizerFactory

if TYPE_CHECKING:
    import torch

    from gpt2demo.config import TrainConfig
    from gpt2demo.model import GPT2


def adamw(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019). Matrices decay, biases and norms do not; without weight decay it is Adam."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


@hookimpl
def gpt2demo_optimizers() -> dict[str, OptimizerFactory]:
    """Return the built-in optimizers by name."""
    return {"adamw": adamw}


def freeze(model: GPT2, layers: int) -> None:
    """Exclude the embeddings and the first layers from training; do nothing if `layers` is 0."""
    if layers:
        for part in (model.wte, model.wpe, *model.h[:layers]):
            part.requires_grad_(False)
