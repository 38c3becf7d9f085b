"""Models from Hugging Face and back: what comes in computes what transformers computes, and what goes out is what came in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import SMALL, Cli
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import gpt2demo
from gpt2demo.errors import CheckpointError, Error, ExportError, RunError, SettingError, TokenizerError
from gpt2demo.evaluation.score import evaluate
from gpt2demo.export import huggingface
from gpt2demo.export.export import export_model
from gpt2demo.runs import checkpoint, weights
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run
from gpt2demo.runs.importing import PICKLES, download, import_model, read_config, read_model
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.tokenization.char import CharTokenizer
from gpt2demo.training.events import Evaluation, Event, Step
from gpt2demo.training.train import resume

SHAPE = {"vocab_size": 300, "n_positions": 40, "n_embd": 24, "n_head": 4, "n_layer": 2}
"""More rows of vocabulary than any tokenizer here has ids, as many published models have."""
TEXTS = ("plain words", "Zoë said: 🙂\n\ttab", " lead", "two  spaces  ", "it's 2024", "")

ORIGINALS = {  # as published with the weights; task_specific_params and the summary_ fields change nothing here
    "gpt2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    }
}
ORIGINALS["distilgpt2"] = ORIGINALS["gpt2"] | {
    "_num_labels": 1,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "n_layer": 6,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    """transformers' model with random weights, large enough for distinct logits."""
    torch.manual_seed(0)
    config = GPT2Config(**SHAPE, initializer_range=0.2, bos_token_id=None, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, which start at 0 and 1
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def folder(theirs: GPT2LMHeadModel, tmp_path: Path) -> Path:
    """The model as transformers saves it, with a byte-level BPE of 280 tokens as OpenAI saves it."""
    theirs.save_pretrained(tmp_path / "theirs")
    bpe = ByteLevelBPETokenizer()
    texts = ["the cat sat on the mat, it's said; the words are plain words\n"] * 30
    bpe.train_from_iterator(texts, vocab_size=280, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False)
    bpe.save_model(str(tmp_path / "theirs"))
    return tmp_path / "theirs"


def change(folder: Path, **values: Any) -> Path:
    """Another config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Other weights."""
    file = folder / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file({name: tensor.contiguous() for name, tensor in change(weights).items()}, file, metadata={"format": "pt"})
    return folder


def bare(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}


def with_buffers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for layer in range(2):
        weights[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 40, 40).tril().bool()
        weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return weights


def with_head(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {"lm_head.weight": weights["transformer.wte.weight"].clone()}


def assert_same_logits(model: torch.nn.Module, ours: torch.nn.Module, atol: float = 1e-5) -> None:
    ids = torch.randint(SHAPE["vocab_size"], (2, SHAPE["n_positions"]), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids), model(ids).logits, atol=atol, rtol=0)


# ---------------------------------------------------------------------------------------------- in: the weights


@pytest.mark.parametrize(
    "stored",
    [
        lambda folder: folder,
        lambda folder: rewrite(folder, bare),
        lambda folder: rewrite(folder, lambda weights: with_buffers(bare(weights))),
        lambda folder: rewrite(folder, with_head),
        lambda folder: change(rewrite(folder, with_head), tie_word_embeddings=False),
        lambda folder: change(folder, n_inner=96, activation_function="gelu_pytorch_tanh"),
        lambda folder: change(folder, reorder_and_upcast_attn=True, activation_function="gelu_fast"),
    ],
    ids=["prefix", "no prefix", "mask buffers", "stored head", "equal head", "other words for the same", "upcast attention"],
)
def test_logits_are_those_of_transformers(theirs: GPT2LMHeadModel, folder: Path, stored: Callable[[Path], Path]) -> None:
    import_model(str(stored(folder)), run="in", report=lambda line: None)
    assert_same_logits(theirs, gpt2demo.load("in").engine.model)


def test_a_model_in_parts(theirs: GPT2LMHeadModel, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    theirs.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    assert_same_logits(theirs, read_model(folder))
    next(folder.glob("model-00002-*")).unlink()
    with pytest.raises(CheckpointError, match="names the part 'model-00002-of-"):
        read_model(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_become_float32_exactly(theirs: GPT2LMHeadModel, folder: Path, dtype: torch.dtype) -> None:
    rewrite(folder, lambda weights: {name: tensor.to(dtype) for name, tensor in weights.items()})
    rounded = GPT2LMHeadModel(theirs.config).eval()
    rounded.load_state_dict({name: tensor.to(dtype).float() for name, tensor in theirs.state_dict().items()})
    import_model(str(folder), run="in", report=lambda line: None)
    assert_same_logits(rounded, gpt2demo.load("in").engine.model)


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_published_configs_are_understood(name: str) -> None:
    shape = read_config(ORIGINALS[name])
    assert shape.model_dump() == {
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12 if name == "gpt2" else 6,
        "dropout": 0.1,
        "initializer_range": 0.02,
    }


def test_a_config_may_use_other_names_and_leave_out_what_is_usual() -> None:
    shape = read_config({"model_type": "gpt2", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1})
    assert (shape.n_embd, shape.n_head, shape.n_layer, shape.n_positions, shape.vocab_size) == (32, 2, 1, 1024, 50257)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "gpt_neo"),
        ("scale_attn_by_inverse_layer_idx", True),
        ("scale_attn_weights", False),
        ("n_inner", 100),
        ("activation_function", "gelu"),
        ("activation_function", "relu"),
        ("add_cross_attention", True),
        ("layer_norm_epsilon", 1e-6),
        ("pruned_heads", {"0": [1]}),
        ("quantization_config", {"bits": 4}),
        ("tie_word_embeddings", False),
    ],
)
def test_a_variant_is_refused_by_its_name_and_value(folder: Path, name: str, value: Any) -> None:
    with pytest.raises(RunError) as caught:
        import_model(str(change(folder, **{name: value})), report=lambda line: None)
    assert f"{name}={value!r}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not find_all_runs()


def find_all_runs() -> list[Path]:
    from gpt2demo.runs.folder import runs_dir

    return list(runs_dir().glob("*"))


def without(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != f"transformer.{name}"}


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (lambda weights: with_head(weights) | {"lm_head.weight": torch.zeros(300, 24)}, RunError, "lm_head.weight differs"),
        (lambda weights: weights | {"transformer.wte.weight": torch.zeros(300, 24, dtype=torch.int8)}, RunError, "stored as I8"),
        (lambda weights: weights | {"transformer.ln_f.bias": torch.zeros(25)}, CheckpointError, r"shape \(25,\).*\(24,\)"),
        (lambda weights: weights | {"score.weight": torch.zeros(2, 24)}, CheckpointError, "score.weight is no weight"),
        (lambda weights: weights | {"ln_f.bias": torch.zeros(24)}, CheckpointError, "stored twice"),
        (without("h.1.attn.c_proj.weight"), CheckpointError, "h.1.attn.c_proj.weight is missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder: Path, changed: Any, error: type[Error], words: str) -> None:
    with pytest.raises(error, match=words):
        import_model(str(rewrite(folder, changed)), report=lambda line: None)
    assert not find_all_runs()


def test_hostile_files_are_refused_before_memory_is_taken(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="n_embd"):
        read_model(change(folder, n_embd=10**9))
    with pytest.raises(CheckpointError, match="vocab_size"):
        read_model(change(folder, n_embd=24, vocab_size="many"))
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_model(change(folder, vocab_size=300))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"wte.weight": "../secret.safetensors"}}', encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match="names the part"):
        read_model(folder)


@pytest.mark.parametrize("suffix", PICKLES)
def test_a_pickle_is_never_read(folder: Path, suffix: str) -> None:
    (folder / "model.safetensors").unlink()
    pickle = folder / f"pytorch_model{suffix}"
    pickle.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    for source in (folder, pickle):
        with pytest.raises(RunError, match=f"pytorch_model{suffix}: is a pickle.*save_pretrained"):
            import_model(str(source), report=lambda line: None)


# ---------------------------------------------------------------------------------------------- in: the tokenizer


def test_vocab_and_merges_give_the_ids_of_transformers(folder: Path) -> None:
    expected = AutoTokenizer.from_pretrained(folder)
    import_model(str(folder), run="in", report=lambda line: None)
    saved = checkpoint.newest(find_run("in").checkpoints).path
    ours, again = checkpoint.load_tokenizer(saved / "tokenizer")[0], AutoTokenizer.from_pretrained(saved)
    assert isinstance(ours, BpeTokenizer)
    assert (ours.vocab_size, ours.eos_id) == (len(expected), expected.eos_token_id)
    for text in TEXTS:
        assert ours.encode(text) == expected.encode(text) == again.encode(text)


def test_a_tokenizer_json_that_transformers_wrote(folder: Path, tmp_path: Path) -> None:
    expected = AutoTokenizer.from_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    expected.save_pretrained(folder)
    import_model(str(folder), run="in", report=lambda line: None)
    ours = gpt2demo.load("in").tokenizer
    assert [ours.encode(text) for text in TEXTS] == [expected.encode(text) for text in TEXTS]


def test_the_byte_vocabulary_comes_back_as_the_byte_tokenizer(folder: Path) -> None:
    (folder / "merges.txt").unlink()
    checkpoint.write_tokenizer_json(ByteTokenizer(), 40, folder)
    import_model(str(folder), run="in", report=lambda line: None)
    assert isinstance(gpt2demo.load("in").tokenizer, ByteTokenizer)


def test_tokenizers_that_cannot_be_used_say_why(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"add_prefix_space": true}', encoding="utf-8")
    with pytest.raises(TokenizerError, match="add_prefix_space=true"):
        import_model(str(folder), report=lambda line: None)
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").write_text(
        '{"model": {"type": "WordPiece", "vocab": {}}, "pre_tokenizer": null}', encoding="utf-8"
    )
    with pytest.raises(TokenizerError, match="unsupported tokenizer: not a byte-level BPE like GPT-2's"):
        import_model(str(folder), report=lambda line: None)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").unlink()
    with pytest.raises(TokenizerError, match="no tokenizer found"):
        import_model(str(folder), report=lambda line: None)
    checkpoint.write_tokenizer_json(ByteTokenizer(), 40, folder)
    rewrite(change(folder, vocab_size=100), lambda weights: weights | {"transformer.wte.weight": torch.zeros(100, 24)})
    with pytest.raises(RunError, match="256 ids, the model 100"):
        import_model(str(folder), report=lambda line: None)
    assert not find_all_runs()


# ---------------------------------------------------------------------------------------------- in: the run, the hub


def test_an_imported_run_is_used_like_any_other(
    cli: Cli, theirs: GPT2LMHeadModel, folder: Path, text_file: Path, tmp_path: Path
) -> None:
    done = cli("import", folder)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/runs/theirs\n"), done.stderr
    info = find_run("theirs").info()
    assert (info["preset"], info["imported"]["source"]) == (None, str(folder))
    assert len(info["imported"]["files"]["model.safetensors"]["sha256"]) == 64
    assert find_run("theirs").state().status == "finished"
    model = gpt2demo.load("theirs")
    greedy = model.generate("the cat", max_new_tokens=20, temperature=0)
    assert "".join(greedy) == model.tokenizer.decode(greedy.ids)
    assert len(greedy.ids) > 5
    assert greedy.ids == transformers_greedy(folder, "the cat", len(greedy.ids))
    assert evaluate(model, [text_file]).tokens > 1000
    with pytest.raises(RunError, match="name the text files"):
        evaluate(model)
    with pytest.raises(RunError, match="--init-from theirs"):
        next(resume("theirs", steps=10))


def transformers_greedy(folder: Path, prompt: str, count: int) -> list[int]:
    """Greedy ids; rows of the vocabulary that the tokenizer has no id for are left out, as they are here."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")
    padding = [*range(len(tokenizer), model.config.vocab_size)] or None
    out = model.generate(
        **ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, suppress_tokens=padding
    )
    return out[0, ids["input_ids"].shape[1] :].tolist()


def test_an_imported_run_answers_in_chat_and_exports_to_onnx(folder: Path, tmp_path: Path) -> None:
    import_model(str(folder), run="in", report=lambda line: None)
    assert "".join(gpt2demo.load("in").generate("the", max_new_tokens=8, seed=1))
    exported = export_model("in", report=lambda line: None)
    torch_ids, onnx_ids = (
        list(gpt2demo.load(source).generate("the", max_new_tokens=8, temperature=0)) for source in ("in", exported)
    )
    assert torch_ids == onnx_ids


def test_a_hub_name_without_a_network_is_one_line(cli: Cli, tmp_path: Path) -> None:
    done = cli("import", "openai-community/gpt2", env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")})
    errors = [line for line in done.stderr.splitlines() if line.startswith("gpt2demo: error: ")]
    assert done.returncode == 2
    assert len(errors) == 1
    assert "'openai-community/gpt2': is no folder here, and the Hugging Face hub does not give it" in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_hub_name_fetches_no_pickle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.update(options, name=name) or str(folder)
    )
    assert import_model("somebody/tiny-gpt2", report=lambda line: None).name == "tiny-gpt2"
    assert asked == {"name": "somebody/tiny-gpt2", "allow_patterns": ["*.safetensors", "*.json", "*.txt"]}


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "..", "C:\\models"])
def test_a_path_is_never_taken_for_a_hub_name(name: str) -> None:
    with pytest.raises(RunError, match="there is no such folder"):
        download(name)


# ---------------------------------------------------------------------------------------------- out


def make_run(name: str, tokenizer: str, text: Path) -> Run:
    """A run that has really been trained."""
    list(gpt2demo.train(text, run=name, **{**SMALL, "tokenizer": tokenizer, "steps": 4, "sample_tokens": 0, "threads": 1}))
    return find_run(name)


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_an_export_is_the_same_model_in_transformers(text_file: Path, tokenizer: str) -> None:
    make_run("mine", tokenizer, text_file)
    folder = export_model("mine", "huggingface", report=lambda line: None)
    ours, theirs = gpt2demo.load("mine"), AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(ours.engine.vocab_size, (2, 32))
    torch.testing.assert_close(theirs(ids).logits, ours.engine.model(ids), atol=1e-5, rtol=0)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert [loaded.encode(text) for text in TEXTS] == [ours.tokenizer.encode(text) for text in TEXTS]
    generation = ours.generate("Line", max_new_tokens=20, temperature=0)
    text = "".join(generation)
    assert generation.ids == transformers_greedy(folder, "Line", 20)
    assert loaded.decode(generation.ids) == text
    facts = json.loads((folder / "gpt2demo.json").read_text(encoding="utf-8"))
    assert facts["largest_difference"] <= 1e-5


def test_an_export_is_a_clean_folder_with_a_model_card(text_file: Path, tmp_path: Path) -> None:
    make_run("mine", "byte", text_file)
    folder = export_model("mine", "huggingface", report=lambda line: None)
    names = {"README.md", "config.json", "generation_config.json", "gpt2demo.json", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names | {"tokenizer.json", "tokenizer_config.json"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "pipeline_tag: text-generation",
        "text.txt",
        "validation loss",
        "bits per byte",
        "AutoTokenizer",
        "| steps | 4 |",
    ):
        assert words in card
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    assert str(tmp_path).encode() not in everything  # nothing tells of the machine
    assert export_model("mine", "huggingface", report=lambda line: None) == folder  # a new one takes its place


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_the_size_within_the_stated_limit(text_file: Path, dtype: str) -> None:
    run = make_run("mine", "byte", text_file)
    folder = export_model("mine", "huggingface", dtype=dtype, report=lambda line: None)
    full = checkpoint.newest(run.checkpoints).path / "model.safetensors"
    assert (folder / "model.safetensors").stat().st_size < 0.6 * full.stat().st_size
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    assert theirs.dtype == huggingface.DTYPES[dtype]
    ids = torch.randint(256, (2, 32))
    expected = gpt2demo.load("mine").engine.model(ids).detach()
    limit = huggingface.LIMITS[dtype] * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(theirs.float()(ids).logits, expected, atol=limit, rtol=0)
    import_model(str(folder), run="back", report=lambda line: None)  # and it comes back in


def test_an_export_that_is_not_the_same_model_is_not_left_behind(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("mine", "byte", text_file)
    stored = weights.to_hugging_face(gpt2demo.load("mine").engine.model)
    stored["transformer.h.0.attn.c_proj.weight"] = stored["transformer.h.0.attn.c_proj.weight"].t().contiguous() + 1
    monkeypatch.setattr(weights, "to_hugging_face", lambda model: stored)
    with pytest.raises(ExportError, match="fp32: a logit of the written model differs by"):
        export_model(str(run.path), "huggingface", report=lambda line: None)
    assert not list(Path(run.path.parent.parent / "exports").glob("*"))


def test_a_format_refuses_a_dtype_that_it_does_not_have(cli: Cli, text_file: Path, tmp_path: Path) -> None:
    make_run("mine", "char", text_file)
    with pytest.raises(SettingError, match="dtype='bf16': the format 'onnx' can be written as fp32, fp16, int8, int4"):
        export_model("mine", dtype="bf16", report=lambda line: None)
    with pytest.raises(SettingError, match="dtype='int8': the format 'huggingface' can be written as fp32, fp16, bf16"):
        export_model("mine", "huggingface", dtype="int8", report=lambda line: None)
    done = cli("export", "mine", "--huggingface", "--dtype", "fp16")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/exports/mine-huggingface\n")
    assert "cannot be written as tokenizer.json" in done.stderr


@pytest.mark.parametrize("tokenizer", ["byte", "bpe", "char"])
def test_out_and_in_again_is_unchanged_bit_for_bit(text_file: Path, tokenizer: str) -> None:
    before = checkpoint.newest(make_run("mine", tokenizer, text_file).checkpoints).path
    folder = export_model("mine", "huggingface", report=lambda line: None)
    after = checkpoint.newest(import_model(str(folder), report=lambda line: None).checkpoints).path
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (before / name).exists() == (after / name).exists()
        assert not (before / name).exists() or (before / name).read_bytes() == (after / name).read_bytes(), name
    ours = checkpoint.load_tokenizer(after / "tokenizer")[0]
    assert isinstance(ours, {"byte": ByteTokenizer, "bpe": BpeTokenizer, "char": CharTokenizer}[tokenizer])


def test_theirs_in_and_out_again_is_unchanged_bit_for_bit(folder: Path) -> None:
    import_model(str(folder), run="in", report=lambda line: None)
    back = load_file(export_model("in", "huggingface", report=lambda line: None) / "model.safetensors")
    original = load_file(folder / "model.safetensors")
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in original.items())


# ---------------------------------------------------------------------------------------------- --init-from

TINY = {"steps": 4, "batch_size": 4, "eval_batches": 1, "sample_tokens": 0, "threads": 1}


def weights_at(run: str, step: int | None = None) -> dict[str, torch.Tensor]:
    saved = checkpoint.newest(find_run(run).checkpoints).path
    return bare(load_file((saved if step is None else saved.with_name(f"step-{step:08d}")) / "model.safetensors"))


def test_fine_tuning_starts_from_the_weights_and_keeps_the_vocabulary(cli: Cli, folder: Path, text_file: Path) -> None:
    words = (
        "--steps 4 --batch-size 4 --eval-batches 1 --sample-tokens 0 --save-every 4 --n-positions 16 --freeze-layers 1".split()
    )
    done = cli("train", text_file, "--run", "tuned", "--init-from", folder, *words)
    assert done.returncode == 0, done.stderr
    info = find_run("tuned").info()
    assert info["init_from"]["files"].keys() >= {"model.safetensors", "vocab.json"}
    assert (info["model"]["vocab_size"], info["model"]["n_positions"], info["tokenizer"]["name"]) == (300, 16, "bpe")
    before, after = bare(load_file(folder / "model.safetensors")), weights_at("tuned")
    start = weights_at("tuned", 0)
    assert torch.equal(start["wpe.weight"], before["wpe.weight"][:16])
    assert all(torch.equal(start[name], tensor) for name, tensor in before.items() if name != "wpe.weight")
    changed = {name for name, tensor in start.items() if not torch.equal(after[name], tensor)}
    frozen = {name for name in start if name.startswith(("wte", "wpe", "h.0."))}
    assert changed == start.keys() - frozen
    assert AutoModelForCausalLM.from_pretrained(checkpoint.newest(find_run("tuned").checkpoints).path).config.n_positions == 16


def test_fine_tuning_from_a_run_begins_with_its_loss(text_file: Path) -> None:
    make_run("base", "char", text_file)
    events = list(gpt2demo.train(text_file, run="tuned", init_from="base", **{**TINY, "eval_batches": 2, "batch_size": 8}))
    first = next(event for event in events if isinstance(event, Evaluation))
    assert (first.step, first.validation_loss) == (0, pytest.approx(evaluations("base")[-1]["loss"], abs=1e-5))
    assert isinstance(gpt2demo.load("tuned").tokenizer, CharTokenizer)
    saved = checkpoint.newest(find_run("base").checkpoints).path
    list(gpt2demo.train(text_file, run="again", init_from=str(saved), **{**TINY, "eval_batches": 2, "batch_size": 8}))
    assert all(torch.equal(tensor, weights_at("again")[name]) for name, tensor in weights_at("tuned").items())


def evaluations(name: str) -> list[dict[str, Any]]:
    run = find_run(name)
    return [record for record in run.records(run.metrics)[0] if record["split"] == "validation"]


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_fine_tuning_resumes_exactly_also_from_its_start(folder: Path, text_file: Path, frozen: int) -> None:
    settings = {**TINY, "steps": 6, "dropout": 0.1, "init_from": str(folder), "freeze_layers": frozen, "save_every": 2}
    straight = steps(list(gpt2demo.train(text_file, run="straight", **settings)))
    pieces = []
    events = gpt2demo.train(text_file, run="cut", **settings)
    next(events)  # prepared and begun, but cut before its first step
    events.close()
    for last in (1, 3, 10):
        done = 0
        for event in resume("cut", stop=lambda: "stopped" if done >= last else None):
            done = event.step if isinstance(event, Step) else done
            pieces += steps([event])
    assert pieces == straight
    assert all(torch.equal(tensor, weights_at("straight")[name]) for name, tensor in weights_at("cut").items())
    assert evaluations("cut")[0]["step"] == 0
    assert len(evaluations("cut")) == len(evaluations("straight"))


def steps(events: list[Event]) -> list[tuple[int, float, float]]:
    return [(e.step, e.loss, e.grad_norm) for e in events if isinstance(e, Step)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_layer": 3}, "n_layer=3: the model 'theirs' to start from has n_layer=2"),
        ({"n_embd": 48}, "n_embd=48: .* has n_embd=24"),
        ({"n_head": 5}, "n_head=5: .* has n_head=4"),
        ({"initializer_range": 0.5}, "initializer_range=0.5: .* has initializer_range=0.2"),
        ({"vocab_size": 400}, "vocab_size=400: .* has vocab_size=300"),
        ({"n_positions": 41}, "n_positions=41: .* has 40; give at most that"),
        ({"tokenizer": "byte"}, "tokenizer byte: the model 'theirs' has its own, 'bpe'"),
        ({"freeze_layers": 3}, "freeze_layers=3: the model has 2 layers"),
        ({"init_from": "nowhere"}, "'nowhere'"),
    ],
)
def test_what_the_model_decides_cannot_be_set(folder: Path, text_file: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises((SettingError, RunError), match=words):
        next(gpt2demo.train(text_file, **{"init_from": str(folder), **TINY, **settings}))
    assert not find_all_runs()


def test_a_damaged_checkpoint_is_not_imported(text_file: Path) -> None:
    saved = checkpoint.newest(make_run("mine", "byte", text_file).checkpoints).path
    copy = Path(shutil.copytree(saved, saved.parent.parent / "copy"))
    assert import_model(str(copy), run="whole", report=lambda line: None).exists
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copy / "model.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError, match="is damaged"):
        import_model(str(copy), report=lambda line: None)
