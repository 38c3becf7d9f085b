"""Inputs and outputs that stay bound to an onnxruntime session, so that a call allocates nothing and copies only what is new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo.errors import CheckpointError, SettingError
from gpt2demo.memory import out_of_memory

Array = npt.NDArray[Any]
NO_CAPTURE = -1
"""Number of a call that is not captured as a CUDA graph."""


class Binding:
    """A session on the CPU whose inputs and outputs are arrays, in C order, that it reads and writes in place.

    Args:
        session: an onnxruntime session.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._held: dict[str, Any] = {}  # onnxruntime has only the address: keeps the memory alive
        self._inputs: Mapping[str, Array] = {}

    def inputs(self, values: Mapping[str, Array]) -> None:
        """Bind inputs to arrays. Passing the same mapping again does nothing: its arrays must be the same."""
        if values is not self._inputs:
            self._inputs = values
            for name, value in values.items():
                self.input(name, value)

    def input(self, name: str, value: Array) -> None:
        """Bind an input to an array, whose values are read by `run`."""
        if self._held.get(name) is not value:
            self._held[name] = value
            self._binding.bind_input(name, "cpu", 0, value.dtype, value.shape, address(value))

    def output(self, name: str, value: Array) -> None:
        """Bind an output to an array, which `run` writes."""
        if self._held.get(name) is not value:
            self._held[name] = value
            self._binding.bind_output(name, "cpu", 0, value.dtype, value.shape, address(value))

    def shared(self, source: str, target: str, value: Any) -> None:
        """Bind an input and an output to the same `OrtValue`, on any device."""
        self._held[source] = value
        self._binding.bind_ortvalue_input(source, value)
        self._binding.bind_ortvalue_output(target, value)

    def run(self, capture: int = NO_CAPTURE, *, release: bool = False) -> None:
        """Run the session.

        Args:
            capture: number of the CUDA graph; without effect on the CPU.
            release: free the memory that the session keeps for its next run; without effect on a GPU.

        Raises:
            CheckpointError: the graph does not match its certificate.
            MemoryError: memory is exhausted.
            SettingError: a library for NVIDIA GPUs is missing.
        """
        self._run(_releasing_options() if release else None)

    def _run(self, options: Any) -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # onnxruntime has one class per kind of error, without a common base
            reason = " ".join(str(error).split())
            if out_of_memory(error):
                raise MemoryError(reason) from None
            if "cuDNN is unavailable" in reason:  # some samplers need it, the model does not
                needed = 'install it with `pip install "onnxruntime-gpu[cuda,cudnn]"`'
                raise SettingError(f"device='cuda': this export's samplers need cuDNN 9; {needed}; or use --device cpu") from None
            raise CheckpointError(f"the exported graph does not match its certificate ({reason[-200:]}); export again") from None


class GpuBinding(Binding):
    """The same on an NVIDIA GPU, where each array has a copy whose address stays the same as long as its shape does.

    `input` copies to the GPU at once, so values that do not change are copied once; `run` copies the outputs back.

    The first call with a number captures the session's kernels as a CUDA graph, and later calls with it replay them: one launch
    instead of one for each kernel. A captured graph has the addresses and shapes of its first call, and the values of the inputs
    that the session reads on the host. Copies are allocated outside the session's arena, which reuses the memory of captured
    intermediates.
    """

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        infos = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
        self._on_gpu = {value.name for value, info in infos if info.name.startswith("Cuda")}  # the others are read on the host
        self._copies: dict[str, Any] = {}
        self._outputs: dict[str, Array] = {}

    def inputs(self, values: Mapping[str, Array]) -> None:
        """Copy arrays to inputs."""
        for name, value in values.items():
            self.input(name, value)

    def input(self, name: str, value: Array) -> None:
        """Copy an array to an input."""
        if name not in self._on_gpu:
            super().input(name, value)
            return
        copy = self._copies.get(name)
        if copy is not None and tuple(copy.shape()) == value.shape:
            copy.update_inplace(value)
            return
        from onnxruntime import OrtValue

        self._copies[name] = OrtValue.ortvalue_from_numpy(value, "cuda", 0)
        self._binding.bind_ortvalue_input(name, self._copies[name])

    def output(self, name: str, value: Array) -> None:
        """Copy an output to an array at each `run`."""
        self._outputs[name] = value
        copy = self._copies.get(name)
        if copy is None or tuple(copy.shape()) != value.shape:
            self._copies[name] = buffer(value.shape, value.dtype, "cuda")
            self._binding.bind_ortvalue_output(name, self._copies[name])

    def run(self, capture: int = NO_CAPTURE, *, release: bool = False) -> None:
        """Run the session, or replay the CUDA graph with a number; then copy the outputs.

        Args:
            capture: number of the CUDA graph, which is captured in the first call.
            release: without effect.

        Raises:
            CheckpointError: the graph does not match its certificate, or cannot be captured.
            MemoryError: memory is exhausted.
        """
        from onnxruntime import RunOptions

        options = RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(capture))
        self._run(options)
        for name, value in self._outputs.items():
            np.copyto(value, self._copies[name].numpy())


def _releasing_options() -> Any:
    from onnxruntime import RunOptions

    options = RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def address(array: Array) -> int:
    """Return the memory address of an array's first element."""
    return int(array.__array_interface__["data"][0])


def buffer(shape: tuple[int, ...], dtype: npt.DTypeLike, device: str) -> Any:
    """Return a new `OrtValue` on a device. On the CPU, the system allocates memory only for pages that are written."""
    from onnxruntime import OrtValue

    if device == "cpu":
        return OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype))
    return OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, 0)
