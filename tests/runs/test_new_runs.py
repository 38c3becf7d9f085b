"""A new run is whole or absent: it gets its name when it is complete, whatever ends the process before."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from battery import Trials
from samples import SMALL_OPTIONS, Cli

from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.runs import folder, importing
from gpt2demo.runs.find import find_run, list_runs
from gpt2demo.runs.folder import Run, new_name, new_run, refuse_taken, runs_dir
from gpt2demo.storage import remove_folder, temporaries
from gpt2demo.training import prepare, prepare_run, stores, text

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork and signals")
PREPARE = ((stores, "survey_text"), (text, "train_tokenizer"), (text, "write_splits"), (prepare, "_info"))


def names() -> list[str]:
    return sorted(path.name for path in runs_dir().iterdir())


def fork_and_kill(action: Any) -> None:
    """Run an action in a child process that kills itself, and wait for its end."""
    if not (pid := os.fork()):
        action()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def assert_recovers(name: str) -> None:
    """Check that a killed process left nothing that is listed or taken, and that the next run removes its files."""
    assert list_runs() == []
    assert all(entry.startswith(".tmp-") for entry in names())
    with pytest.raises(RunError, match="unknown run"):
        find_run(name)
    with new_run(name, "unused") as run:
        run.write_info({})
    assert names() == [name]


# ---------------------------------------------------------------------------------------------- killed processes


@posix
@pytest.mark.parametrize(("module", "moment"), PREPARE, ids=[moment for _, moment in PREPARE])
def test_a_process_killed_while_it_prepares_leaves_no_run(
    text_file: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, moment: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, moment, lambda *args: kill())
        settings = {"tokenizer": "char", "n_embd": 8, "n_head": 1, "n_layer": 1, "n_positions": 8}
        fork_and_kill(lambda: prepare_run(text_file, run="a", **settings))
    assert_recovers("a")


@posix
@pytest.mark.parametrize("moment", ["write_start", "_info"])
def test_a_process_killed_while_it_imports_leaves_no_run(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importing, moment, lambda *args: kill())
        fork_and_kill(lambda: importing.import_model(str(tiny_checkpoint), run="a", report=lambda line: None))
    assert_recovers("a")


@posix
def test_a_process_killed_while_it_deletes_a_run_leaves_no_run(run_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **options: kill())
        fork_and_kill(lambda: remove_folder(run_copy.path))
    assert_recovers("mine")


@posix
@pytest.mark.parametrize("trials", [2, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_training_killed_at_any_time_leaves_a_run_that_resumes_or_none(
    text_file: Path, cli: Cli, trial: Trials, trials: int
) -> None:
    """Every trial starts a process, which takes seconds."""
    rng, absent = random.Random(0), 0
    for number in range(trials):
        with trial(number):
            shutil.rmtree(runs_dir(), ignore_errors=True)
            command = [sys.executable, "-m", "gpt2demo", "train", str(text_file), "--run", "a", *SMALL_OPTIONS, "--tokenizer=bpe"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while not runs_dir().exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05 if trials == 2 else 1.5))
            process.kill()
            process.wait()
            if [run.name for run in list_runs()] == ["a"]:
                if trials > 2:
                    assert cli("resume", "a", "--steps=13").returncode == 0
            else:
                absent += 1
                assert_recovers("a")
    if trials > 2:  # two may both be late on a busy machine
        assert absent, "no trial interrupted the preparation"


def test_leftovers_of_a_process_with_a_recycled_id_are_removed() -> None:
    """After a restart of a container a new process often has the id of the killed one."""
    leftover = runs_dir() / f".tmp-a-{os.getpid()}-00000000"
    leftover.mkdir(parents=True)
    os.utime(leftover, (1e9, 1e9))
    with new_run("a", "unused") as run:
        run.write_info({})
    assert names() == ["a"]


# ---------------------------------------------------------------------------------------------- one owner of a name


def test_a_name_in_preparation_is_refused_and_skipped_and_not_listed() -> None:
    with new_run("a", "unused") as run:
        run.write_info({})
        assert list_runs() == []
        with pytest.raises(RunError, match=f"run 'a' is being prepared by process {os.getpid()}"):
            refuse_taken("a")
        assert new_name("a") == "a-2"
    assert [found.path for found in list_runs()] == [run.path]
    with pytest.raises(RunError, match="run 'a' already exists; continue it"):
        refuse_taken("a")


@posix
def test_a_folder_whose_path_is_not_unicode_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors could not read the checkpoints in it."""
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(tmp_path / "\udcff"))
    for name in ("a", None):
        with pytest.raises(RunError, match="the path is not valid UTF-8; use another --runs-dir"):
            refuse_taken(name)
    assert not list(tmp_path.iterdir())


def test_a_taken_name_is_refused_before_the_text_is_read(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs_dir() / "a").mkdir(parents=True)
    monkeypatch.setattr(prepare, "find_start", lambda name: pytest.fail("the model was loaded"))
    monkeypatch.setattr(prepare, "prepare_text", lambda plan, run: pytest.fail("the text was read"))
    with pytest.raises(RunError, match="a already exists and is not a run"):
        prepare_run(text_file, run="a", init_from="b")
    monkeypatch.setattr(importing, "read", lambda *args: pytest.fail("the model was read"))
    with pytest.raises(RunError, match="a already exists and is not a run"):
        importing.import_model(str(text_file.parent), run="a")


def test_a_folder_created_during_the_preparation_is_not_replaced() -> None:
    with pytest.raises(RunError, match="already exists"), new_run("a", "unused") as run:
        run.write_info({})
        (runs_dir() / "a").mkdir()
        (runs_dir() / "a" / "notes.txt").write_text("mine")
    assert [path.name for path in (runs_dir() / "a").iterdir()] == ["notes.txt"]
    assert names() == ["a"]


def test_errors_name_the_final_path() -> None:
    with pytest.raises(CheckpointError) as raised, new_run("a", "unused") as run:
        (run.path / "missing" / "x").write_text("")
    assert str(raised.value) == f"{runs_dir()}/a/missing/x: could not be written (No such file or directory)"


def compete(start: float, name: str | None, results: Any) -> None:
    time.sleep(max(0.0, start - time.time()))
    try:
        with new_run(name, "derived") as run:
            run.write_info({})
            time.sleep(0.3)
        results.put(run.name)
    except RunError:
        results.put(None)


@posix
@pytest.mark.parametrize("rounds", [1, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("name", ["a", None])
def test_processes_that_want_one_name_do_not_share_it(trial: Trials, name: str | None, rounds: int) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(rounds):
        with trial(number):
            results: Any = context.Queue()
            children = [context.Process(target=compete, args=(time.time() + 0.2, name, results)) for _ in range(6)]
            for child in children:
                child.start()
            made = [results.get(timeout=30) for _ in children]
            for child in children:
                child.join()
            if name:
                assert sorted(made, key=str) == [*[None] * 5, "a"]
            else:
                assert len(set(made)) == 6
                assert "derived" in made
            assert names() == sorted(filter(None, made))
            assert temporaries(runs_dir()) == []
            shutil.rmtree(runs_dir())


def test_a_derived_name_is_found_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "ATTEMPTS", 1)
    for _ in range(3):
        with new_run(None, "a") as run:
            run.write_info({})
    assert names() == ["a", "a-2", "a-3"]
