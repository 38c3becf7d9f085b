"""Samplers with a threshold on each token's probability: min-p, typical, epsilon and eta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.ranking import largest

if TYPE_CHECKING:
    from torch import Tensor


class MinP(Sampler):
    """Keep the tokens with at least a fraction of the most likely token's probability (Nguyen et al. 2024)."""

    threshold: float = Field(0.05, ge=0, le=1, description="minimum probability, as a fraction of the likeliest token's")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Keep at least the most likely token."""
        probabilities = logits.softmax(dim=-1)  # (B, V)
        minimum = self.threshold * probabilities.amax(dim=-1, keepdim=True)  # (B, 1)
        return logits.masked_fill(probabilities < minimum, float("-inf"))


class Typical(Sampler):
    """Keep the tokens whose surprise is nearest to the expected surprise, up to probability p (Meister et al. 2022).

    The expected surprise is the distribution's entropy. A token that is far too likely is as untypical as one that is too rare.
    """

    p: float = Field(0.95, gt=0, le=1, description="probability mass of the typical tokens to keep")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Keep at least the most typical token, and all tokens as typical as the last one kept."""
        logprobs = logits.double().log_softmax(dim=-1)  # (B, V), the negative surprise in nats
        typicality = -(logprobs + entropy(logprobs)).abs()  # (B, V), at most 0
        ranked = largest(typicality)
        cumulative = logprobs.gather(-1, ranked.ids).softmax(dim=-1).cumsum(dim=-1)  # (B, n)
        last = (cumulative < self.p).sum(dim=-1, keepdim=True).clamp(max=ranked.ids.shape[-1] - 1)  # (B, 1)
        return logits.masked_fill(typicality < ranked.values.gather(-1, last), float("-inf"))


class Epsilon(Sampler):
    """Keep the tokens with at least this probability (Hewitt et al. 2022)."""

    cutoff: float = Field(3e-4, gt=0, lt=1, description="minimum probability")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Keep at least the most likely tokens."""
        return without_unlikely(logits, self.cutoff)


class Eta(Sampler):
    """Epsilon sampling with a cutoff that falls as the entropy rises (Hewitt et al. 2022)."""

    cutoff: float = Field(6e-4, gt=0, lt=1, description="minimum probability at low entropy")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Keep at least the most likely tokens."""
        nats = entropy(logits.double().log_softmax(dim=-1))  # (B, 1)
        return without_unlikely(logits, (self.cutoff**0.5 * (-nats).exp()).clamp(max=self.cutoff))


def without_unlikely(logits: Tensor, cutoff: Tensor | float) -> Tensor:
    """Rule out tokens with a probability below the cutoff, (B, 1) or a float, but never the maximum."""
    unlikely = (logits.softmax(dim=-1) < cutoff) & (logits < logits.amax(dim=-1, keepdim=True))
    return logits.masked_fill(unlikely, float("-inf"))


def entropy(logprobs: Tensor) -> Tensor:
    """Return the entropy in nats, (B, 1), of log-probabilities (B, V) float64.

    A token that is ruled out adds nothing, although 0 · -inf is NaN. In float32 the sum over 50,257 tokens would depend on the
    order of its terms.
    """
    return -(logprobs.exp() * logprobs).nansum(dim=-1, keepdim=True)
