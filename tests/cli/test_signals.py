"""Signals during training: a checkpoint and exit code 128 + signal, or no trace if training has not started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import SMALL_OPTIONS

from gpt2demo.cli.signals import Signals, catch_signals
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import find_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows does not have these signals")
CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gpt2demo", "train", *map(str, words)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_signal_during_training_saves_a_checkpoint(text_file: Path, tmp_path: Path) -> None:
    rare = [f"--{name}=100000" for name in ("steps", "eval-every", "save-every")]
    process = start(tmp_path, text_file, "--run", "cut", *SMALL_OPTIONS, *rare)
    metrics = tmp_path / "runs" / "cut" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"batch") >= 3, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, f"{tmp_path}/runs/cut\n")
    run = find_run("cut")
    assert run.state().status == "interrupted"
    assert checkpoint.newest(run.checkpoints).step == run.state().step >= 3


def test_a_signal_before_training_leaves_no_run(tmp_path: Path) -> None:
    process = start(tmp_path, "--dataset", "tales:stories=100000", "--run", "large")
    wait_for(lambda: any((tmp_path / "runs").glob(".tmp-large-*")), process)
    process.send_signal(signal.SIGTERM)
    output, messages = process.communicate(timeout=30)
    assert (process.returncode, output) == (143, "")
    assert "nothing was saved" in messages
    assert "Traceback" not in messages
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), CODES)
def test_every_signal_requests_the_end_of_training(number: int, code: int) -> None:
    with catch_signals() as signals:
        signals.training = True
        assert (signals.stop(), signals.exit_code) == (None, 0)
        os.kill(os.getpid(), number)
        assert (signals.stop(), signals.exit_code) == ("interrupted", code)


@pytest.mark.parametrize(("number", "code"), CODES)
def test_every_signal_before_training_exits(number: int, code: int) -> None:
    with catch_signals(), pytest.raises(SystemExit) as exit_:
        os.kill(os.getpid(), number)
    assert exit_.value.code == code


def test_a_second_signal_stops_training_immediately() -> None:
    with catch_signals() as signals:
        signals.training = True
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """With `nohup`, a training continues when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_signals() as signals:
            signals.training = True
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.stop() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_previous_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with catch_signals():
        assert isinstance(signal.getsignal(signal.SIGTERM), Signals)
    assert signal.getsignal(signal.SIGTERM) is before
