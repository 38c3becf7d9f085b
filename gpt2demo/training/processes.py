"""The processes of a training: what they share, what they decide together, and what the first one does alone.

A training in one process has a `Group` as well: its operations return their argument, and torch.distributed is not used. So the
training reads the same for one process and for many. Several processes are started by `launch.py` or by torchrun.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

from gpt2demo.errors import Error, ProcessError, SettingError, UserError, message
from gpt2demo.runs.folder import Run, State
from gpt2demo.training.watchdog import Watchdog

Request = Literal["stopped", "interrupted"] | None
Result = TypeVar("Result")

REQUESTS: tuple[Request, ...] = (None, "stopped", "interrupted")  # by rising priority
TIMEOUT = timedelta(minutes=10)  # of one operation; the others wait that long for a process that does not answer
GLOO = ("gloo/transport", "pair closure")  # in messages of the CPU's backend, whose exceptions have no type of their own
POLL = 0.1  # seconds between looks at the store


class Group:
    """The training's only process, and the interface of `Processes`.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank = 0
    size = 1

    @property
    def leader(self) -> bool:
        """True in the process that writes files, prints and calls plugins."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return this process's device of a kind: each process has a GPU of its own."""
        return device

    def run(self, run: Run) -> Run:
        """Return the run as this process uses it: the leader alone writes."""
        return run if self.leader else ReadOnlyRun(run.path)

    def share(self, count: int) -> range:
        """Return which of `count` items belong to this process: a contiguous part, of the same length in all if possible."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, which are on the CPU. It is exact where all but one of them are 0."""
        return values

    def vote(self, request: Request) -> Request:
        """Return the common decision of all processes whether to end: a request of any of them ends all."""
        return request

    def rescue(self, action: Callable[[], object]) -> None:
        """Have the leader run an action if a signal has to end it while it waits for another process."""

    def lead(self, action: Callable[[], Result]) -> Result:
        """Run an action in the leader and return its result, a JSON value, in all processes. An error ends all of them."""
        return action()


class Processes(Group):
    """One of several processes of a training, connected through torch.distributed.

    Args:
        store: shared by all processes.
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, which selects its GPU.
        timeout: of an operation in which all processes take part.
    """

    def __init__(
        self, store: distributed_c10d.Store, rank: int, size: int, local_rank: int | None = None, timeout: timedelta = TIMEOUT
    ) -> None:
        self.rank, self.size = rank, size
        self._local_rank = rank if local_rank is None else local_rank
        self._store = distributed_c10d.PrefixStore("gpt2demo", store)
        self._actions = 0
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        self._watchdog = Watchdog()
        with _connection():
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)

    def device(self, device: torch.device) -> torch.device:
        """Return this process's device of a kind.

        Raises:
            SettingError: this machine has fewer GPUs than processes, or torch cannot connect such devices.
        """
        if device.type == "cpu":
            return device
        if device.type != "cuda":
            raise SettingError(f"device={device.type!r}: trains in one process; try --nproc 1 or --device cpu")
        local = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        if local > (count := torch.cuda.device_count()):
            raise SettingError(f"nproc={local}: this machine has {count} GPUs; use at most that many, or --device cpu")
        torch.cuda.set_device(self._local_rank)
        return torch.device("cuda", self._local_rank)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the processes' tensors."""
        with _connection():
            dist.all_reduce(values)
        return values

    def vote(self, request: Request) -> Request:
        """Return the request of highest priority of any process."""
        votes = torch.tensor(REQUESTS.index(request))
        with _connection():
            dist.all_reduce(votes, dist.ReduceOp.MAX)
        decision = REQUESTS[int(votes)]
        if decision:
            self._watchdog.disarm()  # nothing blocks any more, and a checkpoint may take its time
        return decision

    def rescue(self, action: Callable[[], object]) -> None:
        """Have the leader run an action before the watchdog ends it."""
        if self.leader:
            self._watchdog.rescue = action

    def lead(self, action: Callable[[], Result]) -> Result:
        """Run an action in the leader; the others wait for its result or its error as long as it takes."""
        self._actions += 1
        key = f"action {self._actions}"
        if not self.leader:
            self._wait(key)
            answer = json.loads(self._broadcast(b""))
            if "exit_code" in answer:
                raise ProcessError(answer["message"], answer["exit_code"])
            received: Result = answer["result"]
            return received
        try:
            result = action()
        except Exception as error:
            self._publish(key, failure(error))
            raise
        self._publish(key, {"result": result})
        return result

    def _publish(self, key: str, answer: dict[str, Any]) -> None:
        """Send an answer to the other processes. If one has ended, the next operation reports that."""
        with suppress(RuntimeError):
            self._store.set(key, "")
        with suppress(RuntimeError, ProcessError):
            self._broadcast(json.dumps(answer).encode())

    def _broadcast(self, content: bytes) -> bytes:
        """Send bytes from the leader to the other processes; return them in all."""
        with _connection():
            length = torch.tensor(len(content))
            dist.broadcast(length, src=0)
            data = torch.tensor(list(content), dtype=torch.uint8) if self.leader else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(data, src=0)
        return bytes(data.tolist())

    def _wait(self, key: str) -> None:
        """Wait until the leader has set a key. Unlike the waiting operations of torch, this lets signal handlers run.

        Raises:
            ProcessError: the leader has failed.
        """
        with suppress(RuntimeError):  # the launcher was killed, and the store with it: the leader still answers
            while not self._store.check([key]):
                if self._store.check(["failure"]):
                    answer = json.loads(self._store.get("failure"))
                    raise ProcessError(answer["message"], answer["exit_code"])
                time.sleep(POLL)

    def close(self, error: BaseException | None = None) -> None:
        """Leave the group; after an error of the leader, tell the others, which may be waiting for it."""
        if error is None:
            dist.destroy_process_group()
        elif self.leader and isinstance(error, Exception):
            with suppress(RuntimeError):
                self._store.set("failure", json.dumps(failure(error)))
        self._watchdog.close()


class ReadOnlyRun(Run):
    """A run folder for the processes that do not lead: they read it, and leave writing to the leader."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Do nothing: the leader holds the lock."""
        yield

    @contextmanager
    def deleted_on(self, *errors: type[BaseException]) -> Iterator[None]:
        """Do nothing."""
        yield

    def clear_stop(self) -> None:
        """Do nothing."""

    def write_info(self, info: dict[str, Any]) -> None:
        """Do nothing."""

    def write_state(self, state: State) -> None:
        """Do nothing."""

    def append(self, path: Path, record: dict[str, Any]) -> None:
        """Do nothing."""

    def drop_records_after(self, step: int) -> None:
        """Do nothing."""


def failure(error: Exception) -> dict[str, Any]:
    """Return what the other processes learn about an error of the leader."""
    code = UserError.exit_code if isinstance(error, UserError) else Error.exit_code
    return {"message": message(error), "exit_code": code}


@contextmanager
def _connection() -> Iterator[None]:
    """Raise a ProcessError in place of torch's exceptions for a lost connection."""
    try:
        yield
    except RuntimeError as error:
        if not lost_connection(error):
            raise
        raise ProcessError(lost(error)) from None


def lost_connection(error: RuntimeError) -> bool:
    """Return whether an exception of torch means that another process has ended or does not answer."""
    return isinstance(error, dist.DistError) or any(text in str(error) for text in GLOO)


def lost(error: RuntimeError) -> str:
    """Return the message for a lost connection."""
    if "timed out" in str(error).lower() or "timeout" in str(error).lower():
        return "another process of the training did not answer in time"
    return "another process of the training has ended"


def launched() -> bool:
    """Return whether torchrun or `launch.py` started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextmanager
def join() -> Iterator[Group]:
    """Yield this process's group: with the other processes that the same launcher started, or alone."""
    if not launched() or os.environ["WORLD_SIZE"] == "1":
        yield Group()
        return
    with _connection():
        store, rank, size = next(rendezvous("env://"))
    with joined(Processes(store, rank, size, int(os.environ["LOCAL_RANK"]))) as group:
        yield group


@contextmanager
def joined(group: Processes) -> Iterator[Processes]:
    """Leave a group at the end of the block. All processes but the leader are silent in it."""
    with warnings.catch_warnings():
        if not group.leader:
            warnings.simplefilter("ignore")
        try:
            yield group
        except BaseException as error:
            group.close(error)
            raise
        group.close()
