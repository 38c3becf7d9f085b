"""Tensors to files and back: models in Hugging Face's GPT-2 format, and the optimizer's state. safetensors, never pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt2demo.config import ModelConfig
from gpt2demo.errors import CheckpointError, SettingError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint
from gpt2demo.runs.checkpoint import Checkpoint
from gpt2demo.storage import new_folder, read_json, require_space, write_json

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PREFIX = "transformer."


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


# ---------------------------------------------------------------------------------------------- writing


def write_model(model: GPT2, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model as a Hugging Face folder, with tokenizer.json where the tokenizer can be expressed so."""
    weights = {name: tensor.to(dtype) for name, tensor in to_hugging_face(model).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = hugging_face_config(model.config, tokenizer.eos_id)
    write_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
    ends = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ends})
    checkpoint.write_tokenizer_json(tokenizer, model.config.n_positions, folder)


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
    target = folder / checkpoint.folder_name(progress["step"])
    tokenizer, _ = checkpoint.load_tokenizer(tokenizer_folder)
    require_space(folder, 4 * sum(p.numel() for p in model.parameters()) * 4)  # weights and two moments, and room to spare
    if target.exists():  # of this step, but damaged: a run goes on from the newest whole one
        checkpoint.discard(target)
    try:
        with new_folder(target) as temporary:
            write_model(model, tokenizer, temporary)
            shutil.copytree(tokenizer_folder, temporary / "tokenizer")
            tensors, rest = flatten_state(optimizer.state_dict() if optimizer else {"state": {}, "param_groups": []})
            save_file(tensors, temporary / "trainer.safetensors", metadata={"format": "pt"})
            write_json(temporary / "trainer.json", {**progress, "optimizer": rest})
            checkpoint.write_manifest(temporary)
    except SafetensorError as error:
        raise CheckpointError(f"{target}: could not be written ({error})") from None
    return checkpoint.verify(target)


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


# ---------------------------------------------------------------------------------------------- reading


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
