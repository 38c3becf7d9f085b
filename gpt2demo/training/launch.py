"""Start the processes of a training on this machine, with PyTorch's elastic launcher, the engine of torchrun.

Each process is a `gpt2demo resume`, which finds the others through its environment. Torch is imported at the launch.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from gpt2demo.errors import CheckpointError, Error, ProcessError, Terminated, TrainingError, UserError
from gpt2demo.runs.folder import Run
from gpt2demo.storage import read_json, remove_folder
from gpt2demo.terminal import print_message
from gpt2demo.training.jobs import options

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

LAUNCHER = "gpt2demo-"  # start of the launch's name, which the processes find in their environment
SIGNALED = (129, 130, 143)  # exit codes after SIGHUP, SIGINT and SIGTERM
HEAD_START = 5  # seconds: an error that only follows from another process's end is not the cause of a failure


def launch(run: Run, processes: int, **changes: Any) -> None:
    """Train a prepared run in several processes, and wait until all of them have ended.

    Args:
        run: a prepared or interrupted run.
        processes: their number.
        changes: of its settings, as in `gpt2demo.training.resume`.

    Raises:
        Error: a process failed; the message is that of the first one. The others have been stopped.
        Terminated: a signal ended the training. On the way, each process received it.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost connection would be a warning of many lines
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "25")  # seconds between a signal and SIGKILL
    with tempfile.TemporaryDirectory(prefix=LAUNCHER) as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"{LAUNCHER}{uuid.uuid4()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        logging.disable()  # the launcher's reports of several lines; the cause is raised here
        try:
            elastic_launch(config, sys.executable)("-m", "gpt2demo", "resume", str(run.path.absolute()), *options(changes))
        except ChildFailedError as error:
            raise _failure(error, run, processes) from None
        except SignalException as error:
            _after_signal(run)
            raise Terminated(128 + error.sigval) from None
        finally:
            logging.disable(logging.NOTSET)


def _after_signal(run: Run) -> None:
    """Remove a run that a signal stopped before its training started; report that a process had to be killed."""
    if not run.has_state:
        remove_folder(run.path)
        return
    with suppress(CheckpointError):
        if read_json(run.path / "state.json").get("status") != "running":
            return
        text = "a process did not react to the signal and was killed"
        run.write_state(replace(run.read_state(), error=text))
        print_message(f"{text}; continue with `gpt2demo resume {run.name}`")


def launched_here() -> bool:
    """Return whether this process was started by `launch`, which prints its result and its error."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(LAUNCHER)


def leave(code: int) -> NoReturn:
    """End this process with an exit code. A launched one ends at once: torch's cleanup may wait for processes that have ended."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def is_first() -> bool:
    """Return whether this process is the first of those that a launcher started, or the only one."""
    return os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ


def report(error: BaseException, line: str) -> None:
    """Pass an error of this process to its launcher, if it has one.

    Args:
        error: the exception.
        line: its message in one line.
    """
    if (file := os.environ.get("TORCHELASTIC_ERROR_FILE")) is None:
        return
    code = getattr(error, "exit_code", Error.exit_code)
    values = {"message": line, "timestamp": int(time.time()), "exit_code": code, "follows": isinstance(error, ProcessError)}
    with suppress(OSError), open(file, "w", encoding="utf-8") as stream:  # noqa: PTH123  # not a file of the run
        json.dump(values, stream)


def _failure(error: ChildFailedError, run: Run, processes: int) -> BaseException:
    """Return the exception for a failed launch, and record its message as the reason in the run's state."""
    rank, failure = min(error.failures.items(), key=lambda item: _order(item[1]))
    if failure.exitcode in SIGNALED:  # someone sent the signal to one process
        return Terminated(failure.exitcode)
    if "exit_code" in failure.error_file_data:
        kind = UserError if failure.error_file_data["exit_code"] == UserError.exit_code else Error
        return kind(failure.message)
    end = f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with exit code {failure.exitcode}"
    text = f"process {rank} of {processes} {end}; continue with `gpt2demo resume {run.name}`"
    with suppress(CheckpointError):
        run.write_state(replace(run.read_state(), status="failed", error=text))
    return TrainingError(text)


def _order(failure: ProcessFailure) -> tuple[int, bool]:
    """Return the sort key that puts the cause of a failed launch first."""
    follows = bool(failure.error_file_data.get("follows"))
    return failure.timestamp + HEAD_START * follows, follows
