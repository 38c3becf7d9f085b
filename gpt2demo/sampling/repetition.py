"""Samplers that read the text so far: penalties for repeated tokens, and a ban on repeated n-grams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gpt2demo.interfaces import Sampler, SamplingContext
from gpt2demo.sampling.basic import MAX_FLOAT32

if TYPE_CHECKING:
    from torch import Tensor


class RepetitionPenalty(Sampler):
    """Make each token of the text so far, including the prompt, less likely (Keskar et al. 2019)."""

    penalty: float = Field(1.2, ge=0.01, le=100, description="above 1 discourages repetition, below 1 encourages it")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Divide positive logits and multiply negative ones, once per token. Finite logits stay finite."""
        seen = logits.gather(-1, context.ids)  # (B, T)
        penalised = (seen * self.penalty).where(seen < 0, seen / self.penalty).clamp(-MAX_FLOAT32, MAX_FLOAT32)
        return logits.scatter(-1, context.ids, penalised.where(seen.isfinite(), seen))


class FrequencyPenalty(Sampler):
    """Subtract the penalty from a token's logit for each time it was generated. The prompt does not count."""

    penalty: float = Field(0.5, ge=-2, le=2, description="per occurrence; above 0 discourages repetition, below 0 encourages it")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Subtract the penalties; a token that is ruled out stays so."""
        return logits - self.penalty * occurrences(logits, context)


class PresencePenalty(Sampler):
    """Subtract the penalty once from the logit of each token that was generated. The prompt does not count."""

    penalty: float = Field(0.5, ge=-2, le=2, description="above 0 discourages repetition, below 0 encourages it")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Subtract the penalties; a token that is ruled out stays so."""
        return logits - self.penalty * occurrences(logits, context).clamp(max=1)


class NoRepeatNgram(Sampler):
    """Rule out the tokens that would repeat an n-gram of the text so far, including the prompt (Paulus et al. 2017)."""

    size: int = Field(3, ge=1, le=1000, description="length n of the n-grams that must not repeat")

    def __call__(self, logits: Tensor, context: SamplingContext) -> Tensor:
        """Leave a row unchanged if no token would be left."""
        from torch.nn import functional as F

        n = self.size
        ids = F.pad(context.ids, (n, 0), value=-1)  # -1 is no token: a short text needs no branch
        windows = context.ids.shape[1] + 1  # the n-grams that end with each token, and one of padding
        after = ids[:, n - 1 :]  # (B, windows), each n-gram's last token
        same = after >= 0  # then only those whose other tokens are the latest n - 1 tokens
        for offset in range(n - 1):
            same = same & (ids[:, offset : offset + windows] == ids[:, windows + offset, None])
        banned = logits.new_zeros(logits.shape).scatter_add(-1, after.clamp(min=0), same.to(logits.dtype)) > 0
        rest = logits.masked_fill(banned, float("-inf"))
        return rest.where(rest.amax(dim=-1, keepdim=True) > float("-inf"), logits)


def occurrences(logits: Tensor, context: SamplingContext) -> Tensor:
    """Return how often each token was generated: (B, V) float32."""
    generated = context.ids[:, context.prompt_length :]  # (B, t)
    return logits.new_zeros(logits.shape).scatter_add(-1, generated, logits.new_ones(generated.shape))
