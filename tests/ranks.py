"""Run a function in several forked processes, connected as the processes of a training."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from gpt2demo.training.processes import Processes, joined

TIMEOUT = timedelta(seconds=60)


def on_ranks(folder: Path, function: Callable[[Processes], Any], *, size: int = 2, timeout: timedelta = TIMEOUT) -> list[Any]:
    """Run a function in `size` processes that are forked from this one, which has torch imported; return its results by rank.

    Args:
        folder: a new folder for the store and the results.
        function: called with the group; returns a JSON value. An exception is returned as its type and message.
        size: number of processes.
        timeout: of an operation of the group.
    """
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the tests use one thread, so forking is safe
        children = [os.fork() or _run(folder, function, rank, size, timeout) for rank in range(size)]
    for child in children:
        os.waitpid(child, 0)
    files = [folder / f"{rank}.json" for rank in range(size)]
    return [json.loads(file.read_text(encoding="utf-8")) if file.exists() else None for file in files]


def _run(folder: Path, function: Callable[[Processes], Any], rank: int, size: int, timeout: timedelta) -> int:
    """Run a function in a forked process and end the process."""
    result = None
    try:
        torch.set_num_threads(1)
        store = distributed.FileStore(str(folder / "store"), size)
        with joined(Processes(store, rank, size, timeout=timeout)) as group:
            result = function(group)
    except BaseException as error:
        traceback.print_exc()
        result = [type(error).__name__, str(error)]
    finally:
        (folder / f"{rank}.json").write_text(json.dumps(result), encoding="utf-8")
        sys.stderr.flush()
        os._exit(0)
    return 0
