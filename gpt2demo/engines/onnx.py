"""The onnxruntime engine: an exported folder, run without torch.

The cache stays inside onnxruntime: what one call gives as `present` is bound as `past` of the next, and never passes through
numpy. What runs is checked first: model.onnx must be the file that gpt2demo.json certifies, and must carry all of its weights.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpt2demo.config import ModelConfig
from gpt2demo.engines import check_feed
from gpt2demo.errors import CheckpointError, RunError, SettingError
from gpt2demo.run import Run, exports_dir
from gpt2demo.storage import read_json, sha256

CERTIFICATE = "gpt2demo.json"
MODEL = "model.onnx"
FORMAT = 1
Device = Literal["auto", "cpu", "cuda", "mps"]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def cache_names(prefix: str, n_layer: int) -> list[str]:
    """Names of the cache's tensors: `past_key_values.0.key`, `past_key_values.0.value`, `past_key_values.1.key` …"""
    return [f"{prefix}.{layer}.{part}" for layer in range(n_layer) for part in ("key", "value")]


class OnnxEngine:
    """Runs an exported model step by step; meets `gpt2demo.interfaces.Engine`.

    Args:
        folder: what `gpt2demo export --onnx` wrote.
        device: `auto` takes an NVIDIA GPU where onnxruntime can really use it, and the CPU elsewhere.

    Raises:
        CheckpointError: a file is damaged, was changed, or is not ours.
        SettingError: the device that was asked for cannot be had; says what is missing.
    """

    name = "onnx"

    def __init__(self, folder: Path, device: Device = "auto") -> None:
        self.config = check_export(folder)
        self.n_positions = self.config.n_positions
        self.vocab_size = self.config.vocab_size
        self._session, self.provider = open_session(folder / MODEL, device)
        _check_graph(self._session, self.config, folder / MODEL)
        self._device = "cuda" if self.provider.startswith("CUDA") else "cpu"
        self._binding = self._session.io_binding()
        self._past_names = cache_names("past_key_values", self.config.n_layer)
        self._present_names = cache_names("present", self.config.n_layer)
        self.reset()

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self._length

    def reset(self) -> None:
        """Empty the cache."""
        self._length = 0
        self._cache: list[Any] = []  # an OrtValue (B, H, length, D) for each of cache_names

    def feed(self, ids: Ids) -> Floats:
        """Read (B, T) further ids; give the logits (B, V) after the last."""
        last: Floats = self.read(ids)[:, -1]
        return last

    def logits(self, ids: Ids) -> Floats:
        """Logits at every position, (B, T) -> (B, T, V)."""
        self.reset()
        result = self.read(ids)
        self.reset()
        return result

    def read(self, ids: Ids, mask: Ids | None = None, positions: Ids | None = None) -> Floats:
        """Read (B, T) further ids; give the logits after every one of them. Serves batches with padding too.

        Args:
            ids: (B, T), any id of the vocabulary where a row is padded.
            mask: (B, length + T), 1 for a token and 0 for padding, of the whole row so far; all tokens when left out.
            positions: (B, T), counted without the padding; counts on from the cache when left out.

        Returns:
            (B, T, V); of padding the values mean nothing.

        Raises:
            SettingError: as `feed`, or the rows are not as many as in the cache.
        """
        check_feed(ids, self)
        rows, end = ids.shape[0], self._length + ids.shape[1]
        if not self._cache:
            self._cache = [self._empty(rows) for _ in self._past_names]
        if (cached := self._cache[0].shape()[0]) != rows:
            raise SettingError(f"{rows} rows: the cache holds {cached}; reset the engine first")
        if mask is None:
            mask = np.ones((rows, end), np.int64)
        if positions is None:
            positions = np.tile(np.arange(self._length, end), (rows, 1))
        logits, *self._cache = self._run({"input_ids": ids, "attention_mask": mask, "position_ids": positions})
        self._length = end
        result: Floats = logits.numpy()
        return result

    def _run(self, inputs: dict[str, Ids]) -> list[Any]:
        """One pass over the graph; gives the logits, in host memory, and the grown cache, where it was."""
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}  # alive until the run is over
        for name, array in contiguous.items():
            self._binding.bind_cpu_input(name, array)
        for name, value in zip(self._past_names, self._cache, strict=True):
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_output("logits", "cpu")
        for name in self._present_names:
            self._binding.bind_output(name, self._device)
        self._session.run_with_iobinding(self._binding)
        outputs: list[Any] = self._binding.get_outputs()
        return outputs

    def _empty(self, rows: int) -> Any:
        """A cache tensor without positions."""
        from onnxruntime import OrtValue

        shape = (rows, self.config.n_head, 0, self.config.n_embd // self.config.n_head)
        return OrtValue.ortvalue_from_numpy(np.empty(shape, np.float32), self._device, 0)


# ---------------------------------------------------------------------------------------------- the folder


def is_export(path: Path) -> bool:
    """Whether a folder claims to be an export for onnxruntime."""
    return (path / CERTIFICATE).is_file() and (path / MODEL).is_file()


def export_of(run: Run) -> Path:
    """The export of a run, which has the run's name; warns when the run has been trained on since.

    Raises:
        RunError: there is none.
    """
    folder = exports_dir() / run.name
    if not is_export(folder):
        raise RunError(f"run {run.name!r}: {folder} holds no export of it; make one with `gpt2demo export {run.name} --onnx`")
    source = read_json(folder / CERTIFICATE).get("source")
    newest = max(run.checkpoints.glob("step-*/manifest.json"), default=None)
    weights = _listed(read_json(newest), "model.safetensors") if newest else {}
    if newest and (not isinstance(source, dict) or source.get("sha256") != weights.get("sha256")):
        again = f"export again with `gpt2demo export {run.name} --onnx`"
        warnings.warn(f"{folder}: was not made from the run's newest checkpoint, {newest.parent.name}; {again}", stacklevel=2)
    return folder


def check_export(folder: Path) -> ModelConfig:
    """The shape of an exported model, after making sure that model.onnx is the certified file and stands alone.

    Raises:
        CheckpointError: it is not; says which file and why.
    """
    certificate = read_json(folder / CERTIFICATE)
    if (found := certificate.get("format")) != FORMAT:
        raise CheckpointError(f"{folder}: has export format {found!r}, this program reads {FORMAT}; use a newer gpt2demo")
    file = folder / MODEL
    if not file.is_file() or sha256(file) != _listed(certificate, MODEL).get("sha256"):
        raise CheckpointError(f"{file}: is not the file that {CERTIFICATE} certifies; export the model again")
    if has_external_data(file):
        raise CheckpointError(f"{file}: keeps weights in other files, which are not checked; export the model again")
    try:
        return ModelConfig.create(**certificate["shape"])
    except (KeyError, TypeError, SettingError) as error:
        raise CheckpointError(f"{folder / CERTIFICATE}: has no usable shape ({error})") from None


def _listed(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """What a manifest or certificate says of a file; empty when it says nothing usable."""
    files = manifest.get("files")
    entry = files.get(name) if isinstance(files, dict) else None
    return entry if isinstance(entry, dict) else {}


def has_external_data(file: Path) -> bool:
    """Whether a model refers to weights in other files.

    ONNX names such a file under the key "location"; the exporter leaves no other text with that word in the model. Reading the
    bytes takes no memory, parsing them would take as much as the model.
    """
    if not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"location") >= 0


def _check_graph(session: Any, config: ModelConfig, file: Path) -> None:
    """Make sure that a graph has our names and shapes.

    Raises:
        CheckpointError: it has not.
    """
    shapes = {value.name: value.shape for value in [*session.get_inputs(), *session.get_outputs()]}
    heads = [config.n_head, config.n_embd // config.n_head]
    wanted = {"input_ids": [], "attention_mask": [], "position_ids": [], "logits": [config.vocab_size]}
    for prefix in ("past_key_values", "present"):
        wanted |= dict.fromkeys(cache_names(prefix, config.n_layer), heads)
    fixed = {name: [size for size in shape if isinstance(size, int)] for name, shape in shapes.items()}
    if fixed != wanted:
        raise CheckpointError(f"{file}: its inputs and outputs are not those of the model that {CERTIFICATE} describes")


# ---------------------------------------------------------------------------------------------- the session


def open_session(file: Path, device: Device) -> tuple[Any, str]:
    """An onnxruntime session, and the execution provider that it really runs on.

    Raises:
        CheckpointError: the file is no ONNX model.
        SettingError: the device that was asked for cannot be had.
    """
    import onnxruntime

    if device == "mps":
        raise SettingError("device='mps': onnxruntime computes on cpu or cuda; use one of these, or the torch engine")
    missing = _missing_for_cuda() if device in ("auto", "cuda") else "not asked for"
    if device == "cuda" and missing:
        raise SettingError(f"device='cuda': {missing}; or use --device cpu")
    if not missing:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; that is said below
            onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"] if missing else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime has a class for each kind of complaint, and no common base
        raise CheckpointError(f"{file}: onnxruntime cannot load it ({' '.join(str(error).split())[:200]})") from None
    provider: str = session.get_providers()[0]
    if device == "cuda" and not provider.startswith("CUDA"):
        needed = f"CUDA {onnxruntime.cuda_version} and cuDNN 9"
        raise SettingError(f"device='cuda': onnxruntime {onnxruntime.__version__} could not load {needed}; or use --device cpu")
    return session, provider


def _missing_for_cuda() -> str | None:
    """What keeps onnxruntime from an NVIDIA GPU, and what to do; None when nothing does as far as can be seen before trying."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime is built without CUDA; `pip install onnxruntime-gpu` in place of onnxruntime"
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        status = ctypes.CDLL(library).cuInit(0)
    except OSError:
        return f"there is no NVIDIA driver ({library} cannot be loaded); install it"
    return f"the NVIDIA driver finds no usable GPU (cuInit gave {status})" if status else None
