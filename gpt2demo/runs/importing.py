"""Import GPT-2 models from Hugging Face: a folder or hub name -> weights, tokenizer, and a run to use or fine-tune.

    config.json                                       variants that compute something else are refused
    model.safetensors, or model.safetensors.index.json with its parts
    tokenizer.json, or vocab.json and merges.txt      byte-level BPE like GPT-2's; bytes; or ours in tokenizer/

Weights may be float32, float16 or bfloat16, with or without the prefix `transformer.`, with mask buffers and a tied head, and
with more rows of vocabulary than the tokenizer has ids. Float32 weights are views into the mapped file, so that memory holds them
once. Nothing is ever unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.config import ModelConfig
from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.memory import LOADING_ADVICE, memory_advice
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_model, refuse_pickle
from gpt2demo.runs.folder import Run, State, new_run, now, refuse_taken
from gpt2demo.runs.weights import (
    WEIGHTS,
    load_model,
    meta_model,
    model_config,
    read_weights,
    save_checkpoint,
    shapes,
    with_weights,
)
from gpt2demo.storage import read_json, safe_check, sha256
from gpt2demo.tokenization.huggingface import read_tokenizer

INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
DOWNLOADED = ["*.safetensors", "*.json", "*.txt"]
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

DEFAULTS = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "resid_pdrop": 0.1}
"""Values that a config.json may leave out."""
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


@dataclass(frozen=True)
class Start:
    """A model to start from.

    Attributes:
        name: short name, used in a run's name.
        model: the weights.
        tokenizer, tokenizer_name: its tokenizer, and the name under which that is registered.
        origin: for run.json: the requested source, and the checksums of the files that were read.
    """

    name: str
    model: GPT2
    tokenizer: Tokenizer
    tokenizer_name: str
    origin: dict[str, Any]


def import_model(source: str, *, run: str | None = None, report: Callable[[str], None] = print) -> Run:
    """Create a run from a GPT-2 of Hugging Face, which can be used, exported and fine-tuned like a trained run.

    Args:
        source: a folder, or a hub name if there is a network.
        run: the run's name; by default an unused one derived from the source's name.
        report: called with one line of text at each stage.

    Returns:
        The run, with the weights as `checkpoints/step-00000000`.

    Raises:
        RunError: the source does not exist or is an unsupported variant of GPT-2, or the run's name is invalid or taken.
        TokenizerError: the source has no supported tokenizer.
        CheckpointError: the source's files are damaged, or the disk is full. No run is left behind.
    """
    refuse_taken(run)
    folder = Path(source).expanduser()
    if not safe_check(folder.exists):
        report(f"downloading {source} from the Hugging Face hub")
        folder = download(source)
    found = read(folder, source)
    report(f"read {found.model.config.n_parameters:,} parameters and the tokenizer {found.tokenizer_name!r}")
    with new_run(run, found.name) as made:
        checkpoint.save_tokenizer(found.tokenizer, found.tokenizer_name, made.tokenizer)
        write_start(made, found.model)
        made.write_state(State.own("finished"))
        made.write_info(_info(found))
    return made


def write_start(run: Run, model: GPT2) -> None:
    """Write the weights that a run starts from as its checkpoint of step 0, without optimizer state."""
    progress = {"step": 0, "validation_loss": None, "time": now()}
    save_checkpoint(run.checkpoints, model, run.tokenizer, None, progress)


def _info(found: Start) -> dict[str, Any]:
    """Return the run.json of an imported run. It has no training settings, so the run cannot be resumed."""
    owner = plugins.registry().owner("tokenizers", found.tokenizer_name)
    return {
        "created": now(),
        "preset": None,
        "imported": found.origin,
        "model": found.model.config.model_dump(),
        "train": None,
        "parameters": found.model.config.n_parameters,
        "tokenizer": {"name": found.tokenizer_name, "options": {}, "distribution": owner.distribution, "version": owner.version},
        "dataset": None,
        "data": [],
        "versions": {name: version(name) for name in ("gpt2demo", "torch", "safetensors")},
    }


# ---------------------------------------------------------------------------------------------- finding


def find_start(name: str) -> Start:
    """Load the model of `--init-from`: a run's name, or the path of a run, checkpoint or Hugging Face folder.

    Raises:
        Error: as `import_model`.
    """
    found = find_model(name, lambda path: safe_check((path / "config.json").is_file))
    if not isinstance(found, Run):
        return read(found, name)
    return _read_checkpoint(checkpoint.newest(found.checkpoints).path, found.name, name)


def read(folder: Path, source: str) -> Start:
    """Read a model folder, ours (verified) or Hugging Face's. `source` is the name that the user passed."""
    if folder.is_file():
        refuse_pickle(folder)
        raise RunError(f"{folder}: is a file; pass the folder with config.json, {WEIGHTS} and the tokenizer's files")
    if checkpoint.is_checkpoint(folder):
        return _read_checkpoint(checkpoint.verify(folder).path, folder.name, source)
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder}: has no config.json; pass a Hugging Face model folder")
    with memory_advice(f"{folder}: loading the weights", LOADING_ADVICE):
        model = read_model(folder)
    own = folder / "tokenizer"
    tokenizer, registered = checkpoint.load_tokenizer(own) if (own / "plugin.json").is_file() else read_tokenizer(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        sizes = f"{tokenizer.vocab_size} ids, the model {model.config.vocab_size}"
        raise RunError(f"{folder}: the tokenizer has {sizes}; they do not match")
    name = re.split(r"[/\\]", source.rstrip("/\\"))[-1]
    return Start(name if name.strip(".") else folder.resolve().name, model, tokenizer, registered, _origin(folder, source))


def _read_checkpoint(path: Path, name: str, source: str) -> Start:
    """Read a verified checkpoint of ours, which contains its tokenizer."""
    return Start(name, load_model(path), *checkpoint.load_tokenizer(path / "tokenizer"), origin=_origin(path, source))


def _origin(folder: Path, source: str) -> dict[str, Any]:
    """Return the requested source and the checksums of the files that were read."""
    names = ["config.json", "tokenizer.json", "vocab.json", "merges.txt"]
    files = [*weight_files(folder), *(folder / name for name in names if (folder / name).is_file())]
    return {"source": source, "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}}


def download(name: str) -> Path:
    """Download a model from the Hugging Face hub into that library's cache, without pickles; return its folder.

    Raises:
        RunError: the name is invalid, there is no network, or the model does not exist or is not accessible.
    """
    if not HUB_NAME.fullmatch(name):
        raise RunError(f"source {name!r}: folder not found")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=DOWNLOADED))
    except ImportError:
        raise RunError(
            f"source {name!r}: folder not found, and huggingface_hub, which downloads models, is not installed"
        ) from None
    except Exception as error:  # its errors have no common base class
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise RunError(f"source {name!r}: folder not found, and not available on the Hugging Face hub ({reason})") from None


# ---------------------------------------------------------------------------------------------- model


def read_model(folder: Path) -> GPT2:
    """Load the model in a Hugging Face folder, in float32 and in evaluation mode.

    Raises:
        RunError: the model is an unsupported variant, or its weights are not in safetensors.
        CheckpointError: the files are damaged or inconsistent. Shapes are compared before memory is allocated.
    """
    files = weight_files(folder)
    try:
        stored = read_json(folder / "config.json")
        model = meta_model(read_config(stored))
        expected = shapes(model)
        weights = dict(read_weights(files, expected | {HEAD: expected["wte.weight"]}))
        remove_tied_head(weights, stored)
    except RunError as error:
        raise RunError(f"{folder}: {error}") from None
    return with_weights(model, weights, folder)


def read_config(stored: dict[str, Any]) -> ModelConfig:
    """Return the shape in a config.json of Hugging Face.

    Raises:
        RunError: an option is not supported; the message names it and its value.
        CheckpointError: a size is invalid.
    """
    shape = DEFAULTS | {ALIASES.get(name, name): value for name, value in stored.items()}
    width = shape["n_embd"]
    supported: dict[str, tuple[Any, ...]] = {  # the first value is the default
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # three names of the tanh form
        "n_inner": (None, 4 * width if isinstance(width, int) else None),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "pruned_heads": ({}, None),
        "quantization_config": (None,),
    }
    found = {"model_type": shape.get("model_type")} | {name: shape.get(name, values[0]) for name, values in supported.items()}
    for name, values in {"model_type": ("gpt2",), **supported}.items():
        if found[name] not in values:
            raise RunError(f"{name}={found[name]!r} in config.json is not supported; GPT-2 uses {values[0]!r}")
    return model_config(shape)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder.

    Raises:
        RunError: the folder has none; for a pickle the message says how to convert it.
        CheckpointError: the index is damaged, or a part is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        listed = read_json(folder / INDEX).get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        for name in names or [""]:
            if Path(name).name != name or not (folder / name).is_file():
                raise CheckpointError(f"{folder / INDEX}: names the part {name!r}, which is missing")
        return [folder / name for name in names]
    for file in sorted(folder.iterdir()):
        refuse_pickle(file)
    raise RunError(f"{folder}: has no weights in safetensors ({WEIGHTS}, or {INDEX} and its parts)")


def remove_tied_head(weights: dict[str, Tensor], stored: dict[str, Any]) -> None:
    """Remove a stored output head, which must equal the token embedding; a head alone becomes the token embedding.

    Raises:
        RunError: the head is another matrix.
    """
    head = weights.pop(HEAD, None)
    tied = stored.get("tie_word_embeddings", True)
    if head is None and tied is False:
        raise RunError(f"tie_word_embeddings=False in config.json is not supported, and {HEAD} is missing")
    if head is not None and not torch.equal(head, weights.setdefault("wte.weight", head)):
        raise RunError(
            f"{HEAD} differs from wte.weight (tie_word_embeddings={tied}): a separate head is not supported; "
            "GPT-2 uses the token embedding"
        )
