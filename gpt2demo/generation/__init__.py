"""Generate text: load a model, continue a prompt or a batch of prompts, stream the text."""

from gpt2demo.generation.continuation import Continuation
from gpt2demo.generation.generate import Generation, Model

__all__ = ["Continuation", "Generation", "Model"]
