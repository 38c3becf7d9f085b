"""Top-nσ sampling (Tang et al. 2024, "Top-nσ: Not All Logits Are You Need", arXiv 2411.07641)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gpt2demo import hookimpl
from gpt2demo.interfaces import Sampler, SamplingContext

if TYPE_CHECKING:
    from torch import Tensor


class TopNSigma(Sampler):
    """Keep the tokens whose logit is at most n standard deviations below the largest one."""

    n: float = Field(1.0, ge=0, le=100, description="standard deviations below the largest logit; 0 is greedy")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Keep at least the most likely token, and all tokens if they are equally likely.

        The standard deviation is that of the finite logits.
        """
        allowed = logits.isfinite()  # (B, V)
        exact = logits.double()  # squares of large float32 values would overflow
        count = allowed.sum(dim=-1, keepdim=True)  # (B, 1)
        mean = exact.where(allowed, 0.0).sum(dim=-1, keepdim=True) / count
        variance = (exact - mean).where(allowed, 0.0).square().sum(dim=-1, keepdim=True) / count
        threshold = exact.amax(dim=-1, keepdim=True) - self.n * variance.sqrt()
        return logits.masked_fill(exact < threshold, float("-inf"))


@hookimpl
def gpt2demo_samplers() -> dict[str, type[Sampler]]:
    """Return the sampler of this plugin."""
    return {"top-n-sigma": TopNSigma}
