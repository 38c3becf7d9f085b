"""The main path of a user, with a real process for each step: train, chat, export, chat with the export, evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from samples import Cli


def test_train_chat_export_and_evaluate(cli: Cli, invoke: Cli, tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text("".join(f"Number {n} is {'even' if n % 2 == 0 else 'odd'}.\n" for n in range(2000)), encoding="utf-8")
    sizes = "--tokenizer byte --n-layer 1 --n-head 2 --n-embd 32 --n-positions 32 --batch-size 16".split()
    schedule = "--steps 200 --learning-rate 1e-2 --eval-every 200 --eval-batches 1 --sample-tokens 0".split()

    trained = cli("train", text, "--run", "numbers", *sizes, *schedule)
    assert trained.returncode == 0, trained.stderr
    assert Path(trained.stdout.strip()).is_dir()

    chat = cli("chat", "numbers", "--temperature", 0, "--max-new-tokens", 20, stdin="Number 12\nquit\n")
    assert " is " in chat.stdout, "the model has not learned the pattern of its text"

    exported = cli("export", "numbers", "--onnx")
    assert exported.returncode == 0, exported.stderr
    folder = Path(exported.stdout.strip())
    certificate = json.loads((folder / "gpt2demo.json").read_text(encoding="utf-8"))
    assert max(entry["largest_difference"] for entry in certificate["comparisons"]) <= 1e-3

    chat_with_export = cli("chat", folder, "--temperature", 0, "--max-new-tokens", 20, stdin="Number 12\nquit\n")
    assert chat_with_export.stdout == chat.stdout

    for choice in (["--temperature", 0], ["--seed", 5]):
        words = ["--prompt", "Number 7", "--max-new-tokens", 200, *choice, "--json"]
        torch, onnx = (json.loads(invoke("generate", "numbers", *words, "--engine", e).stdout) for e in ("torch", "onnx"))
        assert (torch["engine"], onnx["engine"]) == ("torch", "onnx")
        assert torch["ids"] == onnx["ids"], choice

    own, export = (json.loads(invoke("eval", model, text, "--json").stdout) for model in ("numbers", folder))
    assert (own["engine"], export["engine"]) == ("torch", "onnx")
    assert own["loss"] == pytest.approx(export["loss"], abs=1e-4)
    assert own["perplexity"] < 3
