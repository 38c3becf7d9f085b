"""The shapes of the parts that can be swapped: tokenizer, sampler, engine, dataset, exporter.

Nothing here imports torch, so that plugins can be listed and described without it. Legend for shapes: B = batch (rows),
T = time (positions), V = vocabulary.
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
TabBuilder = Callable[[], None]


class Decoder(Protocol):
    """What writing needs of a tokenizer: ids to text."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; every id is in `range(vocab_size)`."""
        ...

    @property
    def eos_id(self) -> int | None:
        """The id that ends a document, or None. Text can never produce it."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids. Never fails on ids in range: incomplete characters come out as U+FFFD."""
        ...


class Tokenizer(Decoder, Protocol):
    """Text to ids and back.

    A class says `lossless = True` when `decode(encode(text)) == text` for every text that it accepts. Where the ids can be
    expressed as a Hugging Face `tokenizer.json`, the class also has `tokenizer_json() -> str`, and exported folders carry it.
    """

    lossless: ClassVar[bool]

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """A tokenizer for these texts.

        Options are further keyword-only parameters with a type and a default: the command line (`--tokenizer-option
        KEY=VALUE`) and the web page read them from the signature. `Annotated[int, Field(ge=…, le=…, description=…)]` gives a
        range and help. A parameter called `vocab_size` receives `--vocab-size`.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            TokenizerError: the text holds something that this tokenizer cannot express; the message names it.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into an existing folder."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            TokenizerError: the files are missing or damaged.
        """
        ...


@runtime_checkable
class HasTokenizerJson(Protocol):
    """A tokenizer that can be expressed as a Hugging Face `tokenizer.json`, with the same ids."""

    def tokenizer_json(self) -> str:
        """The content of `tokenizer.json`."""
        ...


@runtime_checkable
class HasEncodeArray(Protocol):
    """A tokenizer that gives ids as an array, without a Python object for each. The data room uses it for whole documents."""

    def encode_array(self, text: str) -> npt.NDArray[np.integer[Any]]:
        """The ids of `encode`, as an integer array (n,). Raises as `encode` does."""
        ...


@dataclass
class SamplingContext:
    """What a sampler may know besides the logits.

    Attributes:
        ids: (B, T) int64, the prompt and everything generated so far. A view: do not change it.
        prompt_length: how many of the T positions are the prompt.
        state: the sampler's own memory for this generation, empty at its start. Each sampler of a chain has its own.
    """

    ids: torch.Tensor
    prompt_length: int
    state: dict[str, Any] = field(default_factory=dict)


class Sampler(BaseModel):
    """One step that reshapes the distribution of the next token; a chain of them runs before the draw.

    Its fields are its options: numbers with a range (`ge`, `le`) and a `description` become options of the command line and
    controls of the web page. It is plain tensor code without branches on values where that is possible, so that it can be
    traced into an ONNX graph; one that cannot says `traceable = False`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    traceable: ClassVar[bool] = True
    """Whether `__call__` can be traced into an ONNX graph. One with a state, or that branches on values, says False."""

    def __call__(self, logits: torch.Tensor, context: SamplingContext) -> torch.Tensor:
        """Reshape one step's logits.

        Args:
            logits: (B, V) float32, -inf for what an earlier sampler has ruled out. Do not change it in place.
            context: the ids so far, the prompt's length, this sampler's state.

        Returns:
            (B, V) float32, -inf for what may not be drawn. At least one entry of a row stays finite.
        """
        raise NotImplementedError(f"{type(self).__name__} has no __call__")  # an abstract method, not a gap

    def observe(self, ids: torch.Tensor, context: SamplingContext) -> None:
        """Told the drawn token, (B,) int64, after each draw. Only samplers with a state need it."""


class Engine(Protocol):
    """Something that runs a GPT-2: PyTorch or onnxruntime, each with its own key/value cache.

    The door is numpy on both sides, so that an exported model runs where there is no torch.
    """

    name: str
    """`torch` or `onnx`."""
    provider: str
    """What really computes: `cpu`, `cuda`, `mps`, or an onnxruntime execution provider."""
    n_positions: int
    vocab_size: int

    @property
    def length(self) -> int:
        """How many positions are in the cache; at most `n_positions`."""
        ...

    def reset(self) -> None:
        """Empty the cache. The next `feed` may have another batch size."""
        ...

    def feed(self, ids: npt.NDArray[np.int64], padding: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
        """Read (B, T) further ids behind those in the cache; give the logits (B, V) after the last of them.

        Texts of different lengths are one batch when the shorter ones are padded on the left. No token looks at padding, and
        position ids count without it: each row's logits are those of its text alone, up to rounding.

        Args:
            ids: (B, T), any id of the vocabulary where a row is padded.
            padding: (B,), how many leading ids of each row are padding, 0 to T - 1. Only with the first ids after a `reset`,
                and remembered until the next; `length` and `n_positions` count padding too. Left out, there is none.

        Returns:
            (B, V). The array may be reused by the next call: copy what must stay.

        Raises:
            SettingError: an id is outside the vocabulary, `length + T` is more than `n_positions`, or the padding is of another
                shape, out of range, or given when something has been read.
            MemoryError: so many rows do not fit.
        """
        ...

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Logits at every position of (B, T) texts on their own: (B, T, V). Empties the cache. Raises as `feed` does."""
        ...


@runtime_checkable
class SamplingEngine(Protocol):
    """An engine with a sampler chain and the draw inside its graph, beside what every engine can."""

    def takes(self, chain: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Whether it has these samplers inside, each given by its name and options: the same, in the same order."""
        ...

    def set_options(self, chain: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Set the options for the draws that follow; of a chain that it takes, on an empty cache."""
        ...

    def draw(
        self,
        ids: npt.NDArray[np.int64],
        uniform: Sequence[float],
        text: npt.NDArray[np.int64],
        prompt_length: int,
        padding: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.int64]:
        """Read further ids as `feed` does; give each row's next id, (B,).

        Args:
            ids: as in `feed`.
            uniform: a number in [0, 1) for each row.
            text: (B, S), the prompt and everything generated so far, without padding.
            prompt_length: how many of them are the prompt.
            padding: as in `feed`.
        """
        ...


class Dataset(BaseModel):
    """An example dataset that is made or fetched by code. Its fields are its options, as a sampler's are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: ClassVar[str] = ""
    """One line for lists."""

    def documents(self) -> Iterator[str]:
        """The texts, one document at a time, the same each time for the same options."""
        raise NotImplementedError(f"{type(self).__name__} has no documents()")  # an abstract method, not a gap


class Exporter(Protocol):
    """Writes a trained model in another format."""

    summary: ClassVar[str]
    """One line for lists."""
    dtypes: ClassVar[tuple[str, ...]]
    """The number formats that it can write the weights in, such as `fp32`, `fp16`; the first is the usual one."""

    def export(self, checkpoint: Path, folder: Path, *, dtype: str, report: Callable[[str], None]) -> None:
        """Write the export of a checkpoint folder into an existing empty folder, and prove it.

        Args:
            checkpoint: a checkpoint folder that has been verified.
            folder: where to write. The caller moves it into place when this returns and removes it when it raises.
            dtype: one of `dtypes`.
            report: called with one line of text at each stage.

        Raises:
            ExportError: the written model is not the same model.
        """
        ...
