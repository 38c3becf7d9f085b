"""Errors: one line on stderr, exit code 2 for a user's mistake and 1 for a failure, nothing on stdout."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples import SMALL_OPTIONS, Cli, assert_one_line_error

from gpt2demo.errors import DataError
from gpt2demo.runs.folder import Run


def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(cli: Cli) -> None:
    assert_one_line_error(cli("generate", "missing"), 2, "missing")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["frobnicate"], ["frobnicate"]),
        (["train", "none.txt"], ["none.txt", "no such file"]),
        (["train", "--n-layer", "many"], ["n_layer", "many"]),
        (["train", "--n-layer", "0"], ["n_layer", "'0'", "greater than or equal to 1"]),
        (["train", "--preset", "huge"], ["huge", "nano"]),
        (["train", "--tokenizer", "nope"], ["nope", "byte"]),
        (["train", "--dataset", "nope"], ["nope", "tales"]),
        (["train", "--tokenizer-option", "x"], ["KEY=VALUE"]),
        (["train", "--optimizer", "nope", "--dataset", "tales:stories=200"], ["nope", "adamw"]),
        (["generate"], ["no run", "gpt2demo train"]),
        (["generate", "--temperature", "-1"], ["temperature", "-1"]),
        (["generate", "--samples", "0"], ["samples", "0", "greater than or equal to 1"]),
        (["chat", "--explain"], ["--explain"]),
        (["export"], ["--onnx"]),
        (["resume", "nope"], ["nope"]),
        (["eval", "nope"], ["nope"]),
    ],
)
def test_an_error_names_the_value_and_what_would_work(invoke: Cli, words: list[str], expected: list[str]) -> None:
    assert_one_line_error(invoke(*words), 2, *expected)


@pytest.mark.parametrize("words", [["generate", "{}"], ["eval", "mine", "{}"], ["data", "{}"], ["train", "{}"], ["resume", "{}"]])
def test_a_text_in_place_of_a_name_is_quoted_shortened(invoke: Cli, run_copy: Run, words: list[str]) -> None:
    done = invoke(*(word.format("Once upon a time " * 40) for word in words))
    assert_one_line_error(done, 2, "Once upon a time")


@pytest.mark.parametrize("words", [["--device", "mps"], ["--optimizer", "none"], ["--device", "nothing"]])
def test_a_training_that_cannot_start_leaves_no_folder(invoke: Cli, text_file: Path, tmp_path: Path, words: list[str]) -> None:
    if "mps" in words and sys.platform == "darwin":
        pytest.skip("this machine has the device")
    assert_one_line_error(invoke("train", text_file, "--run", "bad", *SMALL_OPTIONS, *words), 2, words[1])
    assert not (tmp_path / "runs" / "bad").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--sampler", "nosuch"], "nosuch"), (["--sampler", "top-k:k=0"], "k='0'"), (["--stop-token", "nosuch"], "nosuch")],
)
def test_a_chat_with_invalid_options_does_not_start(invoke: Cli, run_copy: Run, words: list[str], expected: str) -> None:
    assert_one_line_error(invoke("chat", "mine", *words, stdin="hello\nquit\n"), 2, expected)


def test_the_name_of_a_chain_is_checked_before_writing(invoke: Cli, run_copy: Run) -> None:
    assert_one_line_error(invoke("generate", "mine", "--save-chain", "../x"), 2, "'../x'")


def test_debug_raises_the_exception(invoke: Cli) -> None:
    with pytest.raises(DataError):
        invoke("train", "none.txt", "--debug")


def test_characters_that_stdout_cannot_encode_are_question_marks(
    invoke: Cli, run_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    done = invoke("generate", "mine", "--prompt", "Grün 🙂 Line", "--max-new-tokens", 30, "--seed", 1)
    assert done.returncode == 0, done.stderr
    assert stdout.buffer.getvalue().startswith(b"Gr?n ? Line")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gpt2demo", "data", "tales:stories=3"]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "gpt2demo: error: the output could not be written (No space left on device)\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE")
def test_a_closed_pipe_ends_the_program_silently(tmp_path: Path) -> None:
    command = f"{sys.executable} -m gpt2demo data tales:stories=5000 | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
