"""The onnxruntime engine: an exported folder, run without torch.

Keys and values lie in buffers for the whole context that are allocated once; the graph reads them as past and writes new ones
behind, in the same memory. What changes from token to token is a few numbers in arrays that stay bound.

Legend for shapes: B = rows, T = new positions, S = all positions, V = vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo.engines import check_feed
from gpt2demo.engines.exported import CERTIFICATE, GENERATE, MODEL, Exported, cache_names, check_export, head_dim
from gpt2demo.engines.session import Binding, Device, buffer, cpu_threads, expected_provider, open_session
from gpt2demo.errors import CheckpointError, SettingError

PROBED = 2**26
"""Models below this size, in bytes, are tried with several numbers of threads; larger ones profit from all cores anyway."""
PROBES = 12
TYPES: dict[str, npt.DTypeLike] = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(double)": np.float64}
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class OnnxEngine:
    """Runs an exported model step by step; meets `gpt2demo.interfaces.Engine`.

    Args:
        folder: what `gpt2demo export --onnx` wrote.
        device: `auto` takes an NVIDIA GPU where onnxruntime can really use it, and the CPU elsewhere.

    Attributes:
        exported: what the folder's certificate says.
        threads: how many it computes with on the CPU.

    Raises:
        CheckpointError: a file is damaged, was changed, or is not ours.
        SettingError: the device that was asked for cannot be had; says what is missing.
    """

    name = "onnx"

    def __init__(self, folder: Path, device: Device = "auto") -> None:
        self.exported = check_export(folder)
        self.config = self.exported.config
        self.n_positions = self.config.n_positions
        self.vocab_size = self.config.vocab_size
        self._asked = device
        self._caches: dict[tuple[str, str], Any] = {}
        self._rows = 0  # there are no buffers yet
        self._model: Binding | None = None
        self._generate: Binding | None = None
        self.threads = cores = cpu_threads()
        self.provider = expected_provider(device, self.exported.dtype)
        self.reset()
        if self.provider != "CPUExecutionProvider":
            self._reader()  # only a session knows whether it really runs there
        elif cores > 1 and (folder / MODEL).stat().st_size < PROBED:
            self.threads = self._fastest([cores // 2**halvings for halvings in range(cores.bit_length())])

    def _reader(self) -> Binding:
        """model.onnx in a session; opened when it is needed, as is generate.onnx: each holds a copy of the weights."""
        if self._model is None:
            session, self._model = self._open(MODEL)
            _check_graph(session, self.exported)
            self._bind_buffers(self._model)
        return self._model

    def _open(self, name: str) -> tuple[Any, Binding]:
        """A graph in a new session."""
        session, self.provider = open_session(self.exported.folder / name, self._asked, self.exported.dtype, self.threads)
        return session, Binding(session, self.provider)

    def _fastest(self, candidates: list[int]) -> int:
        """Try numbers of threads and keep the fastest: a small model is done before many threads have met."""
        tried = []
        for threads in candidates:
            self.threads, self._model = threads, None
            tried.append((self._seconds_per_step(), threads, self._reader()))
            self.reset()
        _, threads, self._model = min(tried, key=lambda one: one[0])
        return threads

    def _seconds_per_step(self) -> float:
        """Of single ids, the best of a few; as many as the context has place for."""
        times = []
        for _ in range(min(PROBES, self.n_positions)):
            start = time.perf_counter()
            self.feed(np.zeros((1, 1), np.int64))
            times.append(time.perf_counter() - start)
        return min(times)

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self._length

    def reset(self) -> None:
        """Empty the cache."""
        self._length = 0

    def feed(self, ids: Ids, padding: Ids | None = None) -> Floats:
        """Read (B, T) further ids; give the logits (B, V) after the last. See `gpt2demo.interfaces.Engine`."""
        if padding is not None:  # `read` takes padding that is wider than its first piece
            check_feed(ids, self, padding)
        model = self._reader()
        for part in self._parts(ids):
            model.inputs(self._given(part, padding))
            model.input("num_logits_to_keep", self._one)
            model.output("logits", self._logits)
            model.run()
            self._length += part.shape[1]
        last: Floats = self._logits[:, 0]
        return last

    def logits(self, ids: Ids) -> Floats:
        """Logits at every position, (B, T) -> (B, T, V)."""
        self.reset()
        result = self.read(ids)
        self.reset()
        return result

    def read(self, ids: Ids, padding: Ids | None = None) -> Floats:
        """Read (B, T) further ids; give the logits (B, T, V) after every one of them; of padding they mean nothing."""
        if len(parts := self._parts(ids)) > 1:
            return np.stack([self.feed(part).copy() for part in parts], axis=1)
        model = self._reader()
        model.inputs(self._given(ids, padding))
        result = np.empty((*ids.shape, self.vocab_size), np.float32)
        model.input("num_logits_to_keep", self._all)
        model.output("logits", result)
        model.run()
        self._length += ids.shape[1]
        return result

    # ------------------------------------------------------------------------------------------ samplers in the graph

    def takes(self, chain: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Whether generate.onnx has this chain: the same samplers in the same order, with the same fixed options.

        Args:
            chain: each sampler's name and options.
        """
        own = self.exported.chain
        if own is None or [name for name, _ in chain] != [step["name"] for step in own]:
            return False
        pairs = [(step["fixed"], options) for step, (_, options) in zip(own, chain, strict=True)]
        return all(options.get(key) == value for fixed, options in pairs for key, value in fixed.items())

    def set_options(self, chain: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Give the samplers inside the graph their numbers; for a chain that `takes` accepts."""
        if self._generate is None:
            session, self._generate = self._open(GENERATE)
            self._inputs = {value.name: value for value in session.get_inputs()}
            _check_options(self._inputs, self.exported)
            self._looks_back, self._knows_prompt = "text_ids" in self._inputs, "prompt_length" in self._inputs
            self._bind_buffers(self._generate)
        for step, (_, options) in zip(self.exported.chain or [], chain, strict=True):
            for option, name in step["inputs"].items():
                number = limited(options[option], *step["limits"].get(option, (None, None)))
                self._generate.input(name, np.full(self._inputs[name].shape, number, TYPES[self._inputs[name].type]))

    def draw(self, ids: Ids, uniform: Sequence[float], text: Ids, prompt_length: int, padding: Ids | None = None) -> Ids:
        """Read (B, T) further ids, run the samplers and draw: (B,) ids. See `gpt2demo.interfaces.SamplingEngine`."""
        assert self._generate is not None  # set_options comes first
        if self._looks_back:
            self._generate.input("text_ids", np.ascontiguousarray(text))
        if self._knows_prompt:
            self._generate.input("prompt_length", np.array(prompt_length))
        for part in self._parts(ids):
            self._generate.inputs(self._given(part, padding))
            self._generate.input("uniform", self._uniform)
            self._generate.output("next_ids", self._next)
            self._uniform[:, 0] = uniform
            self._generate.run()
            self._length += part.shape[1]
        drawn: Ids = self._next[:, 0]
        return drawn

    # ------------------------------------------------------------------------------------------ buffers

    def _given(self, ids: Ids, padding: Ids | None) -> dict[str, npt.NDArray[Any]]:
        """What every step reads: new ids, their positions, and which of all positions are no padding."""
        check_feed(ids, self)
        rows, count = ids.shape
        start, end = self._length, self._length + count
        if start == 0:
            self._begin(rows, padding)
        elif rows != self._rows:
            raise SettingError(f"{rows} rows: the cache holds {self._rows}; reset the engine first")
        self._mask[:, start:end] = self._text[:, start:end]
        if start and count == 1:  # in arrays that are bound already
            self._new_ids[...] = ids
            self._new_positions[...] = self._positions[:, start:end]
            return self._single
        arrays = {"input_ids": ids, "position_ids": self._positions[:, start:end], "attention_mask": self._mask[:, :end]}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def _parts(self, ids: Ids) -> list[Ids]:
        """The ids; singly where onnxruntime's attention takes no more: behind a cache of several rows."""
        singly = self._length and ids.shape[0] > 1 and ids.shape[1] > 1
        return [column[:, None] for column in ids.T] if singly else [ids]

    def _begin(self, rows: int, padding: Ids | None) -> None:
        """Start a new batch; where it has as many rows as the last one, in the same memory."""
        if rows != self._rows:
            self._allocate(rows)
        place = np.arange(self.n_positions) - (np.zeros((rows, 1), np.int64) if padding is None else padding.reshape(rows, 1))
        self._positions, self._text = np.maximum(place, 0), (place >= 0).astype(np.int64)  # (B, n_positions)
        self._mask[:] = 0

    def _allocate(self, rows: int) -> None:
        """Take the memory that a batch needs, and bind it."""
        self._rows = rows
        self._one, self._all = np.array([1]), np.array([0])
        self._new_ids, self._new_positions = np.empty((rows, 1), np.int64), np.empty((rows, 1), np.int64)
        self._mask = np.zeros((rows, self.n_positions), np.int64)  # 1 for a token, 0 for padding and for what is to come
        self._single = {"input_ids": self._new_ids, "position_ids": self._new_positions, "attention_mask": self._mask}
        self._next, self._uniform = np.empty((rows, 1), np.int64), np.empty((rows, 1))
        self._logits = np.empty((rows, 1, self.vocab_size), np.float32)
        shape = (rows, self.config.n_head, self.n_positions, head_dim(self.config))
        dtype = np.float16 if self.exported.dtype == "fp16" else np.float32
        device = "cuda" if self.provider.startswith("CUDA") else "cpu"
        names = zip(*(cache_names(prefix, self.config.n_layer) for prefix in ("past_key_values", "present")), strict=True)
        self._caches = {pair: buffer(shape, dtype, device) for pair in names}
        for graph in filter(None, (self._model, self._generate)):
            self._bind_buffers(graph)

    def _bind_buffers(self, graph: Binding) -> None:
        """Let a graph read and write the cache, where there is one."""
        for (source, target), cache in self._caches.items():
            graph.shared(source, target, cache)


def limited(number: float, low: float | None, high: float | None) -> float:
    """A number within limits, of which there may be none."""
    number = number if low is None else max(low, number)
    return number if high is None else min(high, number)


def _check_options(inputs: Mapping[str, Any], exported: Exported) -> None:
    """Make sure that generate.onnx takes the numbers that the certificate names, and no others.

    Raises:
        CheckpointError: it does not.
    """
    named = {name for step in exported.chain or [] for name in step["inputs"].values()}
    others = {"input_ids", "attention_mask", "position_ids", "uniform", "text_ids", "prompt_length"}
    others |= set(cache_names("past_key_values", exported.config.n_layer))
    if named != inputs.keys() - others or not all(
        step["inputs"].keys() <= step["values"].keys() for step in exported.chain or []
    ):
        file = exported.folder / GENERATE
        raise CheckpointError(f"{file}: its inputs are not those of the samplers that {CERTIFICATE} describes")


def _check_graph(session: Any, exported: Exported) -> None:
    """Make sure that a graph has our names and shapes.

    Raises:
        CheckpointError: it has not.
    """
    config = exported.config
    shapes = {value.name: value.shape for value in [*session.get_inputs(), *session.get_outputs()]}
    heads = [config.n_head, head_dim(config)]
    wanted: dict[str, list[int]] = {"input_ids": [], "attention_mask": [], "position_ids": [], "logits": [config.vocab_size]}
    for prefix in ("past_key_values", "present"):
        wanted |= dict.fromkeys(cache_names(prefix, config.n_layer), heads)
    fixed = {name: [size for size in shape if isinstance(size, int)] for name, shape in shapes.items()}
    if fixed != wanted:
        file = exported.folder / MODEL
        raise CheckpointError(f"{file}: its inputs and outputs are not those of the model that {CERTIFICATE} describes")
