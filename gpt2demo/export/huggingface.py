"""Write a folder that transformers can load, verify it by loading it again, and add a model card."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpt2demo.data.tokens import load_sizes
from gpt2demo.errors import CheckpointError, ExportError, RunError
from gpt2demo.export.card import model_card
from gpt2demo.export.overflow import activations_within, check_logits, check_weights
from gpt2demo.interfaces import HasTokenizerJson
from gpt2demo.metrics import bits_per_byte, perplexity
from gpt2demo.model import GPT2
from gpt2demo.runs.checkpoint import load_tokenizer
from gpt2demo.runs.folder import Run, now
from gpt2demo.runs.weights import load_model, write_model
from gpt2demo.storage import read_json, require_space, sha256, write_json

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LIMITS = {"fp32": 1e-5, "fp16": 4e-3, "bf16": 3e-2}
"""Largest allowed difference of a logit; for fp16 and bf16 relative to the largest logit, or to 1 if that is less."""
ALTERNATIVES = "fp32 or bf16"
"""Dtypes without float16's limited range."""
POSITIONS = 128
"""Longest sequence of the comparison."""


def write_export(checkpoint: Path, folder: Path, dtype: str, report: Callable[[str], None]) -> None:
    """Write a verified checkpoint as a Hugging Face folder and verify the result. See `gpt2demo.interfaces.Exporter`.

    Raises:
        ExportError: the logits of the written model differ by more than `LIMITS` allows, or a value is too large for the dtype.
    """
    model = load_model(checkpoint, mapped=True)
    check_weights(model, DTYPES[dtype], ALTERNATIVES)
    tokenizer, _ = load_tokenizer(checkpoint / "tokenizer")
    require_space(folder, model.config.n_parameters * DTYPES[dtype].itemsize)
    report(f"writing model.safetensors ({model.config.n_parameters:,} parameters, {dtype})")
    write_model(model, tokenizer, folder, DTYPES[dtype])
    if not isinstance(tokenizer, HasTokenizerJson):
        report("this tokenizer cannot be written as tokenizer.json; other programs can only use ids")
        shutil.copytree(checkpoint / "tokenizer", folder / "tokenizer")
    report("comparing the written model with the checkpoint")
    facts = source_and_metrics(checkpoint, folder) | {"dtype": dtype} | compare(model, folder, dtype)
    write_json(folder / "gpt2demo.json", facts)
    (folder / "README.md").write_text(model_card(model.config, facts, run_info(checkpoint)), encoding="utf-8")
    report(f"logits differ by at most {facts['largest_difference']:.1e} (limit {facts['limit']:.1e})")


@torch.inference_mode()
def compare(model: GPT2, folder: Path, dtype: str) -> dict[str, Any]:
    """Load the written model and compare its logits with the original's on random ids from a fixed seed.

    Raises:
        ExportError: the logits differ by more than the limit or are not finite, or an activation is too large for the dtype.
    """
    count = min(model.config.n_positions, POSITIONS)
    ids = torch.randint(model.config.vocab_size, (2, count), generator=torch.Generator().manual_seed(0))
    expected = model(ids)
    check_logits(expected)
    with activations_within(model, DTYPES[dtype], ALTERNATIVES):
        model(ids)
    difference = float((load_model(folder)(ids) - expected).abs().max())
    limit = LIMITS[dtype] * (1.0 if dtype == "fp32" else max(1.0, float(expected.abs().max())))
    if not difference <= limit:
        raise ExportError(f"{dtype}: a logit of the written model differs by {difference:.3g}, limit {limit:.3g}; try fp32")
    return {"largest_difference": difference, "limit": limit}


def source_and_metrics(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Return the first part of gpt2demo.json: source, files, metrics and tokenizer."""
    file, weights, run = folder / "model.safetensors", checkpoint / "model.safetensors", Run.of_checkpoint(checkpoint)
    progress = read_json(checkpoint / "trainer.json")
    return {
        "exporter": "huggingface",
        "created": now(),
        "name": run.name if run else checkpoint.name,
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}},
        "source": {"checkpoint": checkpoint.name, "step": progress.get("step"), "sha256": sha256(weights)},
        **validation_metrics(run, progress.get("validation_loss")),
        "tokenizer": read_json(checkpoint / "tokenizer" / "plugin.json").get("name"),
        "tokenizer_json": (folder / "tokenizer.json").is_file(),
    }


def validation_metrics(run: Run | None, loss: float | None) -> dict[str, float]:
    """Return the checkpoint's metrics on the validation text of its run; empty if it was not evaluated."""
    if loss is None:
        return {}
    found = {"validation_loss": loss, "perplexity": perplexity(loss)}
    if run and (run.data / "data.json").is_file():
        size = load_sizes(run.data)["validation"]
        found["bits_per_byte"] = bits_per_byte(loss, size.tokens, size.bytes)
    return found


def run_info(checkpoint: Path) -> dict[str, Any]:
    """Return the content of the run's run.json; empty for a checkpoint outside a run."""
    run = Run.of_checkpoint(checkpoint)
    try:
        return run.info() if run else {}
    except (RunError, CheckpointError):
        return {}
