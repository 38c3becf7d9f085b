"""Saving a checkpoint is atomic: a killed process and a failing disk leave the old checkpoint or the new one, never a part.

A short form of each test runs by default; `pytest -m slow tests/runs/test_crash_safety.py` runs the full numbers.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from battery import Trials
from saver import Fault, Saver

from gpt2demo.errors import CheckpointError
from gpt2demo.runs import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow
posix = pytest.mark.skipif(os.name == "nt", reason="needs fork and signals")


@pytest.fixture
def saver(tmp_path: Path) -> Saver:
    """A tiny model that has been saved as step 1, with a copy of that checkpoint for `restore`."""
    saver = Saver(tmp_path / "run", 16)
    saver.save(1)
    shutil.copytree(saver.folder, saver.folder.with_name("backup"))
    return saver


def restore(saver: Saver) -> None:
    shutil.rmtree(saver.folder)
    shutil.copytree(saver.folder.with_name("backup"), saver.folder)


def calls_of_a_save(saver: Saver) -> int:
    """Return the number of calls of the os module in a save with a prune."""
    with pytest.MonkeyPatch.context() as patch:
        (fault := Fault(0, lambda: None)).install(patch)
        saver.save(2)
    restore(saver)
    return fault.count


def assert_recovers(saver: Saver) -> None:
    """Check that a failed save left step 1 or 2, and that the next one succeeds; then restore step 1."""
    assert saver.newest() in (1, 2)
    saver.save(3)
    assert saver.newest() == 3
    restore(saver)


@posix
@pytest.mark.parametrize("trials", [6, pytest.param(200, marks=[slow, pytest.mark.timeout(3600)])])
def test_a_process_killed_at_a_random_time_while_saving_loses_no_reported_checkpoint(
    tmp_path: Path, trial: Trials, trials: int
) -> None:
    saver, rng, torn = Saver(tmp_path, 512 if trials > 100 else 64), random.Random(0), 0
    saver.save(1)
    for number in range(trials):
        with trial(number):
            start, (reader, writer) = saver.newest(), os.pipe()
            if not (pid := os.fork()):
                for step in range(start + 1, start + 10_000):
                    saver.save(step)
                    os.write(writer, step.to_bytes(4, "big"))
            os.close(writer)
            time.sleep(rng.uniform(0.0, 0.5))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            reported = os.read(reader, 10**6)
            os.close(reader)
            torn += any(path.name.startswith(".tmp-") or not (path / "manifest.json").exists() for path in saver.folder.iterdir())
            assert saver.newest() >= (int.from_bytes(reported[-4:], "big") if reported else start)
    assert torn, "no trial interrupted a save: the test proves nothing"


@posix
def test_a_process_killed_at_any_call_leaves_a_valid_checkpoint(saver: Saver, trial: Trials) -> None:
    total = calls_of_a_save(saver)
    assert total > 20
    for at in range(1, total + 1):
        with trial(at):
            if not (pid := os.fork()):
                with pytest.MonkeyPatch.context() as patch:
                    Fault(at, lambda: os.kill(os.getpid(), signal.SIGKILL)).install(patch)
                    saver.save(2)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
            assert_recovers(saver)


@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EROFS", "EDQUOT", "EMFILE", "EACCES"])
def test_an_error_at_any_call_leaves_the_old_checkpoint_and_is_reported_in_one_line(
    saver: Saver, trial: Trials, code: str
) -> None:
    number = getattr(errno, code)

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    for at in range(1, calls_of_a_save(saver) + 1, 1 if code == "ENOSPC" else 7):
        with trial(at):
            with pytest.MonkeyPatch.context() as patch:
                Fault(at, refuse).install(patch)
                try:
                    saver.save(2)
                except CheckpointError as error:
                    assert os.strerror(number) in str(error)
                    assert "\n" not in str(error)
            assert_recovers(saver)


STRACE = shutil.which("strace")
CHILD = """
import sys; from pathlib import Path; sys.path.insert(0, {tests!r}); import torch; torch.set_num_threads(1)
from saver import Saver
saver = Saver(Path({folder!r}), 64); saver.save(1); print("ready", flush=True)
try: saver.save(2)
except Exception as error: print(type(error).__name__, error, flush=True)
"""


@slow
@pytest.mark.skipif(not STRACE, reason="needs strace")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("action", ["signal=SIGKILL", "error=ENOSPC", "error=EIO"])
@pytest.mark.parametrize("call", ["fsync", "rename", "write", "unlinkat,unlink,rmdir"])
def test_faults_in_system_calls_leave_a_valid_checkpoint(tmp_path: Path, trial: Trials, call: str, action: str) -> None:
    """Cover libraries that bypass Python's os module. strace counts `when` over the whole process."""
    reached = 0
    for when in [1, 2, 3, 5, 8, 12, 17, 23]:
        with trial(when):
            folder = tmp_path / str(when)
            folder.mkdir()
            child = CHILD.format(tests=str(Path(__file__).parents[1]), folder=str(folder))
            target = ["-P", str(folder)] if call == "write" else []
            inject = ["-e", f"inject={call}:{action}:when={when}"]
            words = [str(STRACE), "-f", "-qq", "-o", "/dev/null", *target, *inject, sys.executable, "-c", child]
            done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
            assert "Traceback" not in done.stdout
            if "ready" in done.stdout:
                reached += 1
                checkpoint.clean(folder / "checkpoints")
                assert checkpoint.newest(folder / "checkpoints").step in (1, 2)
    assert reached, f"no child saved its first checkpoint:\n{done.stderr}"
