"""The generation loop: engine -> samplers -> draw -> tokenizer, as a generator of text pieces.

Past the context length: of a prompt that is too long the model reads the last `n_positions` ids. When all positions are taken,
the older half is dropped and the newer half is read again as if the text began there. That is decided here, the same for every
engine, with and without a cache.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from gpt2demo import checkpoint, plugins
from gpt2demo.config import GenerateConfig
from gpt2demo.errors import RunError, SettingError
from gpt2demo.interfaces import Engine, Sampler, SamplingContext, Tokenizer
from gpt2demo.run import Run, find_model

if TYPE_CHECKING:
    from torch import Tensor

EngineName = Literal["auto", "torch", "onnx"]
StopReason = Literal["length", "end", "stop"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def draw(logits: Tensor, seed: int, position: int) -> Tensor:
    """One id per row from the softmax of the logits, by inverse transform of one uniform number per row.

    The number comes from a counter-based stream (Philox, Salmon et al. 2011) keyed by (seed, row, position), so the same seed
    gives the same tokens on every engine and at every batch size.

    Args:
        logits: (B, V) float32, -inf for what may not be drawn.
        seed: of the generation.
        position: index of the token to be drawn, counted from the start of the prompt.

    Returns:
        (B,) int64.
    """
    uniform = logits.new_tensor(uniforms(seed, position, logits.shape[0])).double().unsqueeze(-1)  # (B, 1)
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)  # (B, V)
    return (cumulative <= uniform * cumulative[:, -1:]).sum(dim=-1)


def uniforms(seed: int, position: int, rows: int) -> list[float]:
    """The uniform numbers in [0, 1) of one position, a row each, with 24 bits: exact in float32."""
    generators = (np.random.Philox(key=seed, counter=[0, 0, position, row]) for row in range(rows))
    return [(int(generator.random_raw()) >> 40) / 2**24 for generator in generators]


class StreamDecoder:
    """Turns ids into text piece by piece: each character comes once, and only when it is complete.

    A tokenizer may decode differently in the middle of a text than at its start (a dropped leading space), so a few ids before
    the new ones are always decoded along and their text is cut off.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # ids from here on are decoded
        self._emitted = 0  # ids before this one have been given out

    def push(self, index: int) -> str:
        """The text that one more id completes; may be empty."""
        self._ids.append(index)
        return self._take(final=False)

    def flush(self) -> str:
        """The rest, incomplete characters as U+FFFD."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before = self._tokenizer.decode(self._ids[self._context : self._emitted])
        text = self._tokenizer.decode(self._ids[self._context :])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and not final:
            return ""
        self._context, self._emitted = self._emitted, len(self._ids)
        return text[len(before) :]


class StopText:
    """Holds back what may be the beginning of a stop text, and cuts at the first that is complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that may be shown now."""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found = True
            self._held = ""
            return text[: min(places)]
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back and was no stop text after all."""
        held, self._held = self._held, ""
        return held


class Generation(Iterator[str]):
    """A running generation: iterate it for the text's pieces, read its attributes for the rest.

    Args:
        engine: what computes; its cache is emptied first.
        tokenizer: ids to text.
        prompt: the prompt's ids, at least one.
        config: length, seed, samplers, stops.

    Attributes:
        ids: the generated ids so far, without the prompt's.
        text: the text given out so far.
        seed: the seed that is used.
        reason: why it ended: `length`, `end` (the tokenizer's end-of-text id) or `stop`; None while it runs.
        dropped: how many ids of the prompt the model did not read because the context is shorter.
        time_to_first_token_ms: from the start to the first id, in milliseconds.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, prompt: Sequence[int], config: GenerateConfig) -> None:
        self.prompt = list(prompt)
        self.ids: list[int] = []
        self.text = ""
        self.seed = secrets.randbits(32) if config.seed is None else config.seed
        self.reason: StopReason | None = None
        self.dropped = max(0, len(self.prompt) - engine.n_positions)
        self.time_to_first_token_ms = 0.0
        self._seconds = 0.0
        self._engine = engine
        self._tokenizer = tokenizer
        self._config = config
        self._chain = [plugins.create_sampler(spec) for spec in config.chain]
        self._pieces = self._run()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """End it early."""
        self._pieces.close()

    @property
    def tokens_per_second(self) -> float:
        """Speed after the first token; of everything when there is only one."""
        if len(self.ids) < 2 or self._seconds <= self.time_to_first_token_ms / 1000:
            return len(self.ids) / self._seconds if self._seconds else 0.0
        return (len(self.ids) - 1) / (self._seconds - self.time_to_first_token_ms / 1000)

    def _run(self) -> Generator[str, None, None]:
        decoder, stops = StreamDecoder(self._tokenizer), StopText(self._config.stop)
        for index in self._tokens():
            yield from self._emit(stops.push(decoder.push(index)))
            if stops.found:
                self.reason = "stop"
                return
        yield from self._emit(stops.push(decoder.flush()))
        if stops.found:
            self.reason = "stop"
            return
        yield from self._emit(stops.flush())

    def _emit(self, piece: str) -> Iterator[str]:
        if piece:
            self.text += piece
            yield piece

    def _tokens(self) -> Iterator[int]:
        """Draw ids until the length or the end-of-text id."""
        import torch

        ids = torch.empty(1, len(self.prompt) + self._config.max_new_tokens, dtype=torch.int64)
        ids[0, : len(self.prompt)] = torch.tensor(self.prompt)
        contexts = [SamplingContext(ids, len(self.prompt)) for _ in self._chain]
        self._engine.reset()
        for position in range(len(self.prompt), ids.shape[1]):
            start = time.perf_counter()
            logits = torch.from_numpy(self._logits(ids[:, :position].numpy()))[:, : self._tokenizer.vocab_size]
            index = self._draw(logits, ids[:, :position], contexts, position)
            ids[0, position] = index
            self._count(index, time.perf_counter() - start)
            if index == self._tokenizer.eos_id:
                self.reason = "end"
                return
            yield index
        self.reason = "length"

    def _count(self, index: int, seconds: float) -> None:
        self.ids.append(index)
        self._seconds += seconds
        if len(self.ids) == 1:
            self.time_to_first_token_ms = seconds * 1000

    def _logits(self, ids: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The logits after all ids: feed what the engine has not read; start a new window where the context is full."""
        n_positions = self._engine.n_positions
        if self._engine.length == 0:
            return self._engine.feed(ids[:, -n_positions:])
        if self._engine.length == n_positions:
            self._engine.reset()
            return self._engine.feed(ids[:, -max(1, n_positions // 2) :])
        return self._engine.feed(ids[:, -1:])

    def _draw(self, logits: Tensor, ids: Tensor, contexts: list[SamplingContext], position: int) -> int:
        """Run the chain, draw, and check what a plugin may have done."""
        import torch

        with torch.inference_mode():  # without the bookkeeping for gradients it takes a fifth less
            for sampler, context in zip(self._chain, contexts, strict=True):
                context.ids = ids
                logits = checked(sampler, sampler(logits, context), logits)
            drawn = draw(logits, self.seed, position)
            for sampler, context in zip(self._chain, contexts, strict=True):
                sampler.observe(drawn, context)
            return int(drawn[0])


class Model:
    """A model that is ready to write: an engine with its tokenizer. `load` makes one.

    Args:
        engine: what computes.
        tokenizer: text to ids and back.
        name: the run's or export's name.
        path: the checkpoint or export folder.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, name: str, path: Path) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.name = name
        self.path = path

    def generate(self, prompt: str = "", config: GenerateConfig | None = None, **settings: Any) -> Generation:
        """Continue a prompt.

        Args:
            prompt: the text to continue. An empty one stands for the start of a document.
            config: settings; the defaults of `GenerateConfig` when left out.
            settings: single settings by name, such as `max_new_tokens=50, seed=1, samplers=["top-k:k=5"]`.

        Returns:
            An iterator over text pieces that also tells ids, speed and why it ended.

        Raises:
            UserError: a setting is out of range, or the tokenizer cannot express the prompt.
        """
        config = config or GenerateConfig()
        if settings:
            config = config.with_changes(**settings)
        return Generation(self.engine, self.tokenizer, self.prompt_ids(prompt), config)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The prompt's ids; for an empty prompt the end-of-text id, or a line break where there is none."""
        if ids := self.tokenizer.encode(prompt):
            return ids
        return self.tokenizer.encode("\n") if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]


def load(model: str | Path | None = None, *, engine: EngineName = "auto", device: DeviceName = "auto") -> Model:
    """Load a model for generation.

    Args:
        model: a run's name, the path of a run, checkpoint or export folder; left out, the newest run. Of a run its newest whole
            checkpoint is taken.
        engine: `torch`, `onnx`, or `auto`: what the folder holds. For a run, `onnx` takes the export of the same name.
        device: where to compute.

    Raises:
        Error: there is no such model, it is damaged, or the engine or device cannot be had.
    """
    from gpt2demo.engines import onnx

    found = find_model(None if model is None else str(model), checkpoint.is_checkpoint, onnx.is_export)
    if isinstance(found, Run) and engine == "onnx":
        return _load_export(onnx.export_of(found), device)
    if isinstance(found, Path) and onnx.is_export(found):
        if engine == "torch":
            raise RunError(f"{found}: is an export for onnxruntime; name the run it was made from to use PyTorch")
        return _load_export(found, device)
    if engine == "onnx":
        raise RunError(f"{found}: is a checkpoint; export it first with `gpt2demo export {found} --onnx`")
    return _load_checkpoint(found, device)


def _load_export(folder: Path, device: DeviceName) -> Model:
    """An exported folder on onnxruntime."""
    from gpt2demo.engines.onnx import OnnxEngine

    tokenizer, _ = checkpoint.load_tokenizer(folder / "tokenizer")
    return _fitting(Model(OnnxEngine(folder, device), tokenizer, folder.name, folder))


def _load_checkpoint(found: Run | Path, device: DeviceName) -> Model:
    """A run's newest checkpoint, or a named one, on PyTorch."""
    from gpt2demo.engines.torch import TorchEngine
    from gpt2demo.hardware import torch_device

    where = torch_device(device)
    saved = checkpoint.newest(found.checkpoints) if isinstance(found, Run) else checkpoint.verify(found)
    tokenizer, _ = checkpoint.load_tokenizer(saved.path / "tokenizer")
    engine = TorchEngine(checkpoint.load_model(saved.path).to(where))
    return _fitting(Model(engine, tokenizer, found.name, saved.path))


def _fitting(model: Model) -> Model:
    """The model, after making sure that its tokenizer's ids are in its vocabulary."""
    if model.tokenizer.vocab_size > model.engine.vocab_size:
        sizes = f"{model.tokenizer.vocab_size} ids, the model {model.engine.vocab_size}"
        raise RunError(f"{model.path}: the tokenizer has {sizes}; they do not belong together")
    return model


def checked(sampler: Sampler, result: Tensor, before: Tensor) -> Tensor:
    """A sampler's result, after making sure that it can be drawn from.

    Raises:
        SettingError: wrong shape, NaN or +inf, or nothing left to draw.
    """
    name = type(sampler).__name__
    if result.shape != before.shape:
        raise SettingError(f"sampler {name}: gave shape {tuple(result.shape)} for {tuple(before.shape)}")
    if not all(map(math.isfinite, result.amax(dim=-1).tolist())):  # amax carries NaN and +inf through; all -inf gives -inf
        raise SettingError(f"sampler {name}: left nothing that can be drawn, or gave NaN")
    return result
