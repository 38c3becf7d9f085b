"""Load a run, checkpoint or export as a model that generates text."""

from __future__ import annotations

from pathlib import Path

from gpt2demo.config import DeviceName, EngineName
from gpt2demo.errors import RunError
from gpt2demo.generation.generate import Model
from gpt2demo.memory import LOADING_ADVICE, memory_advice
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_model
from gpt2demo.runs.folder import Run


def load(model: str | Path | None = None, *, engine: EngineName = "auto", device: DeviceName = "auto") -> Model:
    """Load a model for generation.

    Args:
        model: a run's name, or the path of a run, checkpoint or export folder; by default the newest run. The newest complete
            checkpoint of a run is loaded.
        engine: `torch`, `onnx`, or `auto` to choose by the folder. For a run, `onnx` loads the export of the same name.
        device: the device to run on.

    Raises:
        Error: the model does not exist, is damaged or does not fit into memory, or the engine or device is not available.
    """
    from gpt2demo.engines import exported

    found = find_model(None if model is None else str(model), exported.is_export)
    with memory_advice(f"{found if isinstance(found, Path) else found.path}: loading the model", LOADING_ADVICE):
        return _load(found, engine, device)


def _load(found: Run | Path, engine: EngineName, device: DeviceName) -> Model:
    """Load what `find_model` found with the requested engine."""
    from gpt2demo.engines import exported

    if isinstance(found, Run) and engine == "onnx":
        return _load_export(exported.export_of(found), device)
    if isinstance(found, Path) and exported.is_export(found):
        if engine == "torch":
            raise RunError(f"{found}: is an export for onnxruntime; to use PyTorch, load the run it was made from")
        return _load_export(found, device)
    if engine == "onnx":
        raise RunError(f"{found}: is a checkpoint; export it first with `gpt2demo export {found} --onnx`")
    return _load_checkpoint(found, device)


def _load_export(folder: Path, device: DeviceName) -> Model:
    """Load an export folder with onnxruntime."""
    from gpt2demo.engines.onnx import OnnxEngine

    tokenizer, _ = checkpoint.load_tokenizer(folder / "tokenizer")
    return _checked(Model(OnnxEngine(folder, device), tokenizer, folder.name, folder))


def _load_checkpoint(found: Run | Path, device: DeviceName) -> Model:
    """Load a run's newest checkpoint, or a checkpoint folder, with PyTorch."""
    from gpt2demo.engines.hardware import torch_device
    from gpt2demo.engines.torch import TorchEngine
    from gpt2demo.runs.weights import load_model

    target = torch_device(device)
    saved = checkpoint.newest(found.checkpoints) if isinstance(found, Run) else checkpoint.verify(found)
    tokenizer, _ = checkpoint.load_tokenizer(saved.path / "tokenizer")
    engine = TorchEngine(load_model(saved.path).to(target))
    return _checked(Model(engine, tokenizer, found.name, saved.path))


def _checked(model: Model) -> Model:
    """Return the model after checking that its vocabulary contains all ids of its tokenizer.

    Raises:
        RunError: it does not.
    """
    if model.tokenizer.vocab_size > model.engine.vocab_size:
        sizes = f"{model.tokenizer.vocab_size} ids, the model {model.engine.vocab_size}"
        raise RunError(f"{model.path}: the tokenizer has {sizes}; they do not match")
    return model
