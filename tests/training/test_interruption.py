"""Signals, kills, full disks and second processes: no step is lost, and one process writes a run at a time."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from battery import Trials
from samples import SMALL, Cli, train_small

import gpt2demo
from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.events import Step
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run, State, process_alive
from gpt2demo.training import resume

posix = pytest.mark.skipif(os.name == "nt", reason="needs signals")


def start(text_file: Path, run: str, **settings: object) -> subprocess.Popen[bytes]:
    """Start `gpt2demo train` as a process."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in {**SMALL, **settings}.items()]
    command = [sys.executable, "-m", "gpt2demo", "train", str(text_file), "--run", run, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@posix
@pytest.mark.parametrize("trials", [1, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_signal_saves_a_checkpoint_and_a_second_one_ends_the_process(
    text_file: Path, tmp_path: Path, trial: Trials, trials: int
) -> None:
    """Every trial starts a process, which takes seconds. Every other one, from the first on, sends the signal twice."""
    rng = random.Random(1)
    for at in range(trials):
        with trial(at):
            twice, run = at % 2 == 0, f"r{at}"
            number = signal.SIGINT if twice else rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
            process = start(text_file, run, n_layer=1, n_embd=16, steps=1_000_000, eval_batches=1, sample_tokens=0, save_every=50)
            metrics = tmp_path / "runs" / run / "metrics.jsonl"
            wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"batch") > 60, process)
            time.sleep(rng.uniform(0, 0.5))
            process.send_signal(number)
            if twice:
                process.send_signal(number)
            assert process.wait(timeout=10) == 128 + number
            state = find_run(run).state()
            assert state.status == "interrupted"
            assert twice or checkpoint.newest(find_run(run).checkpoints).step == state.step


@posix
def test_a_killed_training_is_interrupted_and_resumes_exactly(text_file: Path) -> None:
    """Starts a process, which takes seconds."""
    settings = {"steps": 60, "save_every": 10, "threads": 1}
    process = start(text_file, "killed", **settings)
    folder = find_run_folder("killed")
    wait_for(lambda: any(folder.glob("checkpoints/step-*/manifest.json")), process)
    process.kill()
    process.wait()
    assert find_run("killed").state().status == "interrupted"
    resumed = [event for event in resume("killed") if isinstance(event, Step)]
    straight = [event for event in train_small(text_file, run="straight", **settings) if isinstance(event, Step)]
    assert resumed
    assert [(e.step, e.loss) for e in resumed] == [(e.step, e.loss) for e in straight[-len(resumed) :]]
    logged = [json.loads(line) for line in find_run("killed").metrics.read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in logged if record["split"] == "batch"] == list(range(1, 61)), "no step is lost or twice"


def find_run_folder(name: str) -> Path:
    return Path(os.environ["GPT2DEMO_RUNS_DIR"]) / name


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_resumes_exactly(
    small_disk: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("GPT2DEMO_RUNS_DIR", str(small_disk))
        events = gpt2demo.train(text_file, run="a", save_every=2, keep=1, **{**SMALL, "n_embd": 64, "threads": 1})
        with pytest.raises(CheckpointError, match=r"bytes are needed and [\d,]+ are free|No space left"):
            for event in events:
                if isinstance(event, Step) and event.step == 5:
                    (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))
        assert checkpoint.newest(find_run("a").checkpoints).step == 4
        (small_disk / "ballast").unlink()
        resumed = [event for event in resume("a") if isinstance(event, Step)]
    assert [event.step for event in resumed] == list(range(5, 13))
    straight = [event for event in train_small(text_file, n_embd=64) if isinstance(event, Step)]
    assert [event.loss for event in resumed] == [event.loss for event in straight[4:]]


# ---------------------------------------------------------------------------------------------- one writer


def test_a_second_training_of_a_run_is_refused(cli: Cli, text_file: Path) -> None:
    events = gpt2demo.train(text_file, run="a", **SMALL)
    next(events)
    with pytest.raises(RunError, match="is training it"):
        next(resume("a"))
    other = cli("resume", "a")
    assert other.returncode == 2
    assert f"process {os.getpid()} is training it" in other.stderr
    events.close()  # type: ignore[attr-defined]


def test_a_run_of_a_dead_process_is_interrupted_and_can_be_resumed(run_copy: Run) -> None:
    run_copy.write_state(State("running", 2**22 - 1, 1.0, 3, 12))
    assert run_copy.state().status == "interrupted"
    assert [event.step for event in resume("mine", steps=14) if isinstance(event, Step)] == [13, 14]


def test_a_process_is_recognized_by_its_id_and_start_time() -> None:
    mine = State.own("running")
    assert mine.alive
    assert process_alive(mine.pid, mine.pid_started)
    assert not process_alive(mine.pid, mine.pid_started - 100)
