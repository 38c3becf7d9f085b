"""Built-in samplers, sampler chains, and the draw of the next token."""

from __future__ import annotations

from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Sampler


@hookimpl
def gpt2demo_samplers() -> dict[str, type[Sampler]]:
    """Return the built-in samplers, name -> class, in the order in which transformers applies them."""
    from gpt2demo.sampling.basic import Temperature, TopK, TopP
    from gpt2demo.sampling.probability import Epsilon, Eta, MinP, Typical
    from gpt2demo.sampling.repetition import FrequencyPenalty, NoRepeatNgram, PresencePenalty, RepetitionPenalty

    return {
        "repetition-penalty": RepetitionPenalty,
        "frequency-penalty": FrequencyPenalty,
        "presence-penalty": PresencePenalty,
        "no-repeat-ngram": NoRepeatNgram,
        "temperature": Temperature,
        "top-k": TopK,
        "top-p": TopP,
        "min-p": MinP,
        "typical": Typical,
        "epsilon": Epsilon,
        "eta": Eta,
    }
