"""`train` and `resume`: results on stdout, messages on stderr, aliases of options, paths."""

from __future__ import annotations

from pathlib import Path

from samples import SMALL_OPTIONS, Cli, assert_one_line_error

from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run

QUICK = [*SMALL_OPTIONS, "--steps", "2", "--sample-tokens", "0"]


def test_the_folder_is_printed_on_stdout_and_progress_on_stderr(cli: Cli, text_file: Path, tmp_path: Path) -> None:
    done = cli("train", text_file, "--run", "mine", *SMALL_OPTIONS)
    assert done.returncode == 0
    assert done.stdout == f"{tmp_path}/runs/mine\n"
    assert "validation loss" in done.stderr
    assert "tokens/s" in done.stderr


def test_the_original_names_of_options_work(invoke: Cli, text_file: Path) -> None:
    aliases = "--embed-dim 16 --num-heads 2 --num-layers 1 --max-seq-len 24 --num-epochs 0.02".split()
    words = "--tokenizer byte --batch-size 4 --sample-tokens 0 --eval-batches 1".split()
    assert invoke("train", text_file, "--run", "old", *aliases, *words).returncode == 0
    info = find_run("old").info()
    shape = {name: info["model"][name] for name in ("n_embd", "n_head", "n_layer", "n_positions")}
    assert shape == {"n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 24}
    assert info["train"]["epochs"] == 0.02


def test_train_can_continue_with_a_chat(invoke: Cli, text_file: Path) -> None:
    done = invoke("train", text_file, *QUICK, "--chat", stdin="Line\nquit\n")
    assert done.returncode == 0
    assert done.stdout.count("\n") >= 2
    assert "does not follow instructions" in done.stderr


def test_resume_trains_to_a_new_length(invoke: Cli, run_copy: Run) -> None:
    done = invoke("resume", "mine", "--steps", 14)
    assert done.returncode == 0, done.stderr
    assert run_copy.state().step == 14
    assert_one_line_error(invoke("resume", "mine"), 2, "14 steps", "--steps")


def test_resume_of_a_path_uses_that_run_and_not_one_of_the_same_name(
    invoke: Cli, run_copy: Run, text_file: Path, tmp_path: Path
) -> None:
    invoke("--runs-dir", "else", "train", text_file, "--run", "mine", *QUICK, "--tokenizer", "char")
    done = invoke("resume", "else/mine", "--steps", 3, "--chat", stdin="Line\nquit\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("else/mine\n")
    assert "step 3" in done.stderr
    assert find_run("mine").state().step == 12
    assert find_run(str(tmp_path / "else" / "mine")).state().step == 3
