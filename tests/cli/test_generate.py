"""`generate`, `chat` and `eval`: what they print, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import SMALL_OPTIONS, Cli

from gpt2demo.data.tokens import load_ids
from gpt2demo.runs.checkpoint import load_tokenizer
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run
from gpt2demo.terminal import printable


def generate_json(invoke: Cli, *words: object) -> Any:
    done = invoke("generate", "mine", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_generate_prints_the_prompt_and_its_continuation(invoke: Cli, run_copy: Run) -> None:
    words = ["--prompt", "Line", "--max-new-tokens", 20, "--seed", 1]
    printed = invoke("generate", *words)  # the default is the newest run
    result = generate_json(invoke, *words)
    assert printed.returncode == 0
    assert printed.stdout == f"Line{printable(result['text'])}\n"


def test_generate_json_has_the_documented_fields(invoke: Cli, run_copy: Run) -> None:
    result = generate_json(invoke, "--prompt", "Line", "--max-new-tokens", 20, "--seed", 1)
    expected = {"prompt", "text", "ids", "engine", "provider", "time_to_first_token_ms", "tokens_per_second"}
    assert set(result) >= expected
    assert (result["prompt"], result["engine"], result["provider"], len(result["ids"])) == ("Line", "torch", "cpu", 20)
    assert bytes(result["ids"]).decode(errors="replace") == result["text"]


def test_several_texts_are_a_list_and_equal_the_single_ones(invoke: Cli, run_copy: Run) -> None:
    words = ["--max-new-tokens", 5, "--seed", 1]
    prompts = ["--prompt", "Line", "--prompt", "the quick brown", "--samples", 2]
    texts = generate_json(invoke, *prompts, *words)
    assert [(text["prompt"], text["row"]) for text in texts] == [
        ("Line", 0),
        ("Line", 1),
        ("the quick brown", 0),
        ("the quick brown", 1),
    ]
    for text in texts[::2]:
        assert text["ids"] == generate_json(invoke, "--prompt", text["prompt"], *words)["ids"]
    printed = invoke("generate", "mine", *prompts, *words).stdout
    assert [line for line in printed.splitlines() if line.startswith("---")][2] == "--- prompt 2, sample 1"
    assert printed.count("the quick brown") == 2


def test_a_full_context_is_one_warning_and_reported_in_json(invoke: Cli, run_copy: Run) -> None:
    words = ["--prompt", "a prompt that is longer than 32 tokens", "--max-new-tokens", 40, "--seed", 1]
    warnings = invoke("generate", "mine", *words).stderr.splitlines()
    assert len(warnings) == 2
    assert "the prompt is longer" in warnings[0]
    assert "the context of 32 tokens" in warnings[1]
    result = generate_json(invoke, *words)
    assert result["dropped"] == len(words[1]) - 32
    assert result["rereads"][0] == 1
    chat = invoke("chat", "mine", "--max-new-tokens", 40, "--no-stop", stdin="Line\n")
    assert chat.stderr.count("warning: the context of 32") == 1


def test_a_text_that_fits_the_context_has_no_warning(invoke: Cli, run_copy: Run) -> None:
    assert "warning" not in invoke("generate", "mine", "--max-new-tokens", 5).stderr


def test_stop_tokens_are_ids_or_texts(invoke: Cli, run_copy: Run) -> None:
    words = ["--prompt", "Line", "--max-new-tokens", 20, "--seed", 1]
    ids = generate_json(invoke, *words)["ids"]
    result = generate_json(invoke, *words, "--stop-token", r"\n", "--stop-token", ids[2])
    assert (result["reason"], result["ids"]) == ("stop", ids[: ids.index(ids[2]) + 1])


def test_chat_answers_each_line_until_quit(invoke: Cli, run_copy: Run) -> None:
    words = ["--max-new-tokens", 5, "--seed", 1]
    done = invoke("chat", "mine", *words, "--no-stop", stdin="Line 1\nLine 2\nquit\nLine 3\n")
    assert done.returncode == 0
    assert "does not follow instructions" in done.stderr
    answers = [printable(generate_json(invoke, "--prompt", f"Line {n}", *words)["text"]) for n in (1, 2)]
    assert done.stdout == "".join(f"{answer}\n" for answer in answers)


def test_eval_measures_the_validation_split_or_files(invoke: Cli, run_copy: Run, text_file: Path) -> None:
    own = json.loads(invoke("eval", "mine", "--json").stdout)
    other = json.loads(invoke("eval", "mine", text_file, "--json").stdout)
    assert set(own) >= {"loss", "perplexity", "bits_per_byte", "tokens"}
    assert own["bits_per_byte"] == pytest.approx(own["loss"] / 0.6931, rel=0.01)
    assert other["tokens"] == len(text_file.read_bytes()) - 1


def test_eval_scores_documents_in_a_file_like_those_of_the_run(invoke: Cli, tmp_path: Path) -> None:
    """Including the ends of documents, which the model has learned to predict."""
    texts = [f"Story {number}. It is short." for number in range(200)]

    def write(name: str, documents: list[str]) -> None:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        (tmp_path / name).write_text(lines, encoding="utf-8")

    write("all.jsonl", texts)
    words = ["--run", "stories", *SMALL_OPTIONS, "--steps", 2, "--tokenizer", "bpe", "--vocab-size", 300]
    assert invoke("train", "all.jsonl", *words).returncode == 0
    tokenizer, _ = load_tokenizer(find_run("stories").tokenizer)
    write("validation.jsonl", tokenizer.decode(load_ids(find_run("stories").data, "validation")).split("<|endoftext|>")[:-1])
    of_run = json.loads(invoke("eval", "stories", "--json").stdout)
    of_file = json.loads(invoke("eval", "stories", "validation.jsonl", "--json").stdout)
    assert (of_file["tokens"], of_file["bytes"]) == (of_run["tokens"], of_run["bytes"])
    assert of_file["loss"] == pytest.approx(of_run["loss"], rel=1e-6)


def test_a_model_can_be_named_by_a_relative_path(invoke: Cli, run_copy: Run) -> None:
    folder = run_copy.checkpoints / "step-00000012"
    expected = invoke("eval", "mine").stdout
    assert invoke("eval", "step-00000012", cwd=folder.parent).stdout == expected
    assert invoke("eval", ".", cwd=folder).stdout == expected


def test_a_chain_is_saved_with_the_run_of_a_checkpoint(invoke: Cli, run_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_copy.checkpoints / "step-00000012"
    invoke("generate", ".", "--max-new-tokens", 1, "--save-chain", "own", cwd=folder)
    assert (run_copy.path / "chains.json").exists()
    assert not (folder / "chains.json").exists()
    monkeypatch.chdir(folder.parent)
    assert find_run("..").name == "mine"
