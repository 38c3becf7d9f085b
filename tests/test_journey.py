"""The whole walk through the real command line, on a tiny text: train, chat, export, chat on ONNX, evaluate both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from samples import Cli


@pytest.fixture(scope="module")
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the whole journey."""
    return tmp_path_factory.mktemp("journey")


def test_the_journey(cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text("".join(f"Number {n} is {'even' if n % 2 == 0 else 'odd'}.\n" for n in range(2000)), encoding="utf-8")
    sizes = "--tokenizer byte --n-layer 2 --n-head 2 --n-embd 32 --n-positions 32 --batch-size 16 --steps 200 --learning-rate 5e-3".split()

    trained = cli("train", text, "--run", "numbers", *sizes)
    assert trained.returncode == 0, trained.stderr
    assert Path(trained.stdout.strip()).is_dir()

    chat = cli("chat", "numbers", "--temperature", 0, "--max-new-tokens", 20, stdin="Number 12\nquit\n")
    assert " is " in chat.stdout, "it has learned the pattern of its text"

    exported = cli("export", "numbers", "--onnx")
    assert exported.returncode == 0, exported.stderr
    folder = Path(exported.stdout.strip())
    certificate = json.loads((folder / "gpt2demo.json").read_text(encoding="utf-8"))
    assert max(entry["largest_difference"] for entry in certificate["comparisons"]) <= 1e-3

    words = ["--prompt", "Number 7", "--max-new-tokens", 200, "--json"]
    for choice in (["--temperature", 0], ["--seed", 5]):
        torch, onnx = (json.loads(cli("generate", "numbers", *words, *choice, "--engine", e).stdout) for e in ("torch", "onnx"))
        assert onnx["engine"] == "onnx"
        assert torch["ids"] == onnx["ids"], choice

    chat = cli("chat", folder, "--temperature", 0, "--max-new-tokens", 20, stdin="Number 12\nquit\n")
    assert " is " in chat.stdout

    ours, theirs = (json.loads(cli("eval", model, text, "--json").stdout) for model in ("numbers", folder))
    assert ours["engine"] == "torch"
    assert theirs["engine"] == "onnx"
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    assert ours["perplexity"] < 3
