"""Second part of the proof: the exported model writes what the original writes, greedily and with samplers in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig
from gpt2demo.engines.exported import GENERATE, MODEL
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import ExportError
from gpt2demo.generation.generate import Generation
from gpt2demo.generation.streaming import NoText
from gpt2demo.interfaces import Engine, SamplingContext
from gpt2demo.model import GPT2
from gpt2demo.sampling.draw import inverse, uniforms

GREEDY, SAMPLED, SHORT = 200, 64, 16
BORDER = 1e-3
"""How near a uniform number may be to the border between two tokens, in probability, for either to be right."""

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Options = Sequence[tuple[str, Mapping[str, Any]]]
"""A sampler chain: each sampler's name and options."""


class Watched(TorchEngine):
    """A PyTorch engine that keeps the logits it gave last."""

    def feed(self, ids: Ids, padding: Ids | None = None) -> Floats:
        """As `TorchEngine.feed`."""
        self.last = super().feed(ids, padding)
        return self.last


def greedy(engine: Engine, prompt: Ids, count: int) -> Generation:
    """A finished greedy generation of `count` ids."""
    generation = Generation(engine, NoText(), prompt.tolist(), GenerateConfig(max_new_tokens=count, temperature=0))
    for _ in generation:
        pass
    return generation


def compare_greedy(model: GPT2, engine: OnnxEngine, ids: Ids, near_tie: float) -> dict[str, Any]:
    """Let both models write through the real generation loop, past the end of the context.

    Args:
        model: the original.
        engine: the exported one.
        ids: a text to start with.
        near_tie: where the two best logits are closer than this, either may win.

    Raises:
        ExportError: they write different tokens, where it is not a near-tie.
    """
    n_positions = model.config.n_positions
    prompt = np.resize(ids, max(1, n_positions - GREEDY // 2))
    ours, original = greedy(engine, prompt, GREEDY), greedy(TorchEngine(model), prompt, GREEDY)
    equal = first_difference(ours.ids, original.ids)
    if engine.exported.dtype == "fp32" and equal < GREEDY and (gap := _gap(model, prompt, equal)) > near_tie:
        tokens = f"{ours.ids[equal]} instead of {original.ids[equal]}"
        raise ExportError(f"{MODEL} is not the PyTorch model: greedy token {equal + 1} is {tokens}, by {gap:.3g} the likelier")
    return {
        "prompt_tokens": len(prompt),
        "tokens": GREEDY,
        "equal_tokens": equal,  # in float32 fewer only after a near-tie
        "microseconds_per_token": {
            "torch": round(1e6 / original.tokens_per_second),
            "onnx": round(1e6 / ours.tokens_per_second),
        },
        "provider": engine.provider,
        "threads": {"torch": torch.get_num_threads()},
    }


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids are equal from the start on."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def _gap(model: GPT2, prompt: Ids, count: int) -> float:
    """How far the best logit is above the second best after `count` greedy tokens of the original."""
    engine = Watched(model)
    greedy(engine, prompt, count + 1)
    second, best = np.sort(engine.last[0])[-2:]
    return float(best - second)


def compare_sampled(model: GPT2, engine: OnnxEngine, ids: Ids, vocab_size: int) -> dict[str, Any]:
    """Let the samplers inside generate.onnx write, and the same samplers beside PyTorch, with the same uniform numbers.

    In float32 the other side is the PyTorch model; of rounded weights it is model.onnx with the samplers outside.

    Raises:
        ExportError: they write different tokens, where the drawn number is not on the border between two.
    """
    count = max(1, min(SAMPLED, model.config.n_positions // 2))
    prompt = np.resize(ids, max(1, min(SAMPLED, model.config.n_positions - count)))[None] % vocab_size
    chain = [(step["name"], step["values"] | step["fixed"]) for step in engine.exported.chain or []]
    reference: Engine = TorchEngine(model) if engine.exported.dtype == "fp32" else engine
    repetitive = np.resize(prompt[:, :3], prompt.shape)  # a sampler may look back, as far as there is a text
    for other in (prompt[:, :1], repetitive):
        equal_draws(engine, reference, chain, other, min(SHORT, count), vocab_size)
    equal = equal_draws(engine, reference, chain, prompt, count, vocab_size)
    return {"chain": chain, "tokens": count, "equal_tokens": equal}  # fewer only on a border


def equal_draws(engine: OnnxEngine, reference: Engine, chain: Options, prompt: Ids, count: int, vocab_size: int) -> int:
    """How many ids from the start on are drawn the same inside generate.onnx and outside. Raises as `compare_sampled` does."""
    drawn, expected = sampled_inside(engine, chain, prompt, count), sampled_outside(reference, chain, prompt, count, vocab_size)
    equal = first_difference(drawn, expected)
    if equal < count:
        text = np.concatenate([prompt, [expected[:equal]]], axis=1).astype(np.int64)
        near = [sampled_outside(reference, chain, text, 1, vocab_size, shift)[0] for shift in (-BORDER, BORDER)]
        if drawn[equal] not in near:
            tokens = f"token {equal + 1} behind {prompt.shape[1]} is {drawn[equal]} instead of {expected[equal]}"
            raise ExportError(f"{GENERATE} does not draw as the samplers beside PyTorch do: {tokens}")
    return equal


def sampled_inside(engine: OnnxEngine, chain: Options, prompt: Ids, count: int) -> list[int]:
    """Ids drawn inside generate.onnx behind a prompt (1, T)."""
    engine.reset()
    engine.set_options(chain)
    text, new = prompt, prompt
    for position in range(prompt.shape[1], prompt.shape[1] + count):
        new = engine.draw(new, uniforms(0, position, [0]), text, prompt.shape[1])[:, None].copy()
        text = np.concatenate([text, new], axis=1)
    drawn: list[int] = text[0, prompt.shape[1] :].tolist()
    return drawn


def sampled_outside(engine: Engine, chain: Options, prompt: Ids, count: int, vocab_size: int, shift: float = 0.0) -> list[int]:
    """Ids drawn by the samplers' own code behind a prompt (1, T), perhaps with numbers that are a little larger."""
    samplers = [plugins.registry().part("samplers", name)(**options) for name, options in chain]
    engine.reset()
    text, new = prompt, prompt
    for position in range(prompt.shape[1], prompt.shape[1] + count):
        logits = torch.from_numpy(engine.feed(new)[:, :vocab_size])
        for sampler in samplers:
            logits = sampler(logits, SamplingContext(torch.from_numpy(text), prompt.shape[1]))
        uniform = torch.tensor([uniforms(0, position, [0])], dtype=torch.float64) + shift
        new = inverse(logits, uniform.clamp(0, 1 - 1e-9)).numpy()
        text = np.concatenate([text, new], axis=1)
    drawn: list[int] = text[0, prompt.shape[1] :].tolist()
    return drawn
