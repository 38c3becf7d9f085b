"""The generation loop: engine -> samplers -> draw -> tokenizer, as a generator of text pieces.

Past the context length: of a prompt that is too long the model reads the last `n_positions` ids. When all positions are taken,
the older half is dropped and the newer half is read again as if the text began there. That is decided here, the same for every
engine, with and without a cache.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from gpt2demo import checkpoint, plugins
from gpt2demo.config import GenerateConfig
from gpt2demo.drawing import Chain
from gpt2demo.errors import RunError
from gpt2demo.interfaces import Engine, Tokenizer
from gpt2demo.run import Run, find_model
from gpt2demo.streaming import StopText, StreamDecoder

EngineName = Literal["auto", "torch", "onnx"]
StopReason = Literal["length", "end", "stop"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


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
        self._samplers = [plugins.create_sampler(spec) for spec in config.chain]
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
        chain = Chain(self._samplers, self.seed, len(self.prompt))
        ids = np.empty((1, len(self.prompt) + self._config.max_new_tokens), np.int64)
        ids[0, : len(self.prompt)] = self.prompt
        self._engine.reset()
        for position in range(len(self.prompt), ids.shape[1]):
            start = time.perf_counter()
            logits = self._logits(ids[:, :position])[:, : self._tokenizer.vocab_size]
            index = chain.draw(logits, ids[:, :position])
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
    from gpt2demo.weights import load_model

    where = torch_device(device)
    saved = checkpoint.newest(found.checkpoints) if isinstance(found, Run) else checkpoint.verify(found)
    tokenizer, _ = checkpoint.load_tokenizer(saved.path / "tokenizer")
    engine = TorchEngine(load_model(saved.path).to(where))
    return _fitting(Model(engine, tokenizer, found.name, saved.path))


def _fitting(model: Model) -> Model:
    """The model, after making sure that its tokenizer's ids are in its vocabulary."""
    if model.tokenizer.vocab_size > model.engine.vocab_size:
        sizes = f"{model.tokenizer.vocab_size} ids, the model {model.engine.vocab_size}"
        raise RunError(f"{model.path}: the tokenizer has {sizes}; they do not belong together")
    return model
