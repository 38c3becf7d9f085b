"""onnxruntime engine: run an exported model without torch.

Keys and values are stored in buffers for the whole context that are allocated once. The graph reads the past from them and writes
new entries after it, in place. A decoding step only changes a few values in small arrays that stay bound. On an NVIDIA GPU, where
all shapes and addresses of a step must be the same for a CUDA graph, this holds too: its mask has a column for every position of
the context, and its ones say how many are used.

Shapes: B = rows, T = new positions, S = all positions, V = vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo.engines import check_feed
from gpt2demo.engines.binding import NO_CAPTURE, Binding, GpuBinding, buffer
from gpt2demo.engines.exported import CERTIFICATE, GENERATE, MODEL, Exported, cache_names, check_export, head_dim
from gpt2demo.engines.session import Device, cpu_threads, expected_provider, open_session
from gpt2demo.errors import CheckpointError, SettingError

PROBE_LIMIT = 2**26
"""Model size in bytes below which the fastest number of threads is measured. Larger models benefit from all cores."""
PROBES = 12
"""Decoding steps per measurement."""
TYPES: dict[str, npt.DTypeLike] = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(double)": np.float64}
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass
class Graph:
    """An open graph.

    Attributes:
        session: its onnxruntime session.
        prefill: the binding for several new positions.
        step: the binding for single steps, with shapes that stay the same. On the CPU, it is the same as `prefill`.
        eager_reason: why steps are not captured as a CUDA graph; None if they are.
    """

    session: Any
    prefill: Binding
    step: Binding
    eager_reason: str | None


class OnnxEngine:
    """Run an exported model step by step. Implements `gpt2demo.interfaces.Engine` and `SamplingEngine`.

    Args:
        folder: a folder written by `gpt2demo export --onnx`.
        device: `auto` uses an NVIDIA GPU if onnxruntime can run on it, otherwise the CPU.

    Attributes:
        exported: the content of the folder's certificate.
        threads: number of CPU threads.
        eager_reason: why steps are not replayed from a CUDA graph; None if they are.

    Raises:
        CheckpointError: a file is damaged, modified, or not from a gpt2demo export.
        SettingError: the requested device is not available; the message contains the reason.
    """

    name = "onnx"

    def __init__(self, folder: Path, device: Device = "auto") -> None:
        self.exported = check_export(folder)
        self.config = self.exported.config
        self.n_positions = self.config.n_positions
        self.vocab_size = self.config.vocab_size
        self._device = device
        self._caches: dict[tuple[str, str], Any] = {}
        self._rows = 0  # no buffers are allocated yet
        self._model: Graph | None = None
        self._generate: Graph | None = None
        self._capture = 0  # number of the current CUDA graph
        self.threads = cores = cpu_threads()
        self.provider = expected_provider(device, self.exported.dtype)
        self.reset()
        if self.provider != "CPUExecutionProvider":
            self._open_model()  # only a session reports the provider that is really used
        elif cores > 1 and (folder / MODEL).stat().st_size < PROBE_LIMIT:
            self.threads = self._fastest([cores // 2**halvings for halvings in range(cores.bit_length())])

    @property
    def eager_reason(self) -> str | None:
        """Why steps are not replayed from a CUDA graph; None if they are. Of generate.onnx, if it is open."""
        graph = self._generate or self._open_model()
        return graph.eager_reason

    def _open_model(self) -> Graph:
        """Open model.onnx on first use. The same holds for generate.onnx, because each session has a copy of the weights."""
        if self._model is None:
            self._model = self._open(MODEL)
            _check_graph(self._model.session, self.exported)
            self._bind_buffers(self._model)
        return self._model

    def _open(self, name: str) -> Graph:
        """Open a graph in a new session."""
        opened = open_session(self.exported.folder / name, self._device, self.exported.dtype, self.threads)
        session, self.provider, eager_reason = opened
        if self._on_gpu:
            return Graph(session, GpuBinding(session), GpuBinding(session), eager_reason)
        binding = Binding(session)
        return Graph(session, binding, binding, eager_reason)

    @property
    def _on_gpu(self) -> bool:
        return self.provider.startswith("CUDA")

    def _fastest(self, candidates: list[int]) -> int:
        """Return the fastest number of threads. For a small model, synchronizing many threads takes longer than it saves."""
        measured = []
        for threads in candidates:
            self.threads, self._model = threads, None
            measured.append((self._seconds_per_step(), threads, self._open_model()))
            self.reset()
        _, threads, self._model = min(measured, key=lambda entry: entry[0])
        return threads

    def _seconds_per_step(self) -> float:
        """Return the shortest time of a few decoding steps, at most as many as the context has positions."""
        times = []
        for _ in range(min(PROBES, self.n_positions)):
            start = time.perf_counter()
            self.feed(np.zeros((1, 1), np.int64))
            times.append(time.perf_counter() - start)
        return min(times)

    @property
    def length(self) -> int:
        """Number of positions in the cache."""
        return self._length

    def reset(self) -> None:
        """Empty the cache."""
        self._length = 0

    def feed(self, ids: Ids, padding: Ids | None = None) -> Floats:
        """Read the next ids (B, T) and return the logits (B, V) after the last. See `gpt2demo.interfaces.Engine`."""
        if padding is not None:  # not checked below, because `read` accepts padding that is wider than its first piece
            check_feed(ids, self, padding)
        model = self._open_model()
        for part in self._split(ids):
            binding = self._bind(model, part, padding)
            binding.input("num_logits_to_keep", self._one)
            binding.output("logits", self._logits)
            self._run(model, binding)
            self._length += part.shape[1]
        last: Floats = self._logits[:, 0]
        return last

    def logits(self, ids: Ids) -> Floats:
        """Return the logits at every position, (B, T) -> (B, T, V). Empties the cache."""
        self.reset()
        result = self.read(ids)
        self.reset()
        return result

    def read(self, ids: Ids, padding: Ids | None = None) -> Floats:
        """Read the next ids (B, T) and return the logits (B, T, V) after each; those of padding are meaningless."""
        if len(parts := self._split(ids)) > 1:
            return np.stack([self.feed(part).copy() for part in parts], axis=1)
        model = self._open_model()
        binding = self._bind(model, ids, padding)
        result = np.empty((*ids.shape, self.vocab_size), np.float32)
        binding.input("num_logits_to_keep", self._all)
        binding.output("logits", result)
        binding.run(release=True)  # one call with many positions may need more memory than the weights
        self._length += ids.shape[1]
        return result

    # ------------------------------------------------------------------------------------------ samplers in the graph

    def takes(self, chain: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Return whether generate.onnx contains this chain: the same samplers in the same order, with the same fixed options.

        Args:
            chain: name and options of each sampler.
        """
        own = self.exported.samplers
        if own is None or [name for name, _ in chain] != [step["name"] for step in own]:
            return False
        pairs = [(step["fixed"], options) for step, (_, options) in zip(own, chain, strict=True)]
        return all(options.get(key) == value for fixed, options in pairs for key, value in fixed.items())

    def set_options(self, chain: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Set the options of the samplers in the graph. The chain must be one that `takes` accepts."""
        if self._generate is None:
            self._generate = self._open(GENERATE)
            self._inputs = {value.name: value for value in self._generate.session.get_inputs()}
            _check_options(self._inputs, self.exported)
            self._needs_text, self._needs_prompt_length = "text_ids" in self._inputs, "prompt_length" in self._inputs
            if self._needs_text and self._on_gpu:
                self._generate.eager_reason = "a sampler reads the text, which is longer at each step"
            self._bind_buffers(self._generate)
        self._capture += 1  # a captured graph has the values of options that are read on the host
        for step, (_, options) in zip(self.exported.samplers or [], chain, strict=True):
            for option, name in step["inputs"].items():
                value = clamp(options[option], *step["limits"].get(option, (None, None)))
                array = np.full(self._inputs[name].shape, value, TYPES[self._inputs[name].type])
                self._generate.prefill.input(name, array)
                self._generate.step.input(name, array)

    def draw(self, ids: Ids, uniform: Sequence[float], text: Ids, prompt_length: int, padding: Ids | None = None) -> Ids:
        """Read the next ids (B, T) and sample the following ones, (B,). See `gpt2demo.interfaces.SamplingEngine`."""
        assert self._generate is not None  # set_options comes first
        for part in self._split(ids):
            binding = self._bind(self._generate, part, padding)
            if self._needs_text:
                binding.input("text_ids", np.ascontiguousarray(text))
            if self._needs_prompt_length:
                binding.input("prompt_length", np.array(prompt_length))
            self._uniform[:, 0] = uniform
            binding.input("uniform", self._uniform)
            binding.output("next_ids", self._next)
            self._run(self._generate, binding)
            self._length += part.shape[1]
        drawn: Ids = self._next[:, 0]
        return drawn

    # ------------------------------------------------------------------------------------------ buffers

    def _bind(self, graph: Graph, ids: Ids, padding: Ids | None) -> Binding:
        """Bind the inputs of a step, and return the binding to run."""
        inputs = self._step_inputs(ids, padding)
        binding = graph.step if inputs is self._single else graph.prefill
        binding.inputs(inputs)
        return binding

    def _run(self, graph: Graph, binding: Binding) -> None:
        """Run a graph; a step on a GPU as a CUDA graph where possible."""
        if binding is graph.prefill or graph.eager_reason:
            binding.run(NO_CAPTURE)
            return
        try:
            binding.run(self._capture)
        except CheckpointError as error:
            graph.eager_reason = f"onnxruntime could not capture the step ({error})"
            binding.run(NO_CAPTURE)  # writes the same positions of the cache again

    def _step_inputs(self, ids: Ids, padding: Ids | None) -> dict[str, npt.NDArray[Any]]:
        """Return the inputs of a step: new ids, their positions, and the mask of all positions."""
        check_feed(ids, self)
        rows, count = ids.shape
        start, end = self._length, self._length + count
        if start == 0:
            self._begin_batch(rows, padding)
        elif rows != self._rows:
            raise SettingError(f"{rows} rows: the cache holds {self._rows}; reset the engine first")
        self._mask[:, start:end] = self._text[:, start:end]
        if start and count == 1:  # the arrays of single steps are already bound
            self._new_ids[...] = ids
            self._new_positions[...] = self._positions[:, start:end]
            return self._single
        arrays = {"input_ids": ids, "position_ids": self._positions[:, start:end], "attention_mask": self._mask[:, :end]}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def _split(self, ids: Ids) -> list[Ids]:
        """Split into single positions where needed: onnxruntime's attention reads one at a time into a cached batch."""
        single = self._length and ids.shape[0] > 1 and ids.shape[1] > 1
        return [column[:, None] for column in ids.T] if single else [ids]

    def _begin_batch(self, rows: int, padding: Ids | None) -> None:
        """Start a new batch. Buffers are reused if the number of rows is the same as before."""
        if rows != self._rows:
            self._allocate(rows)
        offset = np.zeros((rows, 1), np.int64) if padding is None else padding.reshape(rows, 1)
        positions = np.arange(self.n_positions) - offset  # (B, n_positions), negative for padding
        self._positions, self._text = np.maximum(positions, 0), (positions >= 0).astype(np.int64)
        self._mask[:] = 0

    def _allocate(self, rows: int) -> None:
        """Allocate the buffers of a batch and bind them."""
        self._rows = rows
        self._capture += 1
        self._one, self._all = np.array([1]), np.array([0])
        self._new_ids, self._new_positions = np.empty((rows, 1), np.int64), np.empty((rows, 1), np.int64)
        self._mask = np.zeros((rows, self.n_positions), np.int64)  # 1 for tokens, 0 for padding and unused positions
        self._single = {"input_ids": self._new_ids, "position_ids": self._new_positions, "attention_mask": self._mask}
        self._next, self._uniform = np.empty((rows, 1), np.int64), np.empty((rows, 1))
        self._logits = np.empty((rows, 1, self.vocab_size), np.float32)
        shape = (rows, self.config.n_head, self.n_positions, head_dim(self.config))
        dtype = np.float16 if self.exported.dtype == "fp16" else np.float32
        device = "cuda" if self._on_gpu else "cpu"
        names = zip(*(cache_names(prefix, self.config.n_layer) for prefix in ("past_key_values", "present")), strict=True)
        self._caches = {pair: buffer(shape, dtype, device) for pair in names}
        for graph in filter(None, (self._model, self._generate)):
            self._bind_buffers(graph)

    def _bind_buffers(self, graph: Graph) -> None:
        """Bind the cache, if it is allocated, to a graph."""
        for (source, target), cache in self._caches.items():
            graph.prefill.shared(source, target, cache)
            if graph.step is not graph.prefill:
                graph.step.shared(source, target, cache)


def clamp(value: float, low: float | None, high: float | None) -> float:
    """Clamp a value; None means no limit."""
    value = value if low is None else max(low, value)
    return value if high is None else min(high, value)


def _check_options(inputs: Mapping[str, Any], exported: Exported) -> None:
    """Check that generate.onnx has exactly the sampler inputs that the certificate describes.

    Raises:
        CheckpointError: its inputs differ.
    """
    named = {name for step in exported.samplers or [] for name in step["inputs"].values()}
    others = {"input_ids", "attention_mask", "position_ids", "uniform", "text_ids", "prompt_length"}
    others |= set(cache_names("past_key_values", exported.config.n_layer))
    if named != inputs.keys() - others or not all(
        step["inputs"].keys() <= step["values"].keys() for step in exported.samplers or []
    ):
        file = exported.folder / GENERATE
        raise CheckpointError(f"{file}: its inputs are not those of the samplers in {CERTIFICATE}")


def _check_graph(session: Any, exported: Exported) -> None:
    """Check that model.onnx has the names and shapes of an export with this certificate.

    Raises:
        CheckpointError: they differ.
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
        raise CheckpointError(f"{file}: its inputs and outputs are not those of the model in {CERTIFICATE}")
