"""A function of the caller that sees every event of a training, and may stop it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Literal

from gpt2demo.training.events import Event, StopRequest

Callback = Callable[[Event], object]
"""Called with each event. If it returns "stop", the training ends before its next step, with a checkpoint."""


def with_callback(
    callback: Callback | None, stop: StopRequest, start: Callable[[StopRequest], Generator[Event]]
) -> Iterator[Event]:
    """Yield the events of a training, after passing each to a callback. If the callback raises, the training is left and saved.

    Args:
        callback: None for no callback.
        stop: as in `gpt2demo.train`.
        start: returns the events of the training that a stop request ends.
    """
    stopped = False

    def request() -> Literal["stopped", "interrupted"] | None:
        return "stopped" if stopped else stop()

    with closing(start(request)) as events:
        for event in events:
            if callback is not None and callback(event) == "stop":
                stopped = True
            yield event
