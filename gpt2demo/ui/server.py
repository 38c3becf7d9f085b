"""Launch the web page.

Gradio 6 reads some forty environment variables and contacts two servers when it starts. `isolate` switches this off, so it must
run before Gradio is imported.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gpt2demo.errors import RunError, SettingError
from gpt2demo.terminal import exit_on_signal, print_message
from gpt2demo.ui.guard import Guard
from gpt2demo.ui.uploads import FILE_LIMIT, Uploads, upload_folder

if TYPE_CHECKING:
    import gradio as gr


def launch(host: str = "127.0.0.1", port: int = 7860, browser: bool = True, auth: str | None = None) -> NoReturn:
    """Serve the page until Ctrl-C (exit code 130) or SIGTERM (143). A running training continues.

    Args:
        host: address to listen on; any but a loopback address requires `auth`.
        port: 0 selects a free port.
        browser: open the page in the browser.
        auth: login required to use the page, as `USER:PASSWORD`.

    Raises:
        UserError: the host requires a login, or the port is in use.

    """
    login = _login(auth, host)
    port = _free_port(host, port)
    signal.signal(signal.SIGTERM, exit_on_signal)
    _silence_invalid_requests()
    with upload_folder() as uploads:
        page = create_app(uploads)
        page.queue(api_open=False, max_size=32)
        try:
            _, url, _ = page.launch(**settings(host, port, uploads), inbrowser=browser, auth=login)
            print_message(f"gpt2demo: {url}  (press Ctrl-C to quit; a running training continues)")
            threading.Event().wait()
            raise AssertionError("the event is never set")
        finally:
            page.close(verbose=False)


def create_app(uploads: Path | None = None) -> gr.Blocks:
    """Return the page without launching it.

    Args:
        uploads: folder for uploaded files; default: Gradio's own.
    """
    isolate()
    if uploads is not None:
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    from gpt2demo.ui.app import build

    return build()


def isolate() -> None:
    """Set up the environment so that Gradio is private and makes no requests to other servers."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in ("NO_PROXY", "no_proxy"):  # Gradio requests its own page once to check that it is up
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost", "::1"]))


def _silence_invalid_requests() -> None:
    """Remove uvicorn's warnings, which are about requests that are not valid HTTP. The client gets 400."""
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.levelno >= logging.ERROR)


def settings(host: str, port: int, uploads: Path) -> dict[str, Any]:
    """Return the arguments of `gr.Blocks.launch`."""
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
        "max_file_size": FILE_LIMIT,
        "state_session_capacity": 200,
        "app_kwargs": {
            "middleware": [Middleware(Guard, hosts=_own_names(host)), Middleware(Uploads, folder=uploads)],
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


def _login(auth: str | None, host: str) -> tuple[str, str] | None:
    """Return user and password.

    Raises:
        SettingError: the login is malformed, or missing although other machines can connect.

    """
    if auth is None:
        if _is_loopback(host):
            return None
        raise SettingError(f"--host {host}: other machines could use the page; add --auth USER:PASSWORD")
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
    """Return the names that a browser may use for this server; None (any) if it listens on all addresses."""
    return None if host in ("0.0.0.0", "::") else {host.lower(), "localhost", "127.0.0.1", "::1"}


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        RunError: the port is in use, or the host is not an address of this machine.

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
        raise RunError(f"--host {host} --port {port}: cannot listen ({reason}); --port 0 selects a free port") from None
