"""Samplers that look back: penalties for tokens that were there, and no n-gram twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.traced import LARGEST

if TYPE_CHECKING:
    from torch import Tensor


class RepetitionPenalty(Sampler):
    """Make every token of the text so far less likely, once, the prompt's too (Keskar et al. 2019)."""

    penalty: float = Field(1.2, ge=0.01, le=100, description="above 1 avoids repetition, below 1 seeks it, 1 changes nothing")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Positive logits are divided, negative ones multiplied; finite ones stay finite."""
        seen = logits.gather(-1, context.ids)  # (B, T)
        penalised = (seen * self.penalty).where(seen < 0, seen / self.penalty).clamp(-LARGEST, LARGEST)
        return logits.scatter(-1, context.ids, penalised.where(seen.isfinite(), seen))


class FrequencyPenalty(Sampler):
    """Subtract this from a token's logit for each time that it was generated. The prompt does not count."""

    penalty: float = Field(0.5, ge=-2, le=2, description="per occurrence; above 0 avoids repetition, below 0 seeks it")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """A ruled-out token stays ruled out."""
        return logits - self.penalty * occurrences(logits, context)


class PresencePenalty(Sampler):
    """Subtract this from a token's logit once if it was generated at all. The prompt does not count."""

    penalty: float = Field(0.5, ge=-2, le=2, description="above 0 avoids repetition, below 0 seeks it")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """A ruled-out token stays ruled out."""
        return logits - self.penalty * occurrences(logits, context).clamp(max=1)


class NoRepeatNgram(Sampler):
    """Rule out the tokens that would complete an n-gram that the text, prompt included, already has (Paulus et al. 2017)."""

    size: int = Field(3, ge=1, le=1000, description="length n of the n-grams that may not come twice")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Where nothing else is left, the row stays as it is: a repetition is better than no token."""
        from torch.nn import functional as F

        n = self.size
        ids = F.pad(context.ids, (n, 0), value=-1)  # before the text is nothing: so there is no branch for a short one
        windows = context.ids.shape[1] + 1  # n-grams that end with each token, and one that is nothing
        after = ids[:, n - 1 :]  # (B, windows), each n-gram's last token
        same = after >= 0  # all of them; then only those whose other tokens are the latest n - 1 tokens
        for offset in range(n - 1):
            same = same & (ids[:, offset : offset + windows] == ids[:, windows + offset, None])
        banned = logits.new_zeros(logits.shape).scatter_add(-1, after.clamp(min=0), same.to(logits.dtype)) > 0
        rest = logits.masked_fill(banned, float("-inf"))
        return rest.where(rest.amax(dim=-1, keepdim=True) > float("-inf"), logits)


def occurrences(logits: Tensor, context: SamplingContext) -> Tensor:
    """How often each token was generated: (B, V) float32."""
    generated = context.ids[:, context.prompt_length :]  # (B, t)
    return logits.new_zeros(logits.shape).scatter_add(-1, generated, logits.new_ones(generated.shape))
