"""Read and write tensors: models in Hugging Face's GPT-2 format, and optimizer state. safetensors, never pickle."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpt2demo.config import ModelConfig
from gpt2demo.errors import CheckpointError, RunError, SettingError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.memory import LOADING_ADVICE, memory_advice, out_of_memory, require_memory
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint
from gpt2demo.runs.checkpoint import Checkpoint
from gpt2demo.storage import new_folder, open_regular, read_error, read_json, require_space, write_error, write_json

WEIGHTS = "model.safetensors"
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PREFIX = "transformer."
DTYPES = ("F32", "F16", "BF16")
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # the causal mask, which older files store


# ---------------------------------------------------------------------------------------------- Hugging Face's format


def to_hugging_face(model: GPT2) -> dict[str, Tensor]:
    """Return the weights under Hugging Face's names and in OpenAI's layout (in, out), contiguous, without the tied head."""
    state = {PREFIX + name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return {name: (tensor.t() if name.endswith(TRANSPOSED) else tensor).contiguous() for name, tensor in state.items()}


def hugging_face_config(config: ModelConfig, eos_id: int | None) -> dict[str, Any]:
    """Return the config.json of a `GPT2LMHeadModel` of this shape."""
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
    """Return the shape in a config.json.

    Raises:
        CheckpointError: a value is missing or invalid.
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
    """Write a model as a Hugging Face folder, with tokenizer.json if the tokenizer supports it."""
    weights = {name: tensor.to(dtype) for name, tensor in to_hugging_face(model).items()}
    save_tensors(weights, folder / WEIGHTS)
    config = hugging_face_config(model.config, tokenizer.eos_id)
    write_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
    ends = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ends})
    checkpoint.write_tokenizer_json(tokenizer, model.config.n_positions, folder)


class HasState(Protocol):
    """What a checkpoint stores of an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors and JSON values by parameter, and the groups of parameters."""
        ...


def save_checkpoint(
    folder: Path,
    model: GPT2,
    tokenizer_folder: Path,
    optimizer: HasState | None,
    progress: dict[str, Any],
) -> Checkpoint:
    """Write a checkpoint atomically into the folder of checkpoints.

    Args:
        folder: `checkpoints/` of a run.
        model: the weights.
        tokenizer_folder: the run's tokenizer, which is copied into the checkpoint.
        optimizer: its state is saved; None at step 0, where it has no state.
        progress: the trainer's other state as JSON, with `step` and `validation_loss`.

    Raises:
        CheckpointError: a weight is not finite, the disk is full, or the system refused to write. Existing checkpoints are
            unchanged.
    """
    target = folder / checkpoint.folder_name(progress["step"])
    for name, tensor in model.state_dict().items():
        check_finite(name, tensor, target)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None
    tokenizer, _ = checkpoint.load_tokenizer(tokenizer_folder)
    copies = 4 if optimizer else 1.1  # weights, two moments and a margin
    require_space(folder, int(copies * 4 * sum(p.numel() for p in model.parameters())))
    if target.exists():  # damaged: a run resumes from its newest valid checkpoint
        checkpoint.discard(target)
    with new_folder(target) as temporary:
        write_model(model, tokenizer, temporary)
        shutil.copytree(tokenizer_folder, temporary / "tokenizer")
        tensors, rest = flatten_state(optimizer.state_dict() if optimizer else {"state": {}, "param_groups": []})
        save_tensors(tensors, temporary / "trainer.safetensors")
        write_json(temporary / "trainer.json", {**progress, "optimizer": rest})
        checkpoint.write_manifest(temporary)
    return checkpoint.verify(target)


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file.

    Raises:
        CheckpointError: the disk is full, or the system refused to write.
    """
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise write_error(file, error) from None


def check_finite(name: str, tensor: Tensor, source: Path | str) -> None:
    """Check that a weight has no NaN or infinity. A sum finds them in one pass and without a copy.

    Raises:
        CheckpointError: it has one; the message names the weight and the source.
    """
    if not (math.isfinite(tensor.sum()) or tensor.isfinite().all()):  # the sum of large finite values may overflow
        raise CheckpointError(f"{source}: the weight {name} contains NaN or infinity")


def flatten_state(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's `state_dict()` into tensors, named `index.key`, and a JSON value with everything else."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {"param_groups": state["param_groups"], "state": {}}
    for index, values in state["state"].items():
        rest["state"][str(index)] = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
        tensors.update({f"{index}.{k}": v.detach().cpu().contiguous() for k, v in values.items() if isinstance(v, Tensor)})
    return tensors, rest


def restore_state(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    """Return the `state_dict()` that `flatten_state` split."""
    state = {int(index): dict(values) for index, values in rest["state"].items()}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    return {"param_groups": rest["param_groups"], "state": state}


# ---------------------------------------------------------------------------------------------- reading


def load_model(path: Path, *, mapped: bool = False) -> GPT2:
    """Load the model in one of our folders, in float32 and in evaluation mode.

    Args:
        path: the folder.
        mapped: do not copy matrices, which the file stores transposed. They take no memory besides the file's pages.

    Raises:
        CheckpointError: the files are damaged or inconsistent. Shapes are compared before memory is allocated.
        RunError: a weight has an unsupported dtype.
        Error: there is not enough memory.
    """
    model = meta_model(model_config(read_json(path / "config.json")))
    file = path / WEIGHTS
    with memory_advice(f"{file}: loading the weights", LOADING_ADVICE):
        read = read_weights([file], shapes(model))
        return with_weights(model, {name: tensor if mapped else tensor.contiguous() for name, tensor in read}, file)


class _SkipInit(TorchFunctionMode):
    """Skip the functions of `torch.nn.init`: drawing random numbers on the meta device imports torch._dynamo, a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def meta_model(config: ModelConfig) -> GPT2:
    """Return a model without memory for its weights, to be replaced with `with_weights`."""
    with torch.device("meta"), _SkipInit():
        return GPT2(config)


def shapes(model: GPT2) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def with_weights(model: GPT2, weights: dict[str, Tensor], source: Path | str) -> GPT2:
    """Return the model in evaluation mode with these weights, which are not copied.

    Raises:
        CheckpointError: a weight is missing; the message names it and the source.
    """
    if missing := model.state_dict().keys() - weights.keys():
        raise CheckpointError(f"{source}: the weight {sorted(missing)[0]} is missing")
    model.load_state_dict(weights, assign=True)
    return model.eval()


def read_weights(files: Sequence[Path], expected: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the stored weights under our names and in our layout (out, in), in float32; skip mask buffers.

    Float32 weights are views into the mapped file, transposed where the layouts differ: nothing is copied.

    Args:
        files: safetensors files, the parts of one model.
        expected: name -> shape, in our layout.

    Raises:
        RunError: a weight has an unsupported dtype.
        CheckpointError: a file is damaged, or a weight is unexpected, repeated, of another shape, or not finite.
        MemoryError: memory ran out, or the files are larger than this machine's memory.
    """
    require_memory(sum(file.stat().st_size for file in files if file.is_file()))
    seen: set[str] = set()
    for file in files:
        with open_tensors(file) as stored:
            for stored_name in stored.keys():  # noqa: SIM118  # a safetensors handle is not a dict
                name = stored_name.removeprefix(PREFIX)
                if _MASK.fullmatch(name):
                    continue
                if name in seen:
                    raise CheckpointError(f"{file}: {name} is stored twice")
                seen.add(name)
                _check_weight(file, stored_name, stored.get_slice(stored_name), expected.get(name))
                tensor = stored.get_tensor(stored_name)
                check_finite(stored_name, tensor, file)
                yield name, (tensor.t() if name.endswith(TRANSPOSED) else tensor).float()


def _check_weight(file: Path, name: str, stored: Any, expected: tuple[int, ...] | None) -> None:
    """Compare the shape and dtype of a stored weight with the expected ones before it is read."""
    shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
    if expected is None:
        raise CheckpointError(f"{file}: {name} is not a weight of the GPT-2 that config.json describes")
    if shape != (wanted := expected[::-1] if name.endswith(TRANSPOSED) else expected):
        raise CheckpointError(f"{file}: {name} has shape {shape}, config.json requires {wanted}")
    if dtype not in DTYPES:
        raise RunError(f"{name} is stored as {dtype}, which is not supported; use one of {', '.join(DTYPES)}")


@contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """Open a safetensors file.

    Raises:
        CheckpointError: the file is missing or damaged.
        MemoryError: memory ran out.
    """
    try:
        open_regular(file).close()
        with safe_open(file, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        if out_of_memory(error):
            raise MemoryError from error
        raise read_error(file, error) from None


def load_trainer(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the trainer's progress and the optimizer's `state_dict()` of a checkpoint.

    Raises:
        CheckpointError: the files are damaged.
    """
    progress = read_json(path / "trainer.json")
    with open_tensors(path / "trainer.safetensors") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    try:
        return progress, restore_state(tensors, progress.pop("optimizer"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise CheckpointError(f"{path / 'trainer.json'}: has no valid optimizer state ({reason})") from None
