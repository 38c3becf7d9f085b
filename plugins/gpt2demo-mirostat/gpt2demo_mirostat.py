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
    """Keep the surprise of the drawn tokens near a target, with a limit on surprise that is adjusted after each token."""

    tau: float = Field(5.0, ge=0, le=30, description="target surprise in bits per token; lower is safer, higher is more varied")
    eta: float = Field(0.1, gt=0, le=1, description="learning rate of the limit")
    traceable: ClassVar[bool] = False  # the limit is a state

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Rule out tokens whose surprise exceeds the limit, but never the most likely ones."""
        limit = context.state.setdefault("limit", logits.new_full((len(logits), 1), 2 * self.tau))  # (B, 1), in bits
        excluded = (bits(logits) > limit) & (logits < logits.amax(dim=-1, keepdim=True))  # (B, V)
        result = logits.masked_fill(excluded, float("-inf"))
        context.state["surprise"] = bits(result)
        return result

    def observe(self, ids: Tensor, context: SamplingContext) -> None:
        """Adjust each row's limit by the difference between its token's surprise and the target."""
        surprise = context.state["surprise"].gather(-1, ids.unsqueeze(-1))  # (B, 1)
        context.state["limit"] = context.state["limit"] - self.eta * (surprise - self.tau)


def bits(logits: Tensor) -> Tensor:
    """Return each token's surprise, -log2 p, (B, V); inf for tokens that are ruled out."""
    return logits.log_softmax(dim=-1) / -math.log(2)


@hookimpl
def gpt2demo_samplers() -> dict[str, type[Sampler]]:
    """Return the sampler of this plugin."""
    return {"mirostat": Mirostat}
