"""Full and read-only disks, and weights that are not finite: one line with the path and the reason, and nothing is left."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf import change_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from samples import BYTES, SMALL, save_checkpoint

import gpt2demo
from gpt2demo.config import GenerateConfig
from gpt2demo.data import tokens
from gpt2demo.data.corpus import Corpus
from gpt2demo.errors import CheckpointError, Error
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint, importing, weights
from gpt2demo.runs.find import list_runs
from gpt2demo.runs.folder import Run
from gpt2demo.runs.importing import import_model
from gpt2demo.sampling.chains import save_chain
from gpt2demo.storage import write_error, write_text
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.training import prepare_run, resume, text
from gpt2demo.training.loop import Training

FULL = r"No space left on device|the disk is full, [\d,]+ bytes are needed"
FREE = [0, 4096, 12_288, 32_768, 65_536, 131_072]


def leave(disk: Path, size: int) -> None:
    """Fill a disk up to `size` bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 2**20):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - size))


# ---------------------------------------------------------------------------------------------- full disks


@pytest.mark.parametrize("size", FREE)
def test_a_full_disk_is_named_while_a_run_is_prepared(
    small_disk: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(small_disk / "runs"))
    text_file.write_text(text_file.read_text(encoding="utf-8") * 10, encoding="utf-8")  # 200,000 ids of 2 bytes
    leave(small_disk, size)
    with pytest.raises(CheckpointError, match=FULL) as raised:
        prepare_run(text_file, run="a", **SMALL)
    assert str(raised.value).startswith(str(small_disk / "runs" / "a"))
    assert "\n" not in str(raised.value)
    assert not list((small_disk / "runs").glob("*"))


@pytest.mark.parametrize("size", FREE)
def test_a_full_disk_is_named_while_a_model_is_imported(
    small_disk: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(small_disk / "runs"))
    monkeypatch.setattr(weights, "require_space", lambda folder, size: None)  # another process may fill the disk after this check
    leave(small_disk, min(size, 65_536))
    with pytest.raises(CheckpointError, match=FULL) as raised:
        import_model(str(tiny_checkpoint), run="a", report=lambda line: None)
    assert str(raised.value).startswith(str(small_disk / "runs" / "a"))
    assert not list((small_disk / "runs").glob("*"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("269693 requested and 0 written"), "No space left on device"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left on device"),
        (SafetensorError("one\ntwo"), "one"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
        (OSError(), "OSError"),
    ],
)
def test_the_reason_of_a_failed_write_is_one_line(error: Exception, reason: str) -> None:
    assert str(write_error(Path("x"), error)) == f"x: could not be written ({reason})"


def test_ids_are_stored_as_numpy_does(tmp_path: Path) -> None:
    for dtype in (np.uint16, np.uint32):
        for ids in (np.arange(1000, dtype=dtype), np.empty(0, dtype)):
            with tokens.NpyWriter(tmp_path / "train.npy", dtype) as file:
                file.append(ids[:300])
                file.append(ids[300:])
                file.flush()
            np.save(tmp_path / "expected.npy", ids)
            assert (tmp_path / "train.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


# ---------------------------------------------------------------------------------------------- read-only folders, long names


@pytest.fixture
def read_only_run(small_disk: Path, run_copy: Run) -> Run:
    """The run `mine` on a read-only disk."""
    subprocess.run(["cp", "-r", str(run_copy.path), str(small_disk)], check=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    return Run(small_disk / "mine")


@pytest.mark.parametrize(
    "action",
    [
        lambda run: next(resume(str(run.path), steps=14)),
        lambda run: save_chain(run.path, "mine", GenerateConfig(temperature=0.5)),
        lambda run: prepare_run(dataset="tales", run="a", **SMALL),
        lambda run: write_text(run.path / ("x" * 300), ""),
        lambda run: run.request_stop(),
    ],
)
def test_a_read_only_folder_is_named(
    read_only_run: Run, monkeypatch: pytest.MonkeyPatch, action: Callable[[Run], object]
) -> None:
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(read_only_run.path.parent))
    with pytest.raises(CheckpointError, match=r"could not be written \((Read-only file system|File name too long)\)") as raised:
        action(read_only_run)
    assert str(raised.value).startswith(str(read_only_run.path.parent))


@pytest.mark.parametrize("length", [250, 5000])
def test_a_folder_whose_name_is_too_long_is_named(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(tmp_path / ("x" * length)))
    message = ""
    try:
        list_runs()
        prepare_run(text_file, run="a" * 100, **SMALL)
    except Error as error:
        message = str(error)
    assert bool(message) == (length > 255)
    assert "\n" not in message


# ---------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")])
@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        (Corpus, "survey", "reading the text: out of memory; use less text"),
        (text, "train_tokenizer", "training the tokenizer 'byte': out of memory; use less text or a smaller --vocab-size"),
        (text, "write_splits", "encoding the text: out of memory; use less text"),
        (Training, "_new_model", "building a model of 34,688 parameters: out of memory; try a smaller --n-embd"),
        (Training, "_restore", "building a model of 34,688 parameters: out of memory; try a smaller --n-embd"),
    ],
)
def test_memory_that_runs_out_is_reported_with_advice(
    text_file: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, advice: str, error: Exception
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(Error) as raised:
        next(gpt2demo.train(text_file, run="a", **SMALL))
    assert str(raised.value).startswith(advice)


def test_memory_that_runs_out_while_loading_is_reported(
    tiny_checkpoint: Path, hf_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(weights, "with_weights", fail)
    monkeypatch.setattr(importing, "with_weights", fail)
    for action in (lambda: weights.load_model(tiny_checkpoint), lambda: import_model(str(hf_folder), report=lambda line: None)):
        with pytest.raises(Error, match="loading the weights: out of memory; close other programs"):
            action()


def test_a_model_larger_than_the_memory_is_refused_before_it_is_built(text_file: Path) -> None:
    """The system would otherwise kill the process."""
    with pytest.raises(Error, match=r"building a model of 8[\d,]{14} parameters: out of memory; try a smaller --n-embd"):
        next(gpt2demo.train(text_file, run="a", **{**SMALL, "n_embd": 16_384, "n_layer": 256}))


# ---------------------------------------------------------------------------------------------- weights


BAD = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("value", BAD)
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, value: float) -> None:
    model = GPT2(BYTES)
    model.h[1].ln_1.bias.data[3] = value
    checkpoint.save_tokenizer(ByteTokenizer(), "byte", tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match=r"the weight h\.1\.ln_1\.bias contains NaN or infinity"):
        weights.save_checkpoint(
            tmp_path / "checkpoints", model, tmp_path / "tokenizer", None, {"step": 1, "validation_loss": None}
        )
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("value", BAD)
def test_weights_that_are_not_finite_are_not_loaded(tmp_path: Path, value: float) -> None:
    path = save_checkpoint(tmp_path / "run")
    tensors = load_file(path / "model.safetensors")
    tensors["transformer.wpe.weight"][0, 0] = value
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "manifest.json").unlink()
    checkpoint.write_manifest(path)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: the weight transformer\.wpe\.weight contains NaN or infinity"
    ):
        gpt2demo.load(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_not_imported(hf_folder: Path, dtype: torch.dtype) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        next(tensor for name, tensor in tensors.items() if name.endswith("ln_f.weight"))[-1] = float("nan")
        return tensors

    change_weights(hf_folder, change)
    with pytest.raises(CheckpointError, match=r"ln_f\.weight contains NaN or infinity"):
        import_model(str(hf_folder), report=lambda line: None)
    assert not list_runs()


def test_large_finite_weights_are_accepted() -> None:
    weights.check_finite("x", torch.full((4,), 3e38), "source")
    weights.check_finite("x", torch.full((4,), 60_000.0, dtype=torch.float16), "source")
