"""Checkpoints: written atomically, verified before use, and readable by `transformers`.

    step-00001000/
      model.safetensors  config.json  generation_config.json          Hugging Face's GPT-2 format
      tokenizer.json  tokenizer_config.json                           if the tokenizer supports it
      tokenizer/                                                      the tokenizer's own files
      trainer.safetensors  trainer.json                               optimizer state; step and validation loss
      manifest.json                                                   sha256 and size of every file; written last

A folder without a valid manifest is not a checkpoint. No file is ever unpickled. `weights.save_checkpoint` writes checkpoints and
`weights.load_model` reads them: this module must not import torch, because exported models run without it.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2demo import plugins
from gpt2demo.errors import CheckpointError, TokenizerError, UserError
from gpt2demo.interfaces import HasTokenizerJson, Tokenizer
from gpt2demo.storage import (
    open_regular,
    read_error,
    read_json,
    remove_temporaries,
    safe_check,
    sha256,
    write_error,
    write_json,
    write_text,
)

FORMAT = 1
NAME_LIMIT = 80  # characters of a name in plugin.json
TOKENIZER_LIMIT = 2**28  # bytes of a file


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder.

    Attributes:
        path: the folder.
        step: optimizer steps done.
        validation_loss: of the evaluation at this step, in nats per token; None if there was no evaluation.
    """

    path: Path
    step: int
    validation_loss: float | None


# ---------------------------------------------------------------------------------------------- tokenizer


def save_tokenizer(tokenizer: Tokenizer, name: str, folder: Path) -> None:
    """Write a tokenizer's own files, and `plugin.json` with the plugin that reads them."""
    owner = plugins.registry().owner("tokenizers", name)
    try:
        folder.mkdir(exist_ok=True)
        tokenizer.save(folder)
    except OSError as error:
        raise write_error(folder, error) from None
    write_json(folder / "plugin.json", {"name": name, "distribution": owner.distribution, "version": owner.version})


def load_tokenizer(folder: Path) -> tuple[Tokenizer, str]:
    """Return a tokenizer written by `save_tokenizer`, and its name.

    Raises:
        TokenizerError: the files are damaged, or the plugin that reads them is not installed.
    """
    try:
        stored = read_json(folder / "plugin.json")
        _check_files(folder)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    name, distribution, version = (str(stored.get(key))[:NAME_LIMIT] for key in ("name", "distribution", "version"))
    try:
        plugins.registry().part("tokenizers", name)
    except UserError as error:
        reason = f"requires the tokenizer {name!r} from {distribution} {version}; pip install it ({error})"
        raise TokenizerError(f"{folder}: {reason}") from None
    return plugins.load_tokenizer(name, folder), name


def _check_files(folder: Path) -> None:
    """Check that a tokenizer can read its files: regular ones of limited size.

    Raises:
        CheckpointError: a file is something else, such as a named pipe, or too large.
    """
    for path in folder.rglob("*"):
        if path.is_dir():
            continue
        try:
            with open_regular(path) as file:
                if os.fstat(file.fileno()).st_size > TOKENIZER_LIMIT:
                    raise CheckpointError(f"{path}: cannot be read (larger than {TOKENIZER_LIMIT // 2**20} MiB)")
        except OSError as error:
            raise read_error(path, error) from None


def write_tokenizer_json(tokenizer: Tokenizer, n_positions: int, folder: Path) -> bool:
    """Write tokenizer.json and tokenizer_config.json; return False if the tokenizer does not support this format."""
    if not isinstance(tokenizer, HasTokenizerJson):
        return False
    write_text(folder / "tokenizer.json", tokenizer.tokenizer_json())
    end = None if tokenizer.eos_id is None else tokenizer.decode([tokenizer.eos_id])
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "model_max_length": n_positions}
    specials = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
    write_json(folder / "tokenizer_config.json", {**config, **specials, "clean_up_tokenization_spaces": False})
    return True


# ---------------------------------------------------------------------------------------------- manifest and removal


def folder_name(step: int) -> str:
    """Return the name of the checkpoint folder of a step."""
    return f"step-{step:08d}"


def write_manifest(folder: Path) -> None:
    """Write manifest.json with the size and checksum of every file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
    write_json(folder / "manifest.json", {"format": FORMAT, "files": listed})


def prune(folder: Path, keep: int) -> None:
    """Remove old checkpoints. Keep the newest `keep`, and the one with the lowest validation loss."""
    checkpoints = list(valid_checkpoints(folder, verified=False))
    kept = {checkpoint.path for checkpoint in checkpoints[:keep]}
    kept |= {best.path for best in [best_of(checkpoints)] if best}
    for checkpoint in checkpoints:
        if checkpoint.path not in kept:
            discard(checkpoint.path)


def discard(path: Path) -> None:
    """Remove a checkpoint folder. The manifest goes first, so that a partly removed folder is not a checkpoint."""
    try:
        (path / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(path)
    except OSError as error:
        raise write_error(path, error) from None


def clean(folder: Path) -> None:
    """Remove temporary folders and checkpoints without a manifest, which a killed process leaves."""
    remove_temporaries(folder)
    for path in folder.glob("step-*"):
        if not (path / "manifest.json").is_file():
            shutil.rmtree(path, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- reading


def is_checkpoint(path: Path) -> bool:
    """Return whether a folder has the files of a checkpoint. Their content is not verified."""
    return safe_check((path / "manifest.json").is_file) and safe_check((path / "model.safetensors").is_file)


def verify(path: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: a file is missing or damaged, or the format is unsupported. The message names the file.
    """
    manifest = read_json(path / "manifest.json")
    if (found := manifest.get("format")) != FORMAT:
        reason = f"has checkpoint format {repr(found)[:20]}, this program reads {FORMAT}; use a newer gpt2demo"
        raise CheckpointError(f"{path}: {reason}")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or "model.safetensors" not in listed:
        raise CheckpointError(f"{path}/manifest.json: has no list of files")
    for name, expected in listed.items():
        file = path / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not file.is_file():
            raise CheckpointError(f"{file}: is missing")
        if not isinstance(expected, dict) or not _matches(file, expected):
            raise CheckpointError(f"{file}: is damaged (its content does not match manifest.json)")
    return _describe(path)


def _matches(file: Path, expected: dict[str, Any]) -> bool:
    """Return whether a file has the size and checksum that the manifest lists.

    Raises:
        CheckpointError: the file cannot be read; a trainer may be removing the checkpoint at the same time.
    """
    try:
        return bool(file.stat().st_size == expected.get("bytes") and sha256(file) == expected.get("sha256"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from None


def _describe(path: Path) -> Checkpoint:
    """Return a checkpoint with step and loss from its trainer.json."""
    progress = read_json(path / "trainer.json")
    step, loss = progress.get("step"), progress.get("validation_loss")
    if type(step) is not int or not (loss is None or isinstance(loss, float)):
        raise CheckpointError(f"{path}/trainer.json: has no valid step and validation loss")
    return Checkpoint(path, step, loss)


def valid_checkpoints(folder: Path, *, verified: bool = True) -> Iterator[Checkpoint]:
    """Yield the valid checkpoints of a folder, newest first. Skip damaged ones with a warning."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            found = verify(path) if verified else _describe(path)
            if path.name != folder_name(found.step):
                raise CheckpointError(f"{path}: has the wrong step {found.step}")
            yield found
        except CheckpointError as error:
            warnings.warn(f"{error}; skipped", stacklevel=2)


def newest(folder: Path) -> Checkpoint:
    """Return the newest valid checkpoint. Skip damaged newer ones with a warning.

    Raises:
        CheckpointError: the folder has no valid checkpoint.
    """
    for checkpoint in valid_checkpoints(folder):
        return checkpoint
    raise CheckpointError(f"{folder}: has no valid checkpoint yet")


def best_of(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """Return the checkpoint with the lowest validation loss, or None if none was evaluated."""
    evaluated = [checkpoint for checkpoint in checkpoints if checkpoint.validation_loss is not None]
    return min(evaluated, key=lambda checkpoint: checkpoint.validation_loss or 0.0, default=None)
