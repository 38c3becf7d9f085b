"""Load a run, checkpoint or export as a model that generates text."""

from __future__ import annotations

from pathlib import Path

from gpt2demo.config import DeviceName, EngineName
from gpt2demo.errors import RunError
from gpt2demo.generation.generate import Model
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_model
from gpt2demo.runs.folder import Run


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
    from gpt2demo.engines import exported

    found = find_model(None if model is None else str(model), exported.is_export)
    if isinstance(found, Run) and engine == "onnx":
        return _load_export(exported.export_of(found), device)
    if isinstance(found, Path) and exported.is_export(found):
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
    from gpt2demo.engines.hardware import torch_device
    from gpt2demo.engines.torch import TorchEngine
    from gpt2demo.runs.weights import load_model

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
