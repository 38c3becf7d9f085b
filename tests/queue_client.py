"""A client of Gradio's queue that sends any values to any event listener, and values that no page would send."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from webpage import PageServer

AT_ONCE = 24  # requests; the queue accepts 32
INVALID: tuple[Any, ...] = (
    *(None, True, 7, -1, 10**400, 1e308, float("nan"), float("inf")),
    *("unknown", "../x", "/etc/passwd", "\0", "\ud800", "1e999", "9" * 5000, "x" * 100_000),
    *([], ["hostile"], [[["x"]]], {}, {"value": "x"}, {"path": "/etc/passwd"}),
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
)
"""Values that are wrong for most inputs."""
Requests = list[tuple[str, list[Any]]]
"""Pairs of a description and the values of all inputs."""


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Attributes:
        success: whether the event listener returned.
        error: the message otherwise.
    """

    success: bool
    error: str | None = None

    @property
    def is_message(self) -> bool:
        """True for a short message of one line that is not about a bug."""
        return bool(self.error) and "\n" not in self.error and len(self.error) < 1000 and "unexpected" not in self.error


class QueueClient:
    """Sends requests to a server."""

    def __init__(self, server: PageServer) -> None:
        self._server = server
        config = json.loads(server.request("GET", "/config").body)
        self.components = {one["id"]: one for one in config["components"]}
        self.listeners: dict[int, list[int]] = {one["id"]: one["inputs"] for one in config["dependencies"]}

    def values(self, index: int) -> list[Any]:
        """Return the initial values of an event listener's inputs, with the name of an existing run: no training can start."""
        names = {"run-name": "hostile"}
        return [names.get(self.name(one), self.components[one]["props"].get("value")) for one in self.listeners[index]]

    def name(self, component: int) -> str:
        """Return a component's element id or type."""
        return str(self.components[component]["props"].get("elem_id") or self.components[component]["type"])

    def send(self, index: int, requests: Requests) -> Iterator[tuple[str, Answer | None]]:
        """Send requests to an event listener; yield the description and answer of each, None if there is none."""
        for start in range(0, len(requests), AT_ONCE):
            some = requests[start : start + AT_ONCE]
            events = [self._join(index, values) for _, values in some]
            answers = self._answers()
            yield from ((what, answers.get(event)) for (what, _), event in zip(some, events, strict=True))

    def _join(self, index: int, values: list[Any]) -> str:
        """Send a request and return its event id."""
        body = json.dumps({"data": values, "fn_index": index, "session_hash": "test"})
        response = self._server.request("POST", "/gradio_api/queue/join", body)
        assert response.status == 200, response
        return str(json.loads(response.body)["event_id"])

    def _answers(self) -> dict[str, Answer]:
        """Return the answers to all requests by event id."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=120)
        try:
            connection.request("GET", "/gradio_api/queue/data?session_hash=test")
            lines = (line for line in connection.getresponse() if line.startswith(b"data: "))
            messages = [json.loads(line.removeprefix(b"data: ")) for line in lines]
        finally:
            connection.close()
        done = [message for message in messages if message["msg"] == "process_completed"]
        return {one["event_id"]: Answer(one["success"], one["output"].get("error")) for one in done}


def invalid_requests(client: QueueClient, *, every: int) -> Iterator[tuple[int, Requests]]:
    """Yield every event listener and requests to it: too few values, too many, and an invalid one for each input.

    Args:
        client: has the event listeners.
        every: 1 for all values, 2 for every second one, and so on. The name of the run is changed only with 1.
    """
    sent = 0
    for index, inputs in client.listeners.items():
        values = client.values(index)
        requests: Requests = [(f"{index}: no values", []), (f"{index}: too many values", [*values, 1])]
        for place, component in enumerate(inputs):
            for value in INVALID:
                sent += 1
                if sent % every == 0 and (every == 1 or client.name(component) != "run-name"):
                    what = f"{index}: {client.name(component)}={str(value)[:40]!r}"
                    requests.append((what, [*values[:place], value, *values[place + 1 :]]))
        yield index, requests
