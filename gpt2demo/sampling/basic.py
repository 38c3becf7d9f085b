"""Temperature, top-k and top-p: the three that everybody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.ranking import SMALL, Ranking, largest, only, ranking, sums_before
from gpt2demo.sampling.traced import LARGEST, at_least, at_most, drawable, is_traced

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-20  # from here on no logit below 3e18 overflows; below, the best token is taken
SMALLEST_P = 1e-4  # float32 probabilities are right within less than this: of equally likely ones not all are ruled out


class Temperature(Sampler):
    """Divide the logits: below 1 sharpens the distribution, above 1 flattens it, 0 is greedy."""

    value: float = Field(0.8, ge=0, le=1e6, description="below 1 is safer, above 1 wilder, 0 always takes the likeliest")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Scaled logits; at 0 everything but the first maximum is -inf.

        Inside a graph 0 is a very small number instead, where several equal maxima survive.
        """
        import torch

        if not is_traced(self.value) and self.value < SMALLEST:
            best = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
            return logits.new_full(logits.shape, float("-inf")).scatter(-1, best, 0.0)
        scaled = logits / at_least(SMALLEST, self.value)
        if torch.compiler.is_compiling() or self.value >= 1 or drawable(scaled):  # a model's logits are far from overflowing
            return scaled
        return scaled.clamp(-LARGEST, LARGEST).where(logits.isfinite(), logits)


class TopK(Sampler):
    """Keep the k most likely tokens (Fan et al. 2018); among equal ones those with the lowest ids.

    The one difference from transformers, which keeps all that are equal to the k-th.
    """

    k: int = Field(40, ge=1, le=1_000_000, description="how many tokens may be drawn")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Exactly k entries survive, also with ties; fewer where fewer were left."""
        return only(logits, largest(logits, at_most(logits.shape[-1], self.k)))


class TopP(Sampler):
    """Keep the smallest set of most likely tokens that has at least probability p (Holtzman et al. 2020, section 3.1)."""

    p: float = Field(0.95, gt=0, le=1, description="how much probability may be drawn from")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """The most likely token always survives; among equal ones at the border those with the lowest ids do.

        A p below 0.0001 counts as that: it makes a difference only where more than ten thousand tokens are equally likely.
        """
        if not is_traced(self.p) and self.p == 1:
            return logits  # also what is too unlikely to change a sum
        p = at_least(SMALLEST_P, self.p)
        ranked, probabilities = self._ranked(logits, p)
        kept = ranked.values.masked_fill(sums_before(probabilities) >= p, float("-inf"))
        return only(logits, ranked._replace(values=kept))

    def _ranked(self, logits: Tensor, p: float) -> tuple[Ranking, Tensor]:
        """The tokens that may survive, and their probabilities (B, n) float64.

        What is not above (1 - p) / V in probability has together at most 1 - p and is ruled out: it need not be sorted. Of
        GPT-2's 50,257 tokens a few hundred are left, and sorting them all would take longer than the model.
        """
        known, width = ranking(logits), logits.shape[-1]
        if known or width <= SMALL:
            ranked = known or largest(logits, width)
            return ranked, ranked.values.double().softmax(dim=-1)
        probabilities = logits.softmax(dim=-1)  # (B, V)
        likely = probabilities > (1 - p) / width
        ranked = largest(logits, likely.float().sum(dim=-1).amax(dim=0).long())
        return ranked, probabilities.gather(-1, ranked.ids).double()
