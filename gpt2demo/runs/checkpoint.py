"""Checkpoints: written whole or not at all, verified before use, readable by `transformers` as they are.

    step-00001000/
      model.safetensors  config.json  generation_config.json          Hugging Face's GPT-2 format
      tokenizer.json  tokenizer_config.json                           where the tokenizer can be expressed so
      tokenizer/                                                      the tokenizer's own files
      trainer.safetensors  trainer.json                               the optimizer's state; step, best loss
      manifest.json                                                   sha256 and size of every file; written last

A folder without a valid manifest is not a checkpoint. No file is ever unpickled. What is in the tensors is `weights.py`'s matter:
nothing here needs torch, so that exported models run without it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2demo import plugins
from gpt2demo.errors import CheckpointError, TokenizerError, UserError
from gpt2demo.interfaces import HasTokenizerJson, Tokenizer
from gpt2demo.storage import certainly, read_json, remove_temporaries, sha256, unwritable, write_json

FORMAT = 1


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


def folder_name(step: int) -> str:
    """What a checkpoint's folder is called."""
    return f"step-{step:08d}"


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
            discard(checkpoint.path)


def discard(path: Path) -> None:
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
    return certainly((path / "manifest.json").is_file) and certainly((path / "model.safetensors").is_file)


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
