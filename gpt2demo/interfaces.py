"""Interfaces of the replaceable parts: tokenizer, sampler, engine, dataset and exporter.

This module does not import torch, so that plugins can be listed and described without it. Shapes: B = batch (rows),
T = time (positions), V = vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import torch

    from gpt2demo.config import TrainConfig

OptimizerFactory = Callable[["torch.nn.Module", "TrainConfig"], "torch.optim.Optimizer"]
Schedule = Callable[[int, int, "TrainConfig"], float]
"""`(step, total_steps, config) -> factor`: the learning rate of a step is `config.learning_rate` times the factor.

Steps are counted from 0 to `total_steps - 1`, and include the warm-up. The factor is finite and at least 0, and depends on the
arguments alone: a resumed run continues with the same learning rates.
"""
TabBuilder = Callable[[], None]


class Decoder(Protocol):
    """The part of a tokenizer that generation needs: ids to text."""

    @property
    def vocab_size(self) -> int:
        """Number of ids. Every id is in `range(vocab_size)`."""
        ...

    @property
    def eos_id(self) -> int | None:
        """The end-of-text id, or None. `encode` never returns it for a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids. Incomplete characters are decoded as U+FFFD.

        Raises:
            TokenizerError: an id is outside `range(vocab_size)`.
        """
        ...


class Tokenizer(Decoder, Protocol):
    """Conversion between text and ids.

    A class with an equivalent Hugging Face `tokenizer.json` also implements `HasTokenizerJson`; exported folders then
    include that file. A class that can encode into an array also implements `HasEncodeArray`, and one that can encode a text in
    parts `HasCut`. A class whose training must see the whole text, not a sample, sets `needs_whole_text = True`.

    Attributes:
        lossless: whether `decode(encode(text)) == text` for every text that `encode` accepts.
    """

    lossless: ClassVar[bool]

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """Return a tokenizer trained on the texts.

        Options are additional keyword-only parameters with a type and a default. The command line (`--tokenizer-option
        KEY=VALUE`) and the web page read them from the signature; `Annotated[int, Field(ge=…, le=…, description=…)]` adds a
        range and a help text. A parameter named `vocab_size` receives `--vocab-size`.

        Args:
            texts: the training texts. They can be iterated only once.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            TokenizerError: the text contains something that the tokenizer cannot encode; the message quotes it.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into an existing folder."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the tokenizer that `save` wrote into a folder.

        Raises:
            TokenizerError: the files are missing or damaged.
        """
        ...


@runtime_checkable
class HasTokenizerJson(Protocol):
    """A tokenizer with an equivalent Hugging Face `tokenizer.json`."""

    def tokenizer_json(self) -> str:
        """Return the content of a `tokenizer.json` that encodes to the same ids."""
        ...


@runtime_checkable
class HasEncodeArray(Protocol):
    """A tokenizer that encodes into an array, without a Python object per id. Used for whole documents."""

    def encode_array(self, text: str) -> npt.NDArray[np.integer[Any]]:
        """Return the ids of `encode` as an integer array (n,). Raises the same errors as `encode`."""
        ...


@runtime_checkable
class HasCut(Protocol):
    """A tokenizer that can encode a text in parts, in several threads at the same time. Large texts are encoded faster."""

    def cut(self, text: str, start: int) -> int | None:
        """Return the first index from `start` on where the text can be cut, or None.

        The ids of the two parts, concatenated, are the ids of the text, whatever follows the text. `0 < start < len(text)`.
        """
        ...


@dataclass
class SamplingContext:
    """A sampler's input besides the logits.

    Attributes:
        ids: (B, T) int64, the prompt and all ids generated so far. A view; do not modify it.
        prompt_length: number of positions that belong to the prompt.
        state: the sampler's state for this generation, initially empty. Each sampler in a chain has its own.
    """

    ids: torch.Tensor
    prompt_length: int
    state: dict[str, Any] = field(default_factory=dict)


class Sampler(BaseModel):
    """A transformation of the next token's distribution. A chain of samplers runs before each draw.

    The fields are the options. Numbers with a range (`ge`, `le`) and a `description` become command-line options and UI
    controls. Prefer tensor code without branches on values, which can be traced into an ONNX graph; otherwise set
    `traceable = False`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    traceable: ClassVar[bool] = True
    """Whether `__call__` can be traced into an ONNX graph: False for samplers with state or with branches on values."""

    def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
        """Transform the logits of one step.

        Args:
            logits: (B, V) float32, -inf for tokens excluded by earlier samplers. Do not modify it in place.
            context: the ids so far, the prompt's length and this sampler's state.

        Returns:
            (B, V) float32, -inf for excluded tokens. Each row keeps at least one finite value.
        """
        raise NotImplementedError(f"{type(self).__name__} has no __call__")  # abstract method

    def observe(self, ids: torch.Tensor, context: SamplingContext) -> None:
        """Receive the drawn ids, (B,) int64, after each draw. Only samplers with state implement it."""


class Engine(Protocol):
    """A runtime for a GPT-2 model with a key/value cache: PyTorch or onnxruntime.

    Inputs and outputs are numpy arrays, so that an exported model runs without torch.
    """

    name: str
    """`torch` or `onnx`."""
    provider: str
    """The device in use: `cpu`, `cuda`, `mps`, or an onnxruntime execution provider."""
    n_positions: int
    vocab_size: int

    @property
    def length(self) -> int:
        """Number of positions in the cache, at most `n_positions`."""
        ...

    def reset(self) -> None:
        """Empty the cache. The next `feed` may have another batch size."""
        ...

    def feed(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
        """Append ids to the cache and return the logits after the last of them.

        Sequences of different lengths are batched by padding the shorter ones on the left. Padding is masked and position ids
        do not count it, so each row's logits equal those of its sequence alone, up to rounding.

        Args:
            ids: (B, T) int64. Padding may have any valid id.
            padding: (B,) int64, number of leading padding ids in each row, 0 to T - 1; default: no padding. Accepted only
                in the first call after `reset`, and applied until the next. `length` and `n_positions` count padding.

        Returns:
            (B, V) float32. The next call may overwrite the array: copy it to keep it.

        Raises:
            SettingError: an id is outside the vocabulary; `length + T` exceeds `n_positions`; or `padding` has the wrong
                shape, is out of range, or is passed while the cache is not empty.
            MemoryError: the batch does not fit into memory.
        """
        ...

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the logits (B, T, V) at every position of the sequences (B, T). Empties the cache.

        Raises the same errors as `feed`.
        """
        ...


@runtime_checkable
class TensorEngine(Protocol):
    """An engine that can leave the logits on its GPU, where the samplers then run."""

    def feed_tensor(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> torch.Tensor:
        """Do the same as `Engine.feed`, and return the logits (B, V) float32 on the engine's device."""
        ...


@runtime_checkable
class SamplingEngine(Protocol):
    """An engine whose graph also contains a sampler chain and the draw."""

    def takes(self, chain: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Return whether the graph contains exactly these samplers, (name, options) each, in this order."""
        ...

    def set_options(self, chain: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Set the sampler options for the following draws. Requires `takes(chain)` and an empty cache."""
        ...

    def draw(
        self,
        ids: npt.NDArray[np.int64],
        uniform: Sequence[float],
        text: npt.NDArray[np.int64],
        prompt_length: int,
        padding: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.int64]:
        """Append ids to the cache as `feed` does and return the next id of each row.

        Args:
            ids: (B, T) int64, as in `feed`.
            uniform: B random numbers in [0, 1), one per row.
            text: (B, S) int64, the prompt and all ids generated so far, without padding.
            prompt_length: number of positions of `text` that belong to the prompt.
            padding: as in `feed`.

        Returns:
            (B,) int64.
        """
        ...


class Dataset(BaseModel):
    """An example dataset that is generated or downloaded by code. The fields are the options, as in a sampler."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: ClassVar[str] = ""
    """One-line description for lists."""

    def documents(self) -> Iterator[str]:
        """Yield the documents. The same options yield the same documents."""
        raise NotImplementedError(f"{type(self).__name__} has no documents()")  # abstract method


class Exporter(Protocol):
    """A writer of trained models in another format.

    The constructor's parameters are the exporter's options: keyword-only, each with a default. `export_model(…, option=value)`
    passes them and refuses unknown ones; `gpt2demo export --sampler` passes `samplers`. For an invalid value the constructor
    raises SettingError or PluginError, before anything is written.
    """

    summary: ClassVar[str]
    """One-line description for lists."""
    dtypes: ClassVar[tuple[str, ...]]
    """Supported dtypes of the weights, such as `fp32` and `fp16`; the first is the default."""

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        """Export a checkpoint and verify the result.

        Args:
            checkpoint: a verified checkpoint folder.
            folder: an existing empty folder to write into. The caller moves it into place, or removes it after an error.
            dtype: one of `dtypes`.
            report: called with one line of text at each stage.

        Raises:
            ExportError: the exported model differs from the checkpoint.
        """
        ...
