"""The GGUF plugin: content of the file, refused models, and the same results in llama.cpp where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf", reason="pip install gguf")
plugin = pytest.importorskip("gpt2demo_gguf", reason="pip install -e plugins/gpt2demo-gguf")

from gpt2demo_gguf import writing  # noqa: E402

from gpt2demo import plugins  # noqa: E402
from gpt2demo.config import ModelConfig  # noqa: E402
from gpt2demo.errors import ExportError, SettingError  # noqa: E402
from gpt2demo.export.export import export_model  # noqa: E402
from gpt2demo.interfaces import Tokenizer  # noqa: E402
from gpt2demo.model import GPT2  # noqa: E402
from gpt2demo.runs import checkpoint, weights  # noqa: E402
from gpt2demo.runs.folder import Run  # noqa: E402
from gpt2demo.testing import ExporterContract  # noqa: E402
from gpt2demo.testing.tokenizers import FRAGMENTS, PROSE, TEXTS  # noqa: E402
from gpt2demo.tokenization.bpe import BpeTokenizer  # noqa: E402
from gpt2demo.tokenization.byte import ByteTokenizer  # noqa: E402
from gpt2demo.tokenization.char import CharTokenizer  # noqa: E402

LLAMA = os.environ.get("GPT2DEMO_LLAMA_PYTHON") or (sys.executable if importlib.util.find_spec("llama_cpp") else None)
needs_llama = pytest.mark.skipif(LLAMA is None, reason="llama_cpp is not installed, and GPT2DEMO_LLAMA_PYTHON is not set")
TOKENIZERS: dict[str, Tokenizer] = {
    "bpe": BpeTokenizer.train(TEXTS, vocab_size=600),
    "byte": ByteTokenizer(),
    "char": CharTokenizer.train(TEXTS),
}


def save(run: Path, kind: str, spare: int = 0, n_embd: int = 64) -> Path:
    """Create a run with a checkpoint of a small model. The random weights are large enough for distinct logits."""
    torch.manual_seed(1)
    tokenizer = TOKENIZERS[kind]
    model = GPT2(ModelConfig(vocab_size=tokenizer.vocab_size + spare, n_positions=64, n_embd=n_embd, n_head=4, n_layer=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    run.mkdir(parents=True)
    Run(run).write_info({})
    checkpoint.save_tokenizer(tokenizer, kind, run / "tokenizer")
    optimizer = torch.optim.SGD(model.parameters())
    return weights.save_checkpoint(
        run / "checkpoints", model, run / "tokenizer", optimizer, {"step": 1, "validation_loss": None}
    ).path


def export(source: Path, dtype: str = "fp32", report: Any = lambda line: None) -> Path:
    """Export a checkpoint and return the file."""
    output = source.parent.parent.with_name(f"{source.parent.parent.name}-{dtype}")
    (file,) = export_model(source, "gguf", output, dtype=dtype, report=report).glob("*.gguf")
    return Path(file)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save(tmp_path_factory.mktemp("runs") / kind, kind) for kind in TOKENIZERS}


def fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def test_the_entry_point_has_the_name_of_the_format() -> None:
    point = next(point for point in plugins.installed() if point.value == "gpt2demo_gguf")
    assert point.name == "gguf"
    assert plugins.registry().owner("exporters", point.name).distribution == "gpt2demo-gguf"


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, gpt2demo_gguf; print({'torch', 'gguf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


class TestContract(ExporterContract):
    exporter = plugin.GgufExporter


# ---------------------------------------------------------------------------------------------- content of the file


def test_the_file_has_the_shape_of_the_model(sources: dict[str, Path]) -> None:
    file = export(sources["bpe"])
    assert file.name == "bpe.gguf"
    assert (
        fields(file).items()
        >= {
            "general.architecture": "gpt2",
            "general.name": "bpe",
            "gpt2.context_length": 64,
            "gpt2.embedding_length": 64,
            "gpt2.feed_forward_length": 256,
            "gpt2.block_count": 2,
            "gpt2.attention.head_count": 4,
            "gpt2.attention.layer_norm_epsilon": pytest.approx(1e-5),
        }.items()
    )


def test_float32_weights_equal_the_checkpoint(sources: dict[str, Path]) -> None:
    model = weights.load_model(sources["bpe"])
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(export(sources["bpe"])).tensors}
    for name, values in {
        "token_embd.weight": model.wte.weight,
        "position_embd.weight": model.wpe.weight,
        "blk.0.attn_norm.bias": model.h[0].ln_1.bias,
        "blk.0.attn_qkv.weight": model.h[0].attn.c_attn.weight,
        "blk.1.attn_output.bias": model.h[1].attn.c_proj.bias,
        "blk.1.ffn_norm.weight": model.h[1].ln_2.weight,
        "blk.1.ffn_up.weight": model.h[1].mlp.c_fc.weight,
        "blk.1.ffn_down.weight": model.h[1].mlp.c_proj.weight,
        "output_norm.bias": model.ln_f.bias,
    }.items():
        assert np.array_equal(stored[name].data, values.detach().numpy()), name
    assert len(stored) == len(model.state_dict())
    assert "output.weight" not in stored


@pytest.mark.parametrize(("dtype", "kind", "size"), [("fp32", "F32", 4), ("fp16", "F16", 2), ("q8_0", "Q8_0", 34 / 32)])
def test_matrices_have_the_dtype_and_other_tensors_are_float32(
    sources: dict[str, Path], dtype: str, kind: str, size: float
) -> None:
    for tensor in gguf.GGUFReader(export(sources["bpe"], dtype)).tensors:
        full = len(tensor.shape) == 1 or tensor.name == "position_embd.weight"
        assert tensor.tensor_type.name == ("F32" if full else kind)
        assert tensor.n_bytes == tensor.n_elements * (4 if full else size)


def test_the_file_has_tokens_merges_and_special_ids(sources: dict[str, Path]) -> None:
    held, stored = fields(export(sources["bpe"])), json.loads(TOKENIZERS["bpe"].tokenizer_json())  # type: ignore[attr-defined]
    end = TOKENIZERS["bpe"].eos_id
    assert held["tokenizer.ggml.tokens"] == [*sorted(stored["model"]["vocab"], key=stored["model"]["vocab"].get), "<|endoftext|>"]
    assert held["tokenizer.ggml.token_type"] == [1] * end + [3]
    assert held["tokenizer.ggml.merges"] == [" ".join(pair) for pair in stored["model"]["merges"]]
    assert held["tokenizer.ggml.bos_token_id"] == held["tokenizer.ggml.eos_token_id"] == end
    assert (held["tokenizer.ggml.pre"], held["tokenizer.ggml.add_bos_token"]) == ("gpt-2", False)


def test_the_byte_tokenizer_ends_texts_with_a_byte_that_utf_8_never_contains(sources: dict[str, Path]) -> None:
    held = fields(export(sources["byte"]))
    assert held["tokenizer.ggml.eos_token_id"] == 0xFF
    assert len(held["tokenizer.ggml.tokens"]) == 256
    assert held["tokenizer.ggml.merges"] == ["ÿ ÿ"]  # llama.cpp requires a merge; this one never applies


def test_other_tokenizers_are_left_out_and_reported(sources: dict[str, Path]) -> None:
    lines: list[str] = []
    held = fields(export(sources["char"], report=lines.append))
    assert (held["tokenizer.ggml.model"], held["gpt2.vocab_size"]) == ("none", TOKENIZERS["char"].vocab_size)
    assert not any(name.startswith("tokenizer.ggml.token") for name in held)
    assert "this tokenizer is not a byte-level BPE like GPT-2's; llama.cpp can only use ids" in lines


def test_ids_without_a_token_are_unused_tokens(tmp_path: Path) -> None:
    held = fields(export(save(tmp_path / "spare", "byte", spare=2)))
    assert held["tokenizer.ggml.tokens"][256:] == ["[PAD256]", "[PAD257]"]
    assert held["tokenizer.ggml.token_type"] == [1] * 256 + [5] * 2


# ---------------------------------------------------------------------------------------------- refused models


def test_a_width_that_is_not_a_multiple_of_the_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"dtype='q8_0': n_embd=48 is not a multiple of 32; use fp16"):
        export(save(tmp_path / "narrow", "byte", n_embd=48), "q8_0")


@pytest.mark.parametrize(("dtype", "by"), [("fp32", 1e-6), ("fp16", 1e-3), ("q8_0", 1e-2)])
def test_a_wrong_value_is_found_and_no_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, by: float
) -> None:
    source = save(tmp_path / "wrong", "byte")

    def wrong(values: np.ndarray, kind: Any) -> np.ndarray:
        if values.shape == (192, 64):  # blk.N.attn_qkv
            values = values.copy()
            values[3, 5] += by
        return quantize(values, kind)

    quantize = gguf.quantize
    monkeypatch.setattr(gguf, "quantize", wrong)
    with pytest.raises(ExportError, match=r"wrong\.gguf: blk\.0\.attn_qkv\.weight differs from the checkpoint"):
        export(source, dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["wrong"]


def test_different_logits_are_found(sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "close", lambda *args: True)
    model, file = weights.load_model(sources["byte"]), tmp_path / "other.gguf"
    other = weights.load_model(sources["byte"])
    other.ln_f.weight.data *= 1.1
    writing.write(file, other, TOKENIZERS["byte"], "fp32")
    with pytest.raises(ExportError, match="a logit of the written model differs by"):
        writing.compare(model, file, "fp32")


@pytest.mark.parametrize("kind", writing.ROUNDING, ids=lambda kind: kind.name)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-9, 1e4])
def test_the_limits_of_rounding_hold_and_are_tight(kind: Any, scale: float) -> None:
    values = (scale * np.random.default_rng(0).standard_normal((500, 64))).astype(np.float32)
    rounded = gguf.dequantize(gguf.quantize(values, kind), kind)
    assert writing.close(rounded, values, kind)
    assert not writing.close(values + 2.1 * (rounded - values) + scale * 1e-6 + 1e-5, values, kind)
    assert not writing.close(rounded[:1], values, kind)
    assert not writing.close(np.full_like(values, np.nan), values, kind)


# ---------------------------------------------------------------------------------------------- llama.cpp


def run_llama(file: Path, **request: Any) -> dict[str, Any]:
    """Run a request in llama.cpp; see under_llama.py."""
    complete = {"texts": [], "ids": [], "prompts": [], "sequences": [], "count": 0} | request
    command = [str(LLAMA), str(Path(__file__).with_name("under_llama.py")), str(file)]
    done = subprocess.run(command, check=False, input=json.dumps(complete), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@torch.inference_mode()
def greedy(model: GPT2, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]), last_only=True)[0, -1].argmax()))
    return ids[len(prompt) :]


@needs_llama
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(("dtype", "limit"), [("fp32", 1e-3), ("fp16", 4e-3), ("q8_0", 5e-2)])
def test_llama_computes_the_same(sources: dict[str, Path], kind: str, dtype: str, limit: float) -> None:
    """The same logits up to its float16 table of GELU, and for `fp32` the same greedy tokens up to the end of the context."""
    model = weights.load_model(sources[kind])
    prompts = [[40], [7, 1, 99, 12, 3], list(range(20))]
    ours = [greedy(model, prompt, 44) for prompt in prompts]
    sequences = [prompt + ids for prompt, ids in zip(prompts, ours, strict=True)]
    found = run_llama(export(sources[kind], dtype), prompts=prompts, sequences=sequences, count=44)
    for ids, logits in zip(sequences, found["logits"], strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([ids]))[0]
        assert (torch.tensor(logits) - expected).abs().max() <= limit * expected.abs().max()
    assert found["greedy"] == ours or dtype != "fp32"


@needs_llama
@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_llama_has_the_same_tokenizer(sources: dict[str, Path], kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    texts = [*FRAGMENTS, *TEXTS, *(f"{a}{b}{a}" for a in FRAGMENTS[::5] for b in FRAGMENTS), f" {PROSE} ", "I'LL'll're\n  x"]
    ids = [tokenizer.encode(text) for text in texts]
    found = run_llama(export(sources[kind]), texts=texts, ids=ids)
    different = [text for text, ours, theirs in zip(texts, ids, found["ids"], strict=True) if ours != theirs]
    assert not different
    assert found["texts"] == texts
    assert found["ends"] == [0xFF if tokenizer.eos_id is None else tokenizer.eos_id]
