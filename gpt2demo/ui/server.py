"""Launch the page: who may connect, what may be fetched, what leaves the machine (nothing).

Gradio 6 listens to some forty environment variables and, left alone, asks two servers for news at its start. All of that is
switched off here, before it is imported.
"""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from gpt2demo.errors import RunError, SettingError
from gpt2demo.terminal import say, terminated

if TYPE_CHECKING:
    import gradio as gr

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

UPLOAD_LIMIT = "200mb"
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
_REMOTE_FILE = re.compile(rb"/(file|proxy)=[^?]*:", re.IGNORECASE)


def launch(host: str = "127.0.0.1", port: int = 7860, browser: bool = True, auth: str | None = None) -> NoReturn:
    """Serve the page until Ctrl-C (exit code 130) or SIGTERM (143). A training that was started goes on.

    Args:
        host: the address to listen on; another than this machine's own needs `auth`.
        port: 0 takes a free one.
        browser: open the page in the browser.
        auth: `USER:PASSWORD`, asked for before anything else.

    Raises:
        UserError: the host may not be used without a login, the port is taken.

    """
    login = _login(auth, host)
    port = _free_port(host, port)
    signal.signal(signal.SIGTERM, terminated)
    with tempfile.TemporaryDirectory(prefix="gpt2demo-", ignore_cleanup_errors=True) as folder:  # of mode 0700
        page = create_app(uploads=folder)
        page.queue(api_open=False, max_size=32)
        try:
            _, url, _ = page.launch(**settings(host, port), inbrowser=browser, auth=login)
            say(f"gpt2demo: {url}  (Ctrl-C ends it; a training goes on)")
            threading.Event().wait()
            raise AssertionError("the event is never set")
        finally:
            page.close(verbose=False)


def create_app(uploads: str | None = None) -> gr.Blocks:
    """The page, not launched.

    Args:
        uploads: the folder for uploaded files; Gradio's own when left out.
    """
    isolate()
    if uploads is not None:
        os.environ["GRADIO_TEMP_DIR"] = uploads
    from gpt2demo.ui.app import build

    return build()


def isolate() -> None:
    """Make sure that Gradio asks nobody for anything and that no environment variable opens a door."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in ("NO_PROXY", "no_proxy"):  # it asks itself once whether it is there
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost", "::1"]))


def settings(host: str, port: int) -> dict[str, Any]:
    """What `gr.Blocks.launch` is told; a test looks at it."""
    from starlette.middleware import Middleware

    from gpt2demo.ui.theme import CSS, theme

    return {
        "server_name": f"[{host}]" if ":" in host else host,
        "server_port": port,
        "share": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": ["settings"],
        "max_file_size": UPLOAD_LIMIT,
        "state_session_capacity": 200,
        "app_kwargs": {
            "middleware": [Middleware(Guard, hosts=_own_names(host))],
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
        },
        "theme": theme(),
        "css_paths": CSS,
        "quiet": True,
        "inline": False,
        "prevent_thread_lock": True,
    }


class Guard:
    """Lets in what this page asks of its own server, and tells the browser to fetch nothing from anywhere else.

    Args:
        app: what it guards.
        hosts: the names under which the server may be addressed (against DNS rebinding), or None for any.

    """

    def __init__(self, app: App, hosts: set[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""

        async def send_with_policy(message: Scope) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        from starlette.responses import PlainTextResponse

        refused = self._refused(scope) if scope["type"] in ("http", "websocket") else None
        app = PlainTextResponse(refused[1], refused[0]) if refused else self._app
        await app(scope, receive, send_with_policy)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, when a request is not from our page."""
        headers = dict(scope["headers"])
        host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin")
        if self._hosts is not None and urlsplit(f"//{host}").hostname not in self._hosts:
            return 400, "unknown host"
        if origin is not None and urlsplit(origin.decode("latin-1")).netloc != host:
            return 403, "another page may not do this"
        site, mode = headers.get(b"sec-fetch-site", b"none"), headers.get(b"sec-fetch-mode")
        if site not in (b"none", b"same-origin") and not (mode == b"navigate" and scope.get("method") == "GET"):
            return 403, "another page may not do this"
        if _REMOTE_FILE.search(scope.get("raw_path") or b""):
            return 403, "only files of this page"
        return None


def _login(auth: str | None, host: str) -> tuple[str, str] | None:
    """User and password.

    Raises:
        SettingError: they are malformed, or missing where other machines can connect.

    """
    if auth is None:
        if _is_loopback(host):
            return None
        raise SettingError(f"--host {host}: other machines could then use this page; give --auth USER:PASSWORD as well")
    user, colon, password = auth.partition(":")
    if not (user and colon and password):
        raise SettingError("--auth: expected USER:PASSWORD")
    return user, password


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_names(host: str) -> set[str] | None:
    """The names that a browser may use for this server; None for any, where it listens on all addresses."""
    return None if host in ("0.0.0.0", "::") else {host, "localhost", "127.0.0.1", "::1"}


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        RunError: it is taken, or the host is not an address of this machine.

    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            found: int = probe.getsockname()[1]
            return found
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"--host {host} --port {port}: cannot listen there ({reason}); --port 0 takes a free port") from None
