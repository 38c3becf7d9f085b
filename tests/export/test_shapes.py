"""Models of many shapes, saved by transformers with its initialization: import, export in every dtype, load and generate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hf import save_tokenizer

import gpt2demo
from gpt2demo.config import ModelConfig
from gpt2demo.errors import SettingError
from gpt2demo.export.export import export_model
from gpt2demo.runs import checkpoint
from gpt2demo.runs.importing import import_model
from gpt2demo.tokenization.char import CharTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = ("fp32", "fp16", "int8", "int4")
PROMPT = "a cat sat"
"""Has 7 different characters, less than the smallest vocabulary."""


def shape(vocab_size: int, n_positions: int, n_embd: int, n_head: int, n_layer: int) -> ModelConfig:
    return ModelConfig(vocab_size=vocab_size, n_positions=n_positions, n_embd=n_embd, n_head=n_head, n_layer=n_layer)


SMALL = [shape(17, 16, 64, 1, 1), shape(1000, 100, 80, 1, 2), shape(300, 24, 36, 3, 2)]
"""The width of heads: 64; 80; 12, which is padded, in a width that cannot be split into blocks of 16."""
MANY = [
    shape(17, 100, 192, 12, 2),  # heads of width 16
    shape(17, 16, 768, 6, 1),  # 128
    shape(1000, 100, 192, 3, 12),  # 64
    shape(1000, 512, 240, 3, 2),  # 80, in a width that cannot be split into blocks of 32
    shape(1000, 1024, 256, 2, 2),  # 128
    shape(50257, 16, 64, 1, 12),
    shape(50257, 100, 256, 4, 2),
    shape(1000, 100, 72, 3, 2),  # 24, in a width that cannot be split into blocks of 16
    shape(1000, 1, 64, 1, 1),
    shape(50257, 1024, 768, 12, 1),
]


slow = [pytest.mark.slow, pytest.mark.timeout(3600)]


def description(config: ModelConfig) -> str:
    """Return a shape in one word."""
    return f"vocabulary={config.vocab_size},positions={config.n_positions},width={config.n_embd},heads={config.n_head},layers={config.n_layer}"


def save_model(folder: Path, config: ModelConfig) -> None:
    """Save a model and a tokenizer that fits: byte-level BPE, or characters for a small vocabulary."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**config.model_dump(exclude={"dropout", "initializer_range"}))).save_pretrained(folder)
    if config.vocab_size < 280:
        checkpoint.save_tokenizer(CharTokenizer(sorted(set(PROMPT))), "char", folder / "tokenizer")
    else:
        save_tokenizer(folder)


def exported(run: str, dtype: str, folder: Path) -> tuple[str, float, float]:
    """Export a run, and generate greedily with the export.

    Returns:
        The text, and from the certificate the largest difference of a logit and the largest divergence in nats.
    """
    export_model(run, output=folder, dtype=dtype, samplers=["temperature"], report=lambda line: None)
    comparisons = json.loads((folder / "gpt2demo.json").read_text())["comparisons"]
    text = "".join(gpt2demo.load(folder).generate(PROMPT, max_new_tokens=20, temperature=0))
    return text, *(max(row[key] for row in comparisons) for key in ("largest_difference", "kl_divergence"))


@pytest.mark.parametrize("config", [*SMALL, *(pytest.param(config, marks=slow) for config in MANY)], ids=description)
def test_every_shape_can_be_exported_in_every_dtype(config: ModelConfig, tmp_path: Path) -> None:
    """Widths that cannot be split into blocks are refused with int8 and int4. `pytest -rP` shows the differences."""
    save_model(tmp_path / "theirs", config)
    import_model(str(tmp_path / "theirs"), run="imported", report=lambda line: None)
    original = "".join(gpt2demo.load("imported").generate(PROMPT, max_new_tokens=20, temperature=0))
    for dtype in DTYPES:
        if config.n_embd % 16 and dtype.startswith("int"):
            with pytest.raises(SettingError, match=f"a width of {config.n_embd} is not divisible by 16.*export fp32 or fp16"):
                exported("imported", dtype, tmp_path / dtype)
            print(f"{description(config)} {dtype}: refused")
            continue
        text, difference, divergence = exported("imported", dtype, tmp_path / dtype)
        print(f"{description(config)} {dtype}: logits {difference:.1e}, {divergence:.1e} nats")
        assert text
        if dtype == "fp32":
            assert text == original
