"""Imported runs: their tokenizers, what can be done with them, and downloads from the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hf import TEXTS, change_config, change_weights, greedy_ids
from samples import Cli
from transformers import AutoTokenizer

import gpt2demo
from gpt2demo.errors import CheckpointError, RunError, TokenizerError
from gpt2demo.evaluation import evaluate
from gpt2demo.export.export import export_model
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run, list_runs
from gpt2demo.runs.folder import Run
from gpt2demo.runs.importing import download, import_model
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.training import resume

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------------------------------------- the tokenizer


def test_vocab_and_merges_give_the_ids_of_transformers(hf_folder: Path) -> None:
    expected = AutoTokenizer.from_pretrained(hf_folder)
    import_model(str(hf_folder), run="in", report=lambda line: None)
    saved = checkpoint.newest(find_run("in").checkpoints).path
    ours, again = checkpoint.load_tokenizer(saved / "tokenizer")[0], AutoTokenizer.from_pretrained(saved)
    assert isinstance(ours, BpeTokenizer)
    assert (ours.vocab_size, ours.eos_id) == (len(expected), expected.eos_token_id)
    for text in TEXTS:
        assert ours.encode(text) == expected.encode(text) == again.encode(text)


def test_a_tokenizer_json_of_transformers_gives_the_same_ids(hf_folder: Path) -> None:
    expected = AutoTokenizer.from_pretrained(hf_folder)
    for name in ("vocab.json", "merges.txt"):
        (hf_folder / name).unlink()
    expected.save_pretrained(hf_folder)
    import_model(str(hf_folder), run="in", report=lambda line: None)
    ours = gpt2demo.load("in").tokenizer
    assert [ours.encode(text) for text in TEXTS] == [expected.encode(text) for text in TEXTS]


def test_a_byte_vocabulary_becomes_the_byte_tokenizer(hf_folder: Path) -> None:
    (hf_folder / "merges.txt").unlink()
    checkpoint.write_tokenizer_json(ByteTokenizer(), 40, hf_folder)
    import_model(str(hf_folder), run="in", report=lambda line: None)
    assert isinstance(gpt2demo.load("in").tokenizer, ByteTokenizer)


def test_an_unsupported_tokenizer_is_refused_with_a_reason(hf_folder: Path) -> None:
    (hf_folder / "tokenizer_config.json").write_text('{"add_prefix_space": true}', encoding="utf-8")
    with pytest.raises(TokenizerError, match="add_prefix_space=true"):
        import_model(str(hf_folder), report=lambda line: None)
    (hf_folder / "tokenizer_config.json").unlink()
    wordpiece = '{"model": {"type": "WordPiece", "vocab": {}}, "pre_tokenizer": null}'
    (hf_folder / "tokenizer.json").write_text(wordpiece, encoding="utf-8")
    with pytest.raises(TokenizerError, match="unsupported tokenizer: not a byte-level BPE"):
        import_model(str(hf_folder), report=lambda line: None)
    (hf_folder / "tokenizer.json").unlink()
    (hf_folder / "vocab.json").unlink()
    with pytest.raises(TokenizerError, match="no tokenizer found"):
        import_model(str(hf_folder), report=lambda line: None)
    checkpoint.write_tokenizer_json(ByteTokenizer(), 40, hf_folder)
    change_config(hf_folder, vocab_size=100)
    change_weights(hf_folder, lambda weights: weights | {"transformer.wte.weight": torch.zeros(100, 24)})
    with pytest.raises(RunError, match="256 ids, the model 100"):
        import_model(str(hf_folder), report=lambda line: None)
    assert not list_runs()


# ---------------------------------------------------------------------------------------------- the run


def test_an_imported_run_can_be_used_like_a_trained_one(invoke: Cli, hf_folder: Path, text_file: Path, tmp_path: Path) -> None:
    done = invoke("import", hf_folder)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/runs/theirs\n"), done.stderr
    info = find_run("theirs").info()
    assert (info["preset"], info["imported"]["source"]) == (None, str(hf_folder))
    assert len(info["imported"]["files"]["model.safetensors"]["sha256"]) == 64
    assert find_run("theirs").state().status == "finished"
    model = gpt2demo.load("theirs")
    greedy = model.generate("the cat", max_new_tokens=20, temperature=0)
    assert "".join(greedy) == model.tokenizer.decode(greedy.ids)
    assert len(greedy.ids) > 5
    assert greedy.ids == greedy_ids(hf_folder, "the cat", len(greedy.ids))
    assert evaluate(model, [text_file]).tokens > 1000
    with pytest.raises(RunError, match="text files"):
        evaluate(model)


def test_an_imported_run_cannot_be_resumed(hf_folder: Path) -> None:
    import_model(str(hf_folder), run="in", report=lambda line: None)
    with pytest.raises(RunError, match="--init-from in"):
        next(resume("in", steps=10))


def test_an_imported_run_generates_the_same_text_after_an_onnx_export(hf_folder: Path) -> None:
    """The vocabulary has more rows than the tokenizer has ids, unlike that of trained runs. The export takes seconds."""
    import_model(str(hf_folder), run="in", report=lambda line: None)
    exported = export_model("in", report=lambda line: None)
    torch_ids, onnx_ids = (
        list(gpt2demo.load(source).generate("the", max_new_tokens=8, temperature=0)) for source in ("in", exported)
    )
    assert torch_ids == onnx_ids


def test_a_damaged_checkpoint_is_not_imported(trained_run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint.newest(trained_run.checkpoints).path, tmp_path / "copy"))
    assert import_model(str(copy), run="whole", report=lambda line: None).exists
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copy / "model.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError, match="is damaged"):
        import_model(str(copy), report=lambda line: None)


# ---------------------------------------------------------------------------------------------- the hub


def test_a_hub_name_without_a_network_is_an_error_in_one_line(cli: Cli, tmp_path: Path) -> None:
    """Runs in a process, because the hub's library reads the environment when it is imported."""
    done = cli("import", "openai-community/gpt2", env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")})
    errors = [line for line in done.stderr.splitlines() if line.startswith("gpt2demo: error: ")]
    assert (done.returncode, done.stdout, len(errors)) == (2, "", 1)
    assert "'openai-community/gpt2': folder not found, and not available on the Hugging Face hub" in errors[0]
    assert "Traceback" not in done.stderr


def test_no_pickle_is_downloaded(hf_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    requested: dict[str, Any] = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: requested.update(options, name=name) or str(hf_folder)
    )
    assert import_model("example/tiny-gpt2", report=lambda line: None).name == "tiny-gpt2"
    assert requested == {"name": "example/tiny-gpt2", "allow_patterns": ["*.safetensors", "*.json", "*.txt"]}


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "..", "C:\\models"])
def test_a_path_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(RunError, match="folder not found"):
        download(name)
