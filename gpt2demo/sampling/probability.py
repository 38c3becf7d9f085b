"""Samplers that rule tokens out by their probability alone, without counting them: min-p, typical, epsilon, eta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.ranking import largest

if TYPE_CHECKING:
    from torch import Tensor


class MinP(Sampler):
    """Keep the tokens that have at least this fraction of the best token's probability (Nguyen et al. 2024)."""

    threshold: float = Field(0.05, ge=0, le=1, description="fraction of the likeliest token's probability that a token needs")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """The most likely token always survives."""
        probabilities = logits.softmax(dim=-1)  # (B, V)
        needed = self.threshold * probabilities.amax(dim=-1, keepdim=True)  # (B, 1)
        return logits.masked_fill(probabilities < needed, float("-inf"))


class Typical(Sampler):
    """Keep the tokens whose surprise is nearest to the expected one, up to probability p (Meister et al. 2022).

    The expected surprise is the distribution's entropy. A token that is far too likely is as untypical as one that is too rare.
    """

    p: float = Field(0.95, gt=0, le=1, description="how much probability the typical tokens have together")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """The most typical token always survives, with all that are equally typical."""
        logarithms = logits.double().log_softmax(dim=-1)  # (B, V), minus each token's surprise in nats
        typicality = -(logarithms + entropy(logarithms)).abs()  # (B, V), 0 is best
        ranked = largest(typicality)
        filled = logarithms.gather(-1, ranked.ids).softmax(dim=-1).cumsum(dim=-1)
        last = (filled < self.p).sum(dim=-1, keepdim=True).clamp(max=ranked.ids.shape[-1] - 1)  # (B, 1)
        return logits.masked_fill(typicality < ranked.values.gather(-1, last), float("-inf"))


class Epsilon(Sampler):
    """Keep the tokens with at least this probability (Hewitt et al. 2022)."""

    cutoff: float = Field(3e-4, gt=0, lt=1, description="probability that a token needs")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """The most likely tokens always survive."""
        return without_unlikely(logits, self.cutoff)


class Eta(Sampler):
    """Epsilon with a cutoff that sinks where the model is unsure (Hewitt et al. 2022)."""

    cutoff: float = Field(6e-4, gt=0, lt=1, description="probability that a token needs where the model is sure")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """The most likely tokens always survive."""
        doubt = entropy(logits.double().log_softmax(dim=-1))  # (B, 1)
        return without_unlikely(logits, (self.cutoff**0.5 * (-doubt).exp()).clamp(max=self.cutoff))


def without_unlikely(logits: Tensor, cutoff: Tensor | float) -> Tensor:
    """Rule out what has less probability than the cutoff, (B, 1) or a number, but never the maximum."""
    unlikely = (logits.softmax(dim=-1) < cutoff) & (logits < logits.amax(dim=-1, keepdim=True))
    return logits.masked_fill(unlikely, float("-inf"))


def entropy(logarithms: Tensor) -> Tensor:
    """Of distributions given as logarithms of their probabilities, (B, V) float64, in nats: (B, 1).

    What is ruled out adds nothing, though 0 · -inf is NaN. In float32 fifty thousand terms in another order give another sum.
    """
    return -(logarithms.exp() * logarithms).nansum(dim=-1, keepdim=True)
