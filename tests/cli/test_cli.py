"""The command line as a user meets it: real processes, real exit codes, one-line errors, results on stdout alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from samples import TEXT, Cli

from gpt2demo.data.tokens import split
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run

TINY = "--tokenizer byte --n-layer 1 --n-head 2 --n-embd 16 --n-positions 24 --batch-size 4 --steps 6 --eval-batches 1 --sample-tokens 20".split()


def assert_one_line_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("gpt2demo: error: ")]
    assert len(errors) == 1, done.stderr
    assert len(errors[0]) <= 500
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]
    assert done.stdout == ""


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    command = [sys.executable, "-m", "gpt2demo", "--runs-dir", "runs", "train", "text.txt", "--run", "mine", *TINY]
    subprocess.run(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    return folder / "runs" / "mine"


@pytest.fixture
def trained(trained_once: Path, text_file: Path, tmp_path: Path) -> str:
    """A run of the test's own, trained on its text file."""
    shutil.copytree(trained_once, tmp_path / "runs" / "mine")
    return "mine"


def test_help_and_version_import_nothing_heavy() -> None:
    """And no plugin: their names come from the metadata of what is installed."""
    code = (
        "import sys\nfrom gpt2demo.cli.commands import app\n"
        "for words in (['--help'], ['--version'], ['generate', '--help'], ['train', '--help']):\n"
        "    app(words, standalone_mode=False)\n"
        "heavy = {'torch', 'gradio', 'onnxruntime', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        "plugins = {name for name in sys.modules if name.startswith('gpt2demo_')}\n"
        "assert not heavy | plugins, heavy | plugins"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "top-k" in done.stdout


@pytest.mark.parametrize(
    "command", ["ui", "train", "resume", "chat", "generate", "eval", "export", "import", "runs", "plugins", "data"]
)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    done = cli(command, "--help")
    assert done.returncode == 0
    assert done.stdout.count("\n") > 5


def test_training_prints_the_folder_on_stdout_and_the_rest_on_stderr(cli: Cli, text_file: Path, tmp_path: Path) -> None:
    done = cli("train", text_file, "--run", "mine", *TINY)
    assert done.returncode == 0
    assert done.stdout == f"{tmp_path}/runs/mine\n"
    assert "validation loss" in done.stderr
    assert "tokens/s" in done.stderr


def test_the_original_names_of_settings_work(cli: Cli, text_file: Path) -> None:
    words = "--tokenizer byte --embed-dim 16 --num-heads 2 --num-layers 1 --max-seq-len 24 --num-epochs 0.02 --batch-size 4 --sample-tokens 0".split()
    assert cli("train", text_file, "--run", "old", *words).returncode == 0
    info = find_run("old").info()
    assert (info["model"]["n_embd"], info["model"]["n_head"], info["model"]["n_layer"], info["model"]["n_positions"]) == (
        16,
        2,
        1,
        24,
    )
    assert info["train"]["epochs"] == 0.02


def test_generate_prints_the_text_or_json(cli: Cli, trained: str) -> None:
    plain = cli("generate", trained, "--prompt", "Line", "--max-new-tokens", 20, "--seed", 1)
    assert plain.returncode == 0
    assert plain.stdout.startswith("Line")
    again = cli("generate", "--prompt", "Line", "--max-new-tokens", 20, "--seed", 1, "--json")
    result = json.loads(again.stdout)
    expected = {"prompt", "text", "ids", "engine", "provider", "time_to_first_token_ms", "tokens_per_second"}
    assert set(result) >= expected
    assert (result["prompt"], result["engine"], result["provider"], len(result["ids"])) == ("Line", "torch", "cpu", 20)
    assert bytes(result["ids"]).decode(errors="replace") == result["text"]


def test_several_texts_are_a_list_and_each_is_what_it_is_alone(cli: Cli, trained: str) -> None:
    words = ["--max-new-tokens", 5, "--seed", 1]
    prompts = ["--prompt", "Line", "--prompt", "the quick brown", "--samples", 2]
    texts = json.loads(cli("generate", trained, *prompts, *words, "--json").stdout)
    assert [(text["prompt"], text["row"]) for text in texts] == [
        ("Line", 0),
        ("Line", 1),
        ("the quick brown", 0),
        ("the quick brown", 1),
    ]
    for text in texts[::2]:
        assert text["ids"] == json.loads(cli("generate", trained, "--prompt", text["prompt"], *words, "--json").stdout)["ids"]
    readable = cli("generate", trained, *prompts, *words).stdout
    assert [line for line in readable.splitlines() if line.startswith("---")][2] == "--- prompt 2, sample 1"
    assert readable.count("the quick brown") == 2


def test_a_full_context_is_said_once_and_told_in_json(cli: Cli, trained: str) -> None:
    words = ["--prompt", "a prompt that is longer than 24 tokens", "--max-new-tokens", 40, "--seed", 1]
    plain, told = cli("generate", trained, *words), json.loads(cli("generate", trained, *words, "--json").stdout)
    assert [line.split(" warning: ")[1][:24] for line in plain.stderr.splitlines()] == [
        "the prompt is longer tha",
        "the context of 24 tokens",
    ]
    assert (told["dropped"], told["rereads"]) == (14, [1, 14, 27])
    assert "warning" not in cli("generate", trained, "--max-new-tokens", 5).stderr
    assert (
        cli("chat", trained, "--max-new-tokens", 40, "--no-stop", stdin="Line\n").stderr.count("warning: the context of 24") == 1
    )


def test_stop_tokens_are_ids_or_texts(cli: Cli, trained: str) -> None:
    words = ["generate", trained, "--prompt", "Line", "--max-new-tokens", 20, "--seed", 1, "--json"]
    ids = json.loads(cli(*words).stdout)["ids"]
    told = json.loads(cli(*words, "--stop-token", r"\n", "--stop-token", ids[2]).stdout)
    assert (told["reason"], told["ids"]) == ("stop", ids[: ids.index(ids[2]) + 1])


def test_chat_answers_each_line_until_quit(cli: Cli, trained: str) -> None:
    done = cli("chat", trained, "--max-new-tokens", 5, "--seed", 1, "--no-stop", stdin="Line 1\nLine 2\nquit\nLine 3\n")
    assert done.returncode == 0
    assert "does not follow instructions" in done.stderr
    answers = [cli("generate", trained, "--prompt", f"Line {n}", "--max-new-tokens", 5, "--seed", 1).stdout for n in (1, 2)]
    assert done.stdout == "".join(answer.removeprefix(f"Line {n}") for n, answer in enumerate(answers, start=1))


def test_train_can_go_on_to_a_chat(cli: Cli, text_file: Path) -> None:
    done = cli("train", text_file, *TINY, "--chat", stdin="Line\nquit\n")
    assert done.returncode == 0
    assert done.stdout.count("\n") >= 2


def test_eval_measures_the_validation_split_or_files(cli: Cli, trained: str, text_file: Path) -> None:
    own, other = json.loads(cli("eval", trained, "--json").stdout), json.loads(cli("eval", trained, text_file, "--json").stdout)
    assert set(own) >= {"loss", "perplexity", "bits_per_byte", "tokens"}
    assert own["bits_per_byte"] == pytest.approx(own["loss"] / 0.6931, rel=0.01)
    assert other["tokens"] == len(text_file.read_bytes()) - 1


def test_lists_are_json_on_request(cli: Cli, trained: str) -> None:
    (run,) = json.loads(cli("runs", "--json").stdout)
    assert (run["name"], run["status"], run["step"]) == (trained, "finished", 6)
    plugins = json.loads(cli("plugins", "--json").stdout)
    assert all(set(plugin) == {"distribution", "version", "module", "hooks", "status", "error"} for plugin in plugins)
    assert "tales" in [dataset["name"] for dataset in json.loads(cli("data", "--json").stdout)]
    assert trained in cli("runs").stdout


def test_an_example_dataset_can_be_printed(cli: Cli) -> None:
    assert cli("data", "tales:stories=3,seed=5").stdout.count("\n") == 3


def test_resume_continues(cli: Cli, trained: str) -> None:
    done = cli("resume", trained, "--steps", 9)
    assert done.returncode == 0, done.stderr
    assert find_run(trained).state().step == 9
    assert_one_line_error(cli("resume", trained), 2, "has done all its 9 steps", "--steps")


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
        (["generate", "nope"], ["nope"]),
        (["generate", "--temperature", "-1"], ["temperature", "-1"]),
        (["generate", "--samples", "0"], ["samples", "0", "greater than or equal to 1"]),
        (["chat", "--explain"], ["--explain"]),
        (["export"], ["--onnx"]),
        (["resume", "nope"], ["nope"]),
        (["eval", "nope"], ["nope"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cli: Cli, words: list[str], expected: list[str]) -> None:
    assert_one_line_error(cli(*words), 2, *expected)


def test_debug_shows_the_traceback(cli: Cli) -> None:
    done = cli("train", "none.txt", "--debug")
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_options_of_the_program_may_stand_anywhere(cli: Cli, trained: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert json.loads(cli("runs", "--json", "--runs-dir", elsewhere).stdout) == []
    assert json.loads(cli("--runs-dir", elsewhere, "runs", "--json").stdout) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_a_checkpoint(text_file: Path, tmp_path: Path, number: int, code: int) -> None:
    words = [*TINY, "--steps", "100000", "--eval-every", "100000", "--save-every", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2demo", "train", str(text_file), "--run", "cut", *words],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    metrics = tmp_path / "runs" / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes().count(b"batch") >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=30) == code
    run = find_run("cut")
    assert run.state().status == "interrupted"
    assert checkpoint.newest(run.checkpoints).step == run.state().step >= 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_training_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    words = ["--dataset", "tales:stories=100000", "--run", "large"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2demo", "train", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "runs" / "large").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    output, messages = process.communicate(timeout=30)
    assert (process.returncode, output) == (code, "")
    assert "nothing is kept" in messages
    assert "Traceback" not in messages
    assert list((tmp_path / "runs").iterdir()) == []


# ---------------------------------------------------------------------------------------------- places and names


def test_a_run_elsewhere_is_resumed_there_and_talked_to(cli: Cli, text_file: Path, tmp_path: Path) -> None:
    """Not a run of the same name among the others."""
    cli("train", text_file, "--run", "same", *TINY)
    cli("--runs-dir", "else", "train", text_file, "--run", "same", *TINY, "--tokenizer", "char")
    done = cli("resume", "else/same", "--steps", 8, "--chat", stdin="Line\nquit\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("else/same\n")
    assert "step 8" in done.stderr
    assert find_run("same").state().step == 6
    assert find_run(str(tmp_path / "else" / "same")).state().step == 8


def test_a_model_may_be_named_from_inside_its_folder(
    cli: Cli, trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_folder = tmp_path / "runs" / trained / "checkpoints" / "step-00000006"
    whole = cli("eval", trained).stdout
    monkeypatch.chdir(checkpoint_folder.parent)
    assert cli("eval", "step-00000006", cwd=checkpoint_folder.parent).stdout == whole
    assert cli("eval", ".", cwd=checkpoint_folder).stdout == whole
    cli("generate", ".", "--max-new-tokens", 1, "--save-chain", "own", cwd=checkpoint_folder)
    assert (tmp_path / "runs" / trained / "chains.json").exists()
    assert not (checkpoint_folder / "chains.json").exists()
    assert find_run(str(checkpoint_folder.parent.parent)).name == trained


@pytest.mark.parametrize("words", [["generate", "{}"], ["eval", "mine", "{}"], ["data", "{}"], ["train", "{}"], ["resume", "{}"]])
def test_a_text_in_place_of_a_name_is_one_line(cli: Cli, trained: str, words: list[str]) -> None:
    done = cli(*(word.format("Once upon a time " * 40) for word in words))
    assert_one_line_error(done, 2, "Once upon a time")


@pytest.mark.parametrize("words", [["--device", "mps"], ["--optimizer", "none"], ["--device", "nothing"]])
def test_a_training_that_cannot_begin_leaves_nothing(cli: Cli, text_file: Path, tmp_path: Path, words: list[str]) -> None:
    if "mps" in words and sys.platform == "darwin":
        pytest.skip("this machine has it")
    assert_one_line_error(cli("train", text_file, "--run", "bad", *TINY, *words), 2, words[1])
    assert not (tmp_path / "runs" / "bad").exists()


def test_a_run_that_cannot_be_read_does_not_spoil_the_list(cli: Cli, trained: str, tmp_path: Path) -> None:
    damaged = tmp_path / "runs" / "damaged"
    damaged.mkdir()
    (damaged / "run.json").write_text("{", encoding="utf-8")
    os.utime(damaged / "run.json")
    assert cli("runs").stdout.splitlines()[0].split()[:3] == ["name", "status", "step"]


# ---------------------------------------------------------------------------------------------- what is asked and what comes out


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--sampler", "nosuch"], "nosuch"), (["--sampler", "top-k:k=0"], "k='0'"), (["--stop-token", "nosuch"], "nosuch")],
)
def test_a_chat_with_wrong_options_does_not_begin(cli: Cli, trained: str, words: list[str], expected: str) -> None:
    assert_one_line_error(cli("chat", trained, *words, stdin="hello\nquit\n"), 2, expected)


def test_a_name_for_a_chain_is_checked_before_anything_is_written(cli: Cli, trained: str) -> None:
    assert_one_line_error(cli("generate", trained, "--save-chain", "../x"), 2, "'../x'")


def test_documents_in_a_file_are_scored_as_the_same_documents_of_the_run(cli: Cli, tmp_path: Path) -> None:
    """With the ends of documents, which the model has learned to predict."""
    texts = [f"Story {number}. It is short." for number in range(60)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "all.jsonl").write_text(lines, encoding="utf-8")
    done = cli("train", "all.jsonl", "--run", "stories", *TINY, "--tokenizer", "bpe", "--vocab-size", 300)
    assert done.returncode == 0, done.stderr
    kept = split(texts, 0.1)[1]
    (tmp_path / "kept.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in kept), encoding="utf-8")
    of_run, of_file = (json.loads(cli("eval", "stories", *more, "--json").stdout) for more in ([], ["kept.jsonl"]))
    assert of_file["tokens"] == of_run["tokens"]
    assert (of_file["loss"], of_file["bytes"]) == (pytest.approx(of_run["loss"], rel=1e-6), of_run["bytes"])


def test_what_stdout_cannot_encode_comes_out_as_a_question_mark(cli: Cli, trained: str) -> None:
    done = cli(
        "generate", trained, "--prompt", "Grün 🙂 Line", "--max-new-tokens", 30, "--seed", 1, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Gr?n ? Line")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(cli: Cli, trained: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gpt2demo", "generate", trained, "--max-new-tokens", "2"]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "gpt2demo: error: the output could not be written (No space left on device)\n"
