"""Exports to Hugging Face: transformers loads the same model, and importing one gives the same files again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hf import TEXTS, greedy_ids
from safetensors.torch import load_file
from samples import SMALL, TEXT, Cli
from transformers import AutoModelForCausalLM, AutoTokenizer

import gpt2demo
from gpt2demo.errors import ExportError, SettingError
from gpt2demo.export import huggingface
from gpt2demo.export.export import export_model
from gpt2demo.runs import checkpoint, weights
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run, exports_dir
from gpt2demo.runs.importing import import_model
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.tokenization.char import CharTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

Trained = Callable[[str], Run]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a function that trains a run with a tokenizer, once for each."""
    folder, runs = tmp_path_factory.mktemp("trained"), {}
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")

    def run(tokenizer: str) -> Run:
        if tokenizer not in runs:
            settings = {**SMALL, "tokenizer": tokenizer, "steps": 4, "sample_tokens": 0, "threads": 1}
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("GPT2DEMO_RUNS_DIR", str(folder / tokenizer))
                list(gpt2demo.train(text, run="mine", **settings))
                runs[tokenizer] = find_run("mine")
        return runs[tokenizer]

    return run


def export(run: Run, **options: str) -> Path:
    return export_model(str(run.path), "huggingface", report=lambda line: None, **options)


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_transformers_computes_and_generates_the_same(trained: Trained, tokenizer: str) -> None:
    run = trained(tokenizer)
    folder = export(run)
    ours, theirs = gpt2demo.load(run.path), AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(ours.engine.vocab_size, (2, 32))
    torch.testing.assert_close(theirs(ids).logits, ours.engine.model(ids), atol=1e-5, rtol=0)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert [loaded.encode(text) for text in TEXTS] == [ours.tokenizer.encode(text) for text in TEXTS]
    generation = ours.generate("Line", max_new_tokens=20, temperature=0)
    text = "".join(generation)
    assert generation.ids == greedy_ids(folder, "Line", 20)
    assert loaded.decode(generation.ids) == text
    facts = json.loads((folder / "gpt2demo.json").read_text(encoding="utf-8"))
    assert facts["largest_difference"] <= 1e-5


def test_an_export_has_a_model_card_and_no_path_of_the_machine(trained: Trained) -> None:
    run = trained("byte")
    folder = export(run)
    names = {"README.md", "config.json", "generation_config.json", "gpt2demo.json", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names | {"tokenizer.json", "tokenizer_config.json"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    for words in ("pipeline_tag: text-generation", "text.txt", "validation loss", "bits per byte", "| steps | 4 |"):
        assert words in card
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    assert str(run.path.parents[1]).encode() not in everything
    assert export(run) == folder, "a new export replaces the old one"


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_halves_the_size_within_the_stated_limit(trained: Trained, dtype: str) -> None:
    run = trained("byte")
    folder = export(run, dtype=dtype)
    full = checkpoint.newest(run.checkpoints).path / "model.safetensors"
    assert (folder / "model.safetensors").stat().st_size < 0.6 * full.stat().st_size
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    assert theirs.dtype == huggingface.DTYPES[dtype]
    ids = torch.randint(256, (2, 32))
    expected = gpt2demo.load(run.path).engine.model(ids).detach()
    limit = huggingface.LIMITS[dtype] * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(theirs.float()(ids).logits, expected, atol=limit, rtol=0)
    import_model(str(folder), run="back", report=lambda line: None)


def test_an_export_that_is_not_the_same_model_is_deleted(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("byte")
    stored = weights.to_hugging_face(gpt2demo.load(run.path).engine.model)
    stored["transformer.h.0.attn.c_proj.weight"] = stored["transformer.h.0.attn.c_proj.weight"].t().contiguous() + 1
    monkeypatch.setattr(weights, "to_hugging_face", lambda model: stored)
    with pytest.raises(ExportError, match="fp32"):
        export(run)
    assert not list(exports_dir().glob("*"))


def test_an_unsupported_dtype_is_refused(trained: Trained) -> None:
    run = trained("byte")
    with pytest.raises(SettingError, match="dtype='bf16'.*'onnx'.*fp32, fp16, int8, int4"):
        export_model(str(run.path), dtype="bf16", report=lambda line: None)
    with pytest.raises(SettingError, match="dtype='int8'.*'huggingface'.*fp32, fp16, bf16"):
        export(run, dtype="int8")


def test_a_tokenizer_without_tokenizer_json_is_reported(invoke: Cli, trained: Trained, tmp_path: Path) -> None:
    done = invoke("export", trained("char").path, "--huggingface", "--dtype", "fp16")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/exports/mine-huggingface-fp16\n"), done.stderr
    assert "tokenizer.json" in done.stderr


@pytest.mark.parametrize("tokenizer", ["byte", "bpe", "char"])
def test_export_and_import_give_the_same_files(trained: Trained, tokenizer: str) -> None:
    run = trained(tokenizer)
    before = checkpoint.newest(run.checkpoints).path
    after = checkpoint.newest(import_model(str(export(run)), report=lambda line: None).checkpoints).path
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (before / name).exists() == (after / name).exists()
        assert not (before / name).exists() or (before / name).read_bytes() == (after / name).read_bytes(), name
    ours = checkpoint.load_tokenizer(after / "tokenizer")[0]
    assert isinstance(ours, {"byte": ByteTokenizer, "bpe": BpeTokenizer, "char": CharTokenizer}[tokenizer])


def test_import_and_export_give_the_same_weights(saved_hf_folder: Path) -> None:
    run = import_model(str(saved_hf_folder), run="in", report=lambda line: None)
    exported, original = (load_file(folder / "model.safetensors") for folder in (export(run), saved_hf_folder))
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in original.items())
