"""A model that is split over the devices of several processes, for models that do not fit on one (FSDP2).

A sharded tensor is a `DTensor`, of which each process has a part. Checkpoints contain whole tensors, and are the same folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gpt2demo.model import GPT2
from gpt2demo.runs.weights import HasState, meta_model, with_weights
from gpt2demo.training.parallel import Replicated


@dataclass(frozen=True)
class WholeState:
    """The state of an optimizer with whole tensors, on the CPU."""

    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        return self.state


class Sharded(Replicated):
    """Every process has a part of each weight, gradient and moment. The weights of a layer are gathered while it computes."""

    sharded = True

    def place(self, model: GPT2) -> GPT2:
        """Split a model over the devices, layer by layer: none of them holds all of it at any time.

        The embeddings belong to the whole model, whose output head they are.
        """
        mesh = init_device_mesh(self.device.type, (self.group.size,))
        for block in model.h:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def averaging(self, loss: nn.Module) -> nn.Module:
        """Return the module itself: a sharded model averages its gradients in every backward pass.

        Adding up whole gradients over several passes would need the memory that sharding saves.
        """
        return loss

    def whole(self, tensor: Tensor) -> Tensor:
        """Return the whole of a sharded tensor."""
        found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return found

    def to_save(self, model: GPT2, optimizer: torch.optim.Optimizer) -> tuple[GPT2, HasState]:
        """Return copies of model and optimizer state with whole tensors, on the CPU."""
        weights = {name: self._copy(tensor) for name, tensor in model.state_dict().items()}
        stored = optimizer.state_dict()
        state = {index: {key: self._copy(value) for key, value in values.items()} for index, values in stored["state"].items()}
        return with_weights(meta_model(model.config), weights, "the model"), WholeState({**stored, "state": state})

    def _copy(self, value: Any) -> Any:
        return self.whole(value.detach()).cpu() if isinstance(value, Tensor) else value

    def load_weights(self, model: GPT2, weights: dict[str, Tensor]) -> None:
        """Load this process's part of whole weights."""
        own = model.state_dict()
        model.load_state_dict({name: _part(tensor, own[name]) for name, tensor in weights.items()})

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load this process's part of a whole optimizer state."""
        own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        parts = {
            index: {key: _part(value, own[index]) for key, value in values.items()} for index, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": parts})


def _part(value: Any, like: Tensor) -> Any:
    """Return this process's part of a whole tensor of the shape of `like`, which is sharded; other values as they are."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
