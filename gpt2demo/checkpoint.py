"""Checkpoints: written whole or not at all, verified before use, readable by `transformers` as they are.

    step-00001000/
      model.safetensors  config.json  generation_config.json          Hugging Face's GPT-2 format
      tokenizer.json  tokenizer_config.json                           where the tokenizer can be expressed so
      tokenizer/                                                      the tokenizer's own files
      trainer.safetensors  trainer.json                               the optimizer's state; step, best loss
      manifest.json                                                   sha256 and size of every file; written last

A folder without a valid manifest is not a checkpoint. No file is ever unpickled.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.config import ModelConfig
from gpt2demo.errors import CheckpointError, SettingError, TokenizerError, UserError
from gpt2demo.interfaces import HasTokenizerJson, Tokenizer
from gpt2demo.model import GPT2
from gpt2demo.storage import new_folder, read_json, remove_temporaries, require_space, sha256, unwritable, write_json

FORMAT = 1
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PREFIX = "transformer."


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder.

    Attributes:
        path: the folder.
        step: optimizer steps done.
        validation_loss: of the evaluation at this step, in nats per token, or None.
    """

    path: Path
    step: int
    validation_loss: float | None


# ---------------------------------------------------------------------------------------------- Hugging Face's format


def to_hugging_face(model: GPT2) -> dict[str, Tensor]:
    """The weights under Hugging Face's names and in OpenAI's layout (in, out), contiguous; the tied head is not stored."""
    state = {PREFIX + name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return {name: (tensor.t() if name.endswith(TRANSPOSED) else tensor).contiguous() for name, tensor in state.items()}


def from_hugging_face(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """One stored weight under our name and in our layout (out, in)."""
    return name.removeprefix(PREFIX), tensor.t() if name.endswith(TRANSPOSED) else tensor


def hugging_face_config(config: ModelConfig, eos_id: int | None) -> dict[str, Any]:
    """config.json of a `GPT2LMHeadModel` of this shape."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        **config.model_dump(exclude={"dropout"}),
        "n_inner": None,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout),
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
    }


def model_config(stored: dict[str, Any]) -> ModelConfig:
    """The shape in a config.json.

    Raises:
        CheckpointError: a value is missing or impossible.
    """
    names = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    rest = {"dropout": stored.get("resid_pdrop", 0.0), "initializer_range": stored.get("initializer_range", 0.02)}
    try:
        return ModelConfig.create(**rest, **{name: stored[name] for name in names})
    except KeyError as error:
        raise CheckpointError(f"config.json: {error} is missing") from None
    except SettingError as error:
        raise CheckpointError(f"config.json: {error}") from None


# ---------------------------------------------------------------------------------------------- tokenizer


def save_tokenizer(tokenizer: Tokenizer, name: str, folder: Path) -> None:
    """Write a tokenizer's own files, and `plugin.json`: which plugin can read them."""
    owner = plugins.registry().owner("tokenizers", name)
    folder.mkdir(exist_ok=True)
    tokenizer.save(folder)
    write_json(folder / "plugin.json", {"name": name, "distribution": owner.distribution, "version": owner.version})


def load_tokenizer(folder: Path) -> tuple[Tokenizer, str]:
    """A tokenizer and its name from what `save_tokenizer` wrote.

    Raises:
        TokenizerError: the files are damaged, or the plugin that reads them is not installed.
    """
    try:
        stored = read_json(folder / "plugin.json")
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    name = str(stored.get("name"))
    try:
        cls: type[Tokenizer] = plugins.registry().part("tokenizers", name)
    except UserError as error:
        package = f"{stored.get('distribution')} {stored.get('version')}"
        raise TokenizerError(f"{folder}: needs the tokenizer {name!r} from {package}; pip install it ({error})") from None
    return cls.load(folder), name


def write_tokenizer_json(tokenizer: Tokenizer, n_positions: int, folder: Path) -> bool:
    """Write tokenizer.json and tokenizer_config.json where the tokenizer can be expressed so; say whether it could."""
    if not isinstance(tokenizer, HasTokenizerJson):
        return False
    (folder / "tokenizer.json").write_text(tokenizer.tokenizer_json(), encoding="utf-8")
    end = None if tokenizer.eos_id is None else tokenizer.decode([tokenizer.eos_id])
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "model_max_length": n_positions}
    specials = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
    write_json(folder / "tokenizer_config.json", {**config, **specials, "clean_up_tokenization_spaces": False})
    return True


# ---------------------------------------------------------------------------------------------- writing


def write_model(model: GPT2, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model as a Hugging Face folder, with tokenizer.json where the tokenizer can be expressed so."""
    weights = {name: tensor.to(dtype) for name, tensor in to_hugging_face(model).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = hugging_face_config(model.config, tokenizer.eos_id)
    write_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
    ends = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ends})
    write_tokenizer_json(tokenizer, model.config.n_positions, folder)


def save(
    folder: Path,
    model: GPT2,
    tokenizer_folder: Path,
    optimizer: torch.optim.Optimizer | None,
    progress: dict[str, Any],
) -> Checkpoint:
    """Write a checkpoint into the folder of checkpoints; it appears whole or not at all.

    Args:
        folder: `checkpoints/` of a run.
        model: the weights.
        tokenizer_folder: the run's tokenizer, copied along so that a checkpoint can stand alone.
        optimizer: its state is saved; None at step 0, where it has none.
        progress: what the trainer needs besides, as JSON; `step` and `validation_loss` are in it.

    Raises:
        CheckpointError: the disk is full or refused; what was there before is untouched.
    """
    folder.mkdir(exist_ok=True)
    target = folder / folder_name(progress["step"])
    tokenizer, _ = load_tokenizer(tokenizer_folder)
    require_space(folder, 4 * sum(p.numel() for p in model.parameters()) * 4)  # weights and two moments, and room to spare
    if target.exists():  # of this step, but damaged: a run goes on from the newest whole one
        _discard(target)
    try:
        with new_folder(target) as temporary:
            write_model(model, tokenizer, temporary)
            shutil.copytree(tokenizer_folder, temporary / "tokenizer")
            tensors, rest = flatten_state(optimizer.state_dict() if optimizer else {"state": {}, "param_groups": []})
            save_file(tensors, temporary / "trainer.safetensors", metadata={"format": "pt"})
            write_json(temporary / "trainer.json", {**progress, "optimizer": rest})
            write_manifest(temporary)
    except SafetensorError as error:
        raise CheckpointError(f"{target}: could not be written ({error})") from None
    return verify(target)


def folder_name(step: int) -> str:
    """What a checkpoint's folder is called."""
    return f"step-{step:08d}"


def flatten_state(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's `state_dict()` into tensors (named `index.key`) and a JSON value with all the rest."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {"param_groups": state["param_groups"], "state": {}}
    for index, values in state["state"].items():
        rest["state"][str(index)] = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
        tensors.update({f"{index}.{k}": v.detach().cpu().contiguous() for k, v in values.items() if isinstance(v, Tensor)})
    return tensors, rest


def restore_state(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten_state`."""
    state = {int(index): dict(values) for index, values in rest["state"].items()}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    return {"param_groups": rest["param_groups"], "state": state}


def write_manifest(folder: Path) -> None:
    """List every file of a folder with size and checksum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
    write_json(folder / "manifest.json", {"format": FORMAT, "files": listed})


def prune(folder: Path, keep: int) -> None:
    """Remove old checkpoints: the newest `keep` stay, and the one with the lowest validation loss."""
    checkpoints = list(valid_checkpoints(folder, verified=False))
    kept = {checkpoint.path for checkpoint in checkpoints[:keep]}
    kept |= {best.path for best in [best_of(checkpoints)] if best}
    for checkpoint in checkpoints:
        if checkpoint.path not in kept:
            _discard(checkpoint.path)


def _discard(path: Path) -> None:
    """Remove a checkpoint folder; from the first moment on it is no checkpoint, whatever happens to the rest."""
    try:
        (path / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(path)
    except OSError as error:
        raise unwritable(path, error) from None


def clean(folder: Path) -> None:
    """Remove what a killed process left: temporary folders, and checkpoints without a manifest."""
    remove_temporaries(folder)
    for path in folder.glob("step-*"):
        if not (path / "manifest.json").is_file():
            shutil.rmtree(path, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- reading


def is_checkpoint(path: Path) -> bool:
    """Whether a folder claims to be a checkpoint."""
    return (path / "manifest.json").is_file() and (path / "model.safetensors").is_file()


def verify(path: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: something is missing, changed, or of a newer format; says which file.
    """
    manifest = read_json(path / "manifest.json")
    if (found := manifest.get("format")) != FORMAT:
        raise CheckpointError(f"{path}: has checkpoint format {found!r}, this program reads {FORMAT}; use a newer gpt2demo")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or "model.safetensors" not in listed:
        raise CheckpointError(f"{path}/manifest.json: lists no files")
    for name, expected in listed.items():
        file = path / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not file.is_file():
            raise CheckpointError(f"{file}: is missing")
        if not isinstance(expected, dict) or not _as_listed(file, expected):
            raise CheckpointError(f"{file}: is damaged (its content does not match manifest.json)")
    return _describe(path)


def _as_listed(file: Path, expected: dict[str, Any]) -> bool:
    """Whether a file is what the manifest says of it.

    Raises:
        CheckpointError: it cannot be read; a trainer may be removing the checkpoint at this moment.
    """
    try:
        return bool(file.stat().st_size == expected.get("bytes") and sha256(file) == expected.get("sha256"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from None


def _describe(path: Path) -> Checkpoint:
    """A checkpoint's step and loss from its trainer.json."""
    progress = read_json(path / "trainer.json")
    step, loss = progress.get("step"), progress.get("validation_loss")
    if not isinstance(step, int) or not (loss is None or isinstance(loss, float)):
        raise CheckpointError(f"{path}/trainer.json: has no usable step and validation loss")
    return Checkpoint(path, step, loss)


def valid_checkpoints(folder: Path, *, verified: bool = True) -> Iterator[Checkpoint]:
    """The usable checkpoints of a run, newest first; damaged ones are passed over with a warning."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            found = verify(path) if verified else _describe(path)
            if path.name != folder_name(found.step):
                raise CheckpointError(f"{path}: holds step {found.step}, which is another folder's")
            yield found
        except CheckpointError as error:
            warnings.warn(f"{error}; passed over", stacklevel=2)


def newest(folder: Path) -> Checkpoint:
    """The newest checkpoint that is whole; damaged newer ones are passed over with a warning.

    Raises:
        CheckpointError: there is none.
    """
    for checkpoint in valid_checkpoints(folder):
        return checkpoint
    raise CheckpointError(f"{folder}: there is no usable checkpoint yet")


def best_of(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """The one with the lowest validation loss, if any was evaluated."""
    evaluated = [checkpoint for checkpoint in checkpoints if checkpoint.validation_loss is not None]
    return min(evaluated, key=lambda checkpoint: checkpoint.validation_loss or 0.0, default=None)


def load_model(path: Path) -> GPT2:
    """The model in a Hugging Face GPT-2 folder, in float32, ready for use (no dropout).

    Raises:
        CheckpointError: the files are damaged or do not fit together. Shapes are compared before memory is taken.
    """
    config = model_config(read_json(path / "config.json"))
    with torch.device("meta"):
        model = GPT2(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(_read_weights(path / "model.safetensors", expected), assign=True)
    return model.eval()


def _read_weights(file: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights of a file under our names, each of the expected shape."""
    weights: dict[str, Tensor] = {}
    try:
        with safe_open(file, framework="pt") as stored:
            for stored_name in stored.keys():  # noqa: SIM118  # a safetensors handle is no dict
                shape = tuple(stored.get_slice(stored_name).get_shape())
                name = stored_name.removeprefix(PREFIX)
                wanted = expected.get(name)
                if wanted is None or shape != (wanted[::-1] if name.endswith(TRANSPOSED) else wanted):
                    raise CheckpointError(f"{file}: {stored_name} has shape {shape}, config.json asks for {wanted}")
                weights[name] = from_hugging_face(stored_name, stored.get_tensor(stored_name))[1].float().contiguous()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    if missing := expected.keys() - weights.keys():
        raise CheckpointError(f"{file}: {sorted(missing)[0]} is missing")
    return weights


def load_trainer(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The trainer's progress and the optimizer's `state_dict()` of a checkpoint."""
    progress = read_json(path / "trainer.json")
    try:
        with safe_open(path / "trainer.safetensors", framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}/trainer.safetensors: cannot be read ({error})") from None
    return progress, restore_state(tensors, progress.pop("optimizer"))


def optimizer_json_safe(state: dict[str, Any]) -> bool:
    """Whether an optimizer's state can be saved without pickle; plugin optimizers are checked with this in their tests."""
    try:
        json.dumps(flatten_state(state)[1], allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
