"""How a model lies on the devices of several processes: a replica on each, or, in `sharding.py`, a part on each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gpt2demo.model import GPT2
from gpt2demo.runs.weights import HasState
from gpt2demo.training.processes import Group


class Replicated:
    """Every process has the whole model; the gradients are averaged over the processes (DDP). One process has the only replica.

    Args:
        group: the processes.
        device: this process's.
    """

    sharded = False
    """Whether each process has a part of the weights only, which is lost when the process ends."""

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group, self.device = group, device

    def place(self, model: GPT2) -> GPT2:
        """Move a model to the devices, before its optimizer is created."""
        return model.to(self.device)

    def averaging(self, loss: nn.Module) -> nn.Module:
        """Return a module whose backward pass averages the gradients over the processes."""
        if self.group.size == 1:
            return loss
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(loss, device_ids=devices, gradient_as_bucket_view=True)

    def average_next(self, loss: nn.Module, *, wanted: bool) -> None:
        """Set whether the next backward pass of `averaging`'s module averages, or only adds to this process's gradients."""
        if isinstance(loss, DistributedDataParallel):
            loss.require_backward_grad_sync = wanted

    def whole(self, tensor: Tensor) -> Tensor:
        """Return the whole of a tensor that was computed from gradients. All processes take part."""
        return tensor

    def to_save(self, model: GPT2, optimizer: torch.optim.Optimizer) -> tuple[GPT2, HasState]:
        """Return the whole model and optimizer state. All processes take part."""
        return model, optimizer

    def load_weights(self, model: GPT2, weights: dict[str, Tensor]) -> None:
        """Load whole weights."""
        model.load_state_dict(weights)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load a whole optimizer state."""
        optimizer.load_state_dict(state)


def layout(group: Group, device: torch.device, *, shard: bool) -> Replicated:
    """Return how the model lies on the devices. One process has all of it. Importing torch's sharding takes a second."""
    if not shard or group.size == 1:
        return Replicated(group, device)
    from gpt2demo.training.sharding import Sharded

    return Sharded(group, device)
