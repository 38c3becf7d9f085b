"""Verify that an exported model generates the same text as the original, greedily and with the samplers in the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig, ModelConfig
from gpt2demo.engines.exported import GENERATE, MODEL
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import ExportError
from gpt2demo.generation.generate import Generation
from gpt2demo.generation.streaming import NoText
from gpt2demo.interfaces import Engine
from gpt2demo.model import GPT2
from gpt2demo.sampling.chains import NamedSampler
from gpt2demo.sampling.draw import ChainRunner, Uniforms

GREEDY, SAMPLED, SHORT = 200, 64, 16
BORDER = 1e-3
"""Tolerance in probability: either token is accepted if the uniform number is this near to the border between them."""

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
ChainOptions = Sequence[tuple[str, Mapping[str, Any]]]
"""The name and the options of each sampler of a chain."""


class RecordingEngine(TorchEngine):
    """A PyTorch engine that keeps the last logits in `last`."""

    def feed(self, ids: Ids, padding: Ids | None = None) -> Floats:
        """Return and keep the result of `TorchEngine.feed`."""
        self.last = super().feed(ids, padding)
        return self.last


@dataclass(frozen=True)
class Text:
    """A greedy text: the ids of its prompt (T,), the generated ids, and the speed."""

    prompt: Ids
    ids: list[int]
    tokens_per_second: float


def greedy_prompt(ids: Ids, config: ModelConfig) -> Ids:
    """Return a prompt from the ids of a text, so long that the greedy text leaves the context."""
    return np.resize(ids, max(1, config.n_positions - GREEDY // 2))


def greedy(engine: Engine, prompt: Ids, count: int) -> Text:
    """Return a greedy text of `count` ids, generated with the real generation loop."""
    generation = Generation(engine, NoText(), prompt.tolist(), GenerateConfig(max_new_tokens=count, temperature=0))
    for _ in generation:
        pass
    return Text(prompt, generation.ids, generation.tokens_per_second)


def compare_greedy(original: Text, engine: OnnxEngine, load: Callable[[], GPT2], near_tie: float) -> dict[str, Any]:
    """Compare greedy texts of both models, past the context length.

    Args:
        original: the original's text.
        engine: the exported model.
        load: loads the original model; called only if the texts differ.
        near_tie: either token is accepted if the two largest logits are closer than this.

    Returns:
        The results for the certificate.

    Raises:
        ExportError: the models generate different tokens, and it is not a near-tie.
    """
    prompt, count = original.prompt, len(original.ids)
    ours = greedy(engine, prompt, count)
    equal = equal_at_start(ours.ids, original.ids)
    if engine.exported.dtype == "fp32" and equal < count and (gap := _gap(load(), prompt, equal)) > near_tie:
        tokens = f"{ours.ids[equal]} instead of {original.ids[equal]}"
        raise ExportError(
            f"{MODEL} is not the PyTorch model: greedy token {equal + 1} is {tokens}, with a logit larger by {gap:.3g}"
        )
    return {
        "prompt_tokens": len(prompt),
        "tokens": count,
        "equal_tokens": equal,  # in float32 less than `tokens` only after a near-tie
        "microseconds_per_token": {
            "torch": round(1e6 / original.tokens_per_second),
            "onnx": round(1e6 / ours.tokens_per_second),
        },
        "provider": engine.provider,
        "threads": {"torch": torch.get_num_threads()},
    }


def equal_at_start(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of equal ids before the first difference."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def _gap(model: GPT2, prompt: Ids, count: int) -> float:
    """Return the difference of the two largest logits of the original after `count` greedy tokens."""
    engine = RecordingEngine(model)
    greedy(engine, prompt, count + 1)
    second, best = np.sort(engine.last[0])[-2:]
    return float(best - second)


def compare_sampled(reference: Callable[[], Engine], engine: OnnxEngine, ids: Ids, vocab_size: int) -> dict[str, Any]:
    """Compare tokens drawn in generate.onnx with those of the same chain in Python, with the same uniform numbers.

    Args:
        reference: opens the engine whose logits the samplers in Python use: the PyTorch model for float32, model.onnx for other
            dtypes. It is released before generate.onnx is opened.
        engine: the exported model.
        ids: ids of a text to take prompts from.
        vocab_size: the tokenizer's.

    Returns:
        The results for the certificate.

    Raises:
        ExportError: a token differs, and its uniform number is not near the border between two tokens.
    """
    count = max(1, min(SAMPLED, engine.n_positions // 2))
    prompt = np.resize(ids, max(1, min(SAMPLED, engine.n_positions - count)))[None] % vocab_size
    repetitive = np.resize(prompt[:, :3], prompt.shape)  # for samplers that read the text
    prompts = [(prompt[:, :1], min(SHORT, count)), (repetitive, min(SHORT, count)), (prompt, count)]
    chain = [(step["name"], step["values"] | step["fixed"]) for step in engine.exported.samplers or []]
    opened = reference()
    expected = [sampled_outside(opened, chain, text, number, vocab_size) for text, number in prompts]
    del opened
    for (text, _), outside in zip(prompts, expected, strict=True):
        inside = sampled_inside(engine, chain, text, len(outside))
        equal = equal_at_start(inside, outside)
        if equal < len(outside):
            check_near_border(reference(), chain, text, outside[:equal], inside[equal], outside[equal], vocab_size)
    return {"chain": chain, "tokens": count, "equal_tokens": equal}  # less than `tokens` only near a border


def check_near_border(
    engine: Engine, chain: ChainOptions, prompt: Ids, shared: list[int], drawn: int, expected: int, vocab_size: int
) -> None:
    """Check that a token that was drawn instead of the expected one is drawn in Python with a slightly different uniform number.

    Raises:
        ExportError: it is not.
    """
    near = [sampled_outside(engine, chain, prompt, 1, vocab_size, drawn=shared, shift=shift) for shift in (-BORDER, BORDER)]
    if [drawn] not in near:
        tokens = f"token {len(shared) + 1} after {prompt.shape[1]} is {drawn} instead of {expected}"
        raise ExportError(f"{GENERATE} does not draw the same tokens as the samplers in PyTorch: {tokens}")


def sampled_inside(engine: OnnxEngine, chain: ChainOptions, prompt: Ids, count: int) -> list[int]:
    """Return ids drawn in generate.onnx after a prompt (1, T)."""
    engine.reset()
    engine.set_options(chain)
    uniforms = Uniforms(0)
    text, new = prompt, prompt
    for position in range(prompt.shape[1], prompt.shape[1] + count):
        new = engine.draw(new, uniforms.at(position, [0]), text, prompt.shape[1])[:, None].copy()
        text = np.concatenate([text, new], axis=1)
    drawn: list[int] = text[0, prompt.shape[1] :].tolist()
    return drawn


class ShiftedUniforms(Uniforms):
    """The uniform numbers of seed 0, all shifted by the same amount within [0, 1)."""

    def __init__(self, shift: float) -> None:
        super().__init__(0)
        self._shift = shift

    def at(self, position: int, rows: Sequence[int]) -> list[float]:
        """Return the numbers of a position, one per row."""
        return [min(max(number + self._shift, 0.0), 1 - 1e-9) for number in super().at(position, rows)]


def sampled_outside(
    engine: Engine,
    chain: ChainOptions,
    prompt: Ids,
    count: int,
    vocab_size: int,
    *,
    drawn: Sequence[int] = (),
    shift: float = 0.0,
) -> list[int]:
    """Return ids drawn with the samplers in Python after a prompt (1, T).

    Args:
        engine: computes the logits.
        chain: the samplers.
        prompt: (1, T).
        count: number of ids to draw.
        vocab_size: the tokenizer's.
        drawn: ids that have been drawn before.
        shift: amount to add to the uniform numbers.
    """
    samplers = [NamedSampler(name, plugins.registry().part("samplers", name)(**options), name) for name, options in chain]
    runner = ChainRunner(samplers, ShiftedUniforms(shift), prompt.shape[1])
    engine.reset()
    text = np.concatenate([prompt, [drawn]], axis=1).astype(np.int64)
    start, new = text.shape[1], text
    for _ in range(count):
        new = runner.draw(engine.feed(new)[:, :vocab_size], text, [0]).ids[:, None]
        text = np.concatenate([text, new], axis=1)
    ids: list[int] = text[0, start:].tolist()
    return ids
