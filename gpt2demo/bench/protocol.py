"""The programs that are compared: start them, let them take turns, compare their times, and answer as one of them.

A runner is a process that prints `ready` once it has loaded, then reads a request per line from stdin and answers each with a
line of JSON. The runners in `peers/` do not import this module: they may run in other environments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from gpt2demo.errors import RunError

PAUSE = 0.2
"""Seconds before each measurement: threads of the previous program spin for a while on cores that the next one needs."""
Result = dict[str, Any]
"""A line of JSON from a runner."""
Answer = Callable[[dict[str, Any]], Result]


@dataclass
class Runner:
    """A program and its results.

    Attributes:
        name: name in the table.
        command: command that starts the process.
        results: one for each round.
        error: why it failed.
    """

    name: str
    command: list[str]
    results: list[Result] = field(default_factory=list)
    error: str | None = None


def take_turns(runners: Sequence[Runner], work: dict[str, Any], rounds: int, report: Callable[[str], None]) -> None:
    """Start all runners and let each do the work once per round, after a round that is not counted.

    Args:
        runners: they get their results.
        work: the request.
        rounds: number of counted rounds.
        report: called with one line of text at each stage.

    Raises:
        RunError: a program failed.
    """
    with all_started(runners) as processes:
        measure(processes, runners, work, rounds, report)
    for runner in runners:
        if runner.error is not None:
            raise RunError(runner.error)


@contextmanager
def all_started(runners: Sequence[Runner]) -> Iterator[dict[str, Answer]]:
    """Run the processes of runners during the block; yield their functions by name. A runner that fails gets an `error`."""
    with ExitStack() as stack:
        processes: dict[str, Answer] = {}
        for runner in runners:
            with recorded(runner):
                processes[runner.name] = stack.enter_context(started(runner))
        yield processes


def measure(
    processes: dict[str, Answer], runners: Sequence[Runner], work: dict[str, Any], rounds: int, report: Callable[[str], None]
) -> None:
    """Let each runner do the work once per round, as `take_turns` does. One that fails gets an `error` and is left out."""
    for number in range(rounds + 1):
        report(f"round {number} of {rounds}" if number else "warming up")
        for runner in runners:
            if runner.error is not None:
                continue
            time.sleep(PAUSE)
            with recorded(runner):
                result = processes[runner.name](work)
                if number:
                    runner.results.append(result)


@contextmanager
def recorded(runner: Runner) -> Iterator[None]:
    """Keep the error of a runner that fails in the block."""
    try:
        yield
    except (RunError, OSError) as error:  # OSError: the process has ended and does not read
        runner.error = str(error)


@contextmanager
def started(runner: Runner) -> Iterator[Answer]:
    """Run a runner's process during the block; yield the function that sends a request and returns the result.

    Raises:
        RunError: the process cannot be started, or ended.
    """
    own = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}  # set by gpt2demo for its own process only
    environment = {name: value for name, value in os.environ.items() if name not in own}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(runner.command, env=environment, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def request(work: dict[str, Any]) -> Result:
            print(json.dumps(work), file=stdin, flush=True)
            result: Result = json.loads(_line(process, stdout, runner))
            return result

        while _line(process, stdout, runner) != "ready":  # libraries may print while they load
            pass
        yield request
        stdin.close()


def _line(process: subprocess.Popen[str], stdout: Any, runner: Runner) -> str:
    """Return the next line of a runner's output."""
    line: str = stdout.readline()
    if not line:
        errors = (process.stderr.read() if process.stderr else "").strip().splitlines()
        raise RunError(f"bench: {runner.name} failed: {errors[-1] if errors else 'no error message'}")
    return line.strip()


def serve(answer: Answer) -> None:
    """Process requests until stdin ends."""
    results, sys.stdout = sys.stdout, sys.stderr  # what a plugin prints is not a result
    print("ready", file=results, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=results, flush=True)


def ratios(times: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return times relative to those of another program, in each round."""
    return [time / other for time, other in zip(times, others, strict=True)]


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over the rounds of `ratios`."""
    return median(ratios(times, others))
