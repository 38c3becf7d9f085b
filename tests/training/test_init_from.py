"""`--init-from`: fine-tuning starts from the weights, shape and tokenizer of another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf import without_prefix
from safetensors.torch import load_file
from samples import Cli, step_values, take_until
from transformers import AutoModelForCausalLM

import gpt2demo
from gpt2demo.errors import RunError, SettingError
from gpt2demo.events import Evaluation
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run, list_runs
from gpt2demo.runs.folder import Run
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.training import resume

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {"steps": 4, "batch_size": 4, "eval_batches": 1, "eval_every": 2, "sample_tokens": 0, "threads": 1}


def weights_of(run: str, step: int | None = None) -> dict[str, torch.Tensor]:
    """Return the weights of a run's checkpoint, by default the newest, under our names."""
    newest = checkpoint.newest(find_run(run).checkpoints).path
    folder = newest if step is None else newest.with_name(checkpoint.folder_name(step))
    return without_prefix(load_file(folder / "model.safetensors"))


def evaluations(name: str) -> list[dict[str, Any]]:
    run = find_run(name)
    return [record for record in run.records(run.metrics)[0] if record["split"] == "validation"]


def test_training_starts_from_the_weights_and_changes_only_unfrozen_layers(invoke: Cli, hf_folder: Path, text_file: Path) -> None:
    options = {**TINY, "save_every": 4, "n_positions": 16, "freeze_layers": 1}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    done = invoke("train", text_file, "--run", "tuned", "--init-from", hf_folder, *words)
    assert done.returncode == 0, done.stderr
    info = find_run("tuned").info()
    assert info["init_from"]["files"].keys() >= {"model.safetensors", "vocab.json"}
    assert (info["model"]["vocab_size"], info["model"]["n_positions"], info["tokenizer"]["name"]) == (300, 16, "bpe")
    original = without_prefix(load_file(hf_folder / "model.safetensors"))
    start, end = weights_of("tuned", 0), weights_of("tuned")
    assert torch.equal(start["wpe.weight"], original["wpe.weight"][:16])
    assert all(torch.equal(start[name], tensor) for name, tensor in original.items() if name != "wpe.weight")
    changed = {name for name, tensor in start.items() if not torch.equal(end[name], tensor)}
    frozen = {name for name in start if name.startswith(("wte", "wpe", "h.0."))}
    assert changed == start.keys() - frozen
    assert AutoModelForCausalLM.from_pretrained(checkpoint.newest(find_run("tuned").checkpoints).path).config.n_positions == 16


def test_training_from_a_run_starts_with_its_loss(run_copy: Run, text_file: Path) -> None:
    settings = {**TINY, "eval_batches": 2, "batch_size": 8}
    events = list(gpt2demo.train(text_file, run="tuned", init_from="mine", **settings))
    first = next(event for event in events if isinstance(event, Evaluation))
    assert (first.step, first.validation_loss) == (0, pytest.approx(evaluations("mine")[-1]["loss"], abs=1e-5))
    assert isinstance(gpt2demo.load("tuned").tokenizer, ByteTokenizer)
    saved = checkpoint.newest(run_copy.checkpoints).path
    list(gpt2demo.train(text_file, run="again", init_from=str(saved), **settings))
    assert all(torch.equal(tensor, weights_of("again")[name]) for name, tensor in weights_of("tuned").items())


@pytest.mark.parametrize("frozen", [0, 1])
def test_an_interrupted_fine_tuning_resumes_exactly(hf_folder: Path, text_file: Path, frozen: int) -> None:
    settings = {**TINY, "steps": 6, "dropout": 0.1, "init_from": str(hf_folder), "freeze_layers": frozen, "save_every": 2}
    straight = list(gpt2demo.train(text_file, run="straight", **settings))
    started = gpt2demo.train(text_file, run="cut", **settings)
    next(started)  # interrupted before the first step
    started.close()
    pieces = [event for last in (1, 3, 10) for event in take_until(resume("cut"), last)]
    assert step_values(pieces) == step_values(straight)
    assert all(torch.equal(tensor, weights_of("straight")[name]) for name, tensor in weights_of("cut").items())
    assert [record["step"] for record in evaluations("cut")] == [record["step"] for record in evaluations("straight")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layer": 3}, "n_layer=3: the model 'theirs' to start from has n_layer=2"),
        ({"n_embd": 48}, "n_embd=48: .* has n_embd=24"),
        ({"n_head": 5}, "n_head=5: .* has n_head=4"),
        ({"initializer_range": 0.5}, "initializer_range=0.5: .* has initializer_range=0.2"),
        ({"vocab_size": 400}, "vocab_size=400: .* has vocab_size=300"),
        ({"n_positions": 41}, "n_positions=41: .* has 40; use at most that"),
        ({"tokenizer": "byte"}, "tokenizer byte: the model 'theirs' has its own, 'bpe'"),
        ({"tokenizer_options": {"vocab_size": "9"}}, "tokenizer option vocab_size=9: the model 'theirs' has its own"),
        ({"freeze_layers": 3}, "freeze_layers=3: the model has 2 layers"),
        ({"init_from": "nowhere"}, "'nowhere'"),
    ],
)
def test_settings_that_contradict_the_model_are_refused(
    saved_hf_folder: Path, text_file: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((SettingError, RunError), match=message):
        next(gpt2demo.train(text_file, **{"init_from": str(saved_hf_folder), **TINY, **settings}))
    assert not list_runs()
