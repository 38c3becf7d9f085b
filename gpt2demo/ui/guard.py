"""ASGI middleware that refuses requests which do not come from the page, and invalid ones that Gradio does not check."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gpt2demo.terminal import one_line

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Refusal = tuple[int, str]
"""HTTP status and reason."""

BODY_LIMIT = 200 * 10**6
"""Bytes of a body that is not an upload."""
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
CHECKED_HEADERS = (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/?#@\[\]]+))(?::[0-9]{1,5})?", re.IGNORECASE)
_REMOTE_FILE = re.compile(r"/proxy=|/file[=/]([/\\]{2}|[a-z][a-z0-9+.-]+:)", re.IGNORECASE)
"""A proxied URL, a file with a URL scheme (two letters or more: `C:` is a drive), or a network path of Windows."""
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
OTHER_SITE = (403, "requests of other sites are refused")


class Guard:
    """ASGI middleware that refuses invalid requests and those of other sites or for remote files, and adds a security policy.

    The data of a POST may still name a URL that Gradio then downloads (from public addresses alone), but other sites cannot send
    such a POST.

    Args:
        app: the application behind this middleware.
        hosts: names that a browser may use for this server; None for any.

    """

    def __init__(self, app: App, hosts: set[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 400 or 403."""
        from starlette.responses import PlainTextResponse

        started = False

        async def send_with_policy(message: Scope) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if not refusal and _has_json(scope):
            body, receive = await _read(receive)
            refusal = _body_refusal(body) if len(body) <= BODY_LIMIT else (413, f"larger than {BODY_LIMIT / 10**6:,.0f} MB")
        try:
            app = PlainTextResponse(refusal[1], refusal[0]) if refusal else self._app
            await app(scope, receive, send_with_policy)
        except Exception as error:  # Gradio raises KeyError and others for unknown sessions, event listeners and components
            if scope["type"] != "http":
                raise
            if started:
                await send({"type": "http.response.body", "body": b""})
            else:
                reason = one_line(f"invalid request ({type(error).__name__})")
                await PlainTextResponse(reason, 400)(scope, receive, send_with_policy)

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Return status and reason if the request is to be refused because of its headers or path."""
        counts = Counter(name for name, _ in scope["headers"])
        if any(counts[name] > 1 for name in CHECKED_HEADERS):
            return 400, "repeated header"
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if self._hosts is not None and _hostname(host) not in self._hosts:
            return 400, "unknown host"
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return OTHER_SITE
        site, mode = headers.get(b"sec-fetch-site", "none"), headers.get(b"sec-fetch-mode")
        if site not in ("none", "same-origin") and not (mode == "navigate" and scope.get("method") == "GET"):
            return OTHER_SITE
        if _REMOTE_FILE.search(scope["path"]):  # the decoded path: it is what Gradio's routes match
            return 403, "remote files are refused"
        return None


def _hostname(host: str) -> str | None:
    """Return the name in a Host header, without the port; None if it is malformed."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else None


def _has_json(scope: Scope) -> bool:
    """Return whether a request to Gradio has a JSON body: all that are sent with POST, except uploads."""
    path = scope.get("path", "")
    return scope.get("method") == "POST" and path.startswith("/gradio_api/") and not path.startswith("/gradio_api/upload")


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """Read the body of a request; return it, and a function to receive it again. A body above the limit is cut there."""
    messages: list[Scope] = []
    size, more = 0, True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        if size <= BODY_LIMIT:
            messages.append(message)
            size += len(message.get("body", b""))
    body = b"".join(message.get("body", b"") for message in messages)
    unread = iter(messages)

    async def receive_again() -> Scope:
        return next(unread, None) or await receive()

    return body, receive_again


def _body_refusal(body: bytes) -> Refusal | None:
    """Return status and reason if a body is to be refused.

    The session must be checked: with a name that is not valid UTF-8, Gradio fails at every later event of every browser.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return 400, "invalid JSON"
    session = content.get("session_hash") if isinstance(content, dict) else None
    if session is not None and not (isinstance(session, str) and _SESSION.fullmatch(session)):
        return 400, "invalid session"
    return None
