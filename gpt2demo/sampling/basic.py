"""The temperature, top-k and top-p samplers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.ranking import SMALL, Ranking, RankingSampler, largest, on_gpu, sums_before
from gpt2demo.sampling.traced import at_least, at_most, is_traced

if TYPE_CHECKING:
    from torch import Tensor

MAX_FLOAT32 = 3.4028234663852886e38
MIN_TEMPERATURE = 1e-20  # at this temperature no logit below 3e18 overflows; lower temperatures are greedy
MIN_P = 1e-4  # larger than the error of float32 probabilities: equally likely tokens are not all ruled out


class Temperature(Sampler):
    """Divide the logits: below 1 sharpens the distribution, above 1 flattens it, 0 is greedy."""

    value: float = Field(0.8, ge=0, le=1e6, description="lower is safer, higher is more varied; 0 always takes the likeliest")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Return the scaled logits; at 0 all but the first maximum are -inf.

        In a traced graph 0 is replaced by `MIN_TEMPERATURE`, so that several equal maxima are kept.
        """
        import torch

        if not is_traced(self.value) and self.value < MIN_TEMPERATURE:
            best = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
            return logits.new_full(logits.shape, float("-inf")).scatter(-1, best, 0.0)
        scaled = logits / at_least(MIN_TEMPERATURE, self.value)
        if torch.compiler.is_compiling() or self.value >= 1:  # a model's logits are too small to overflow
            return scaled
        if not on_gpu(scaled) and drawable(scaled):
            return scaled
        return scaled.clamp(-MAX_FLOAT32, MAX_FLOAT32).where(logits.isfinite(), logits)


class TopK(RankingSampler):
    """Keep the k most likely tokens (Fan et al. 2018); among equally likely ones those with the lowest ids.

    Unlike transformers, which keeps all tokens that are as likely as the k-th.
    """

    k: int = Field(40, ge=1, le=1_000_000, description="number of most likely tokens to keep")

    def keep(self, logits: Tensor, ranking: Ranking | None) -> Ranking | None:
        """Keep exactly k tokens, also with ties; fewer if fewer are left."""
        return largest(logits, at_most(logits.shape[-1], self.k), ranking)


class TopP(RankingSampler):
    """Keep the smallest set of most likely tokens with at least probability p (Holtzman et al. 2020, section 3.1)."""

    p: float = Field(0.95, gt=0, le=1, description="probability mass to keep")

    def keep(self, logits: Tensor, ranking: Ranking | None) -> Ranking | None:
        """Keep at least the most likely token; among equally likely ones at the cutoff those with the lowest ids.

        A p below `MIN_P` is raised to it. This matters only if more than ten thousand tokens are equally likely.
        """
        if not is_traced(self.p) and self.p == 1:
            return None  # also keeps tokens that are too unlikely to change a sum
        p = at_least(MIN_P, self.p)
        ranked, probabilities = self._ranked(logits, p, ranking)
        return ranked._replace(values=ranked.values.masked_fill(sums_before(probabilities) >= p, float("-inf")))

    def _ranked(self, logits: Tensor, p: float, ranking: Ranking | None) -> tuple[Ranking, Tensor]:
        """Return a ranking of the tokens that may be kept, and their probabilities (B, n) float64.

        Tokens with a probability of at most (1 - p) / V have together at most 1 - p and are ruled out without sorting. A few
        hundred of GPT-2's 50,257 tokens are left; sorting them all would take longer than the model.
        """
        width = logits.shape[-1]
        if ranking is not None or width <= SMALL or on_gpu(logits):
            ranked = ranking or largest(logits, width)
            return ranked, ranked.values.double().softmax(dim=-1)
        probabilities = logits.softmax(dim=-1)  # (B, V)
        likely = probabilities > (1 - p) / width
        ranked = largest(logits, likely.float().sum(dim=-1).amax(dim=0).long())
        return ranked, probabilities.gather(-1, ranked.ids).double()


def drawable(logits: Tensor) -> bool:
    """Return whether each row of (B, V) has a finite entry, and none that is NaN or +inf."""
    return all(map(math.isfinite, logits.amax(dim=-1).tolist()))  # amax propagates NaN and +inf; a row of -inf gives -inf
