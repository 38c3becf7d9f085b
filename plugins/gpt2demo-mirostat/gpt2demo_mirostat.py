"""Mirostat version 2 (Basu et al. 2021, "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity")."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from gpt2demo import hookimpl
from gpt2demo.interfaces import Sampler, SamplingContext

if TYPE_CHECKING:
    from torch import Tensor


class Mirostat(Sampler):
    """Hold the surprise of the drawn tokens near a target, by a limit on surprise that each drawn token moves."""

    tau: float = Field(5.0, ge=0, le=30, description="target surprise in bits per token; lower is safer, higher is wilder")
    eta: float = Field(0.1, gt=0, le=1, description="how fast the limit follows what was drawn")
    traceable: ClassVar[bool] = False  # the limit lives from token to token

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """What surprises more than the limit is ruled out; the most likely tokens always survive."""
        limit = context.state.setdefault("limit", logits.new_full((len(logits), 1), 2 * self.tau))  # (B, 1), in bits
        too_much = (bits(logits) > limit) & (logits < logits.amax(dim=-1, keepdim=True))  # (B, V)
        result = logits.masked_fill(too_much, float("-inf"))
        context.state["surprise"] = bits(result)
        return result

    def observe(self, ids: Tensor, context: SamplingContext) -> None:
        """Move each row's limit by how far its token's surprise was from the target."""
        surprise = context.state["surprise"].gather(-1, ids.unsqueeze(-1))  # (B, 1)
        context.state["limit"] = context.state["limit"] - self.eta * (surprise - self.tau)


def bits(logits: Tensor) -> Tensor:
    """Each token's surprise, -log2 p: (B, V); inf for what is ruled out."""
    return logits.log_softmax(dim=-1) / -math.log(2)


@hookimpl
def gpt2demo_samplers() -> dict[str, type[Sampler]]:
    """What this plugin gives."""
    return {"mirostat": Mirostat}
