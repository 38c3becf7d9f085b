"""The server: login and port, an environment and settings that keep the page private, and the guard in front of Gradio."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from queue_client import QueueClient
from webpage import PageServer

from gpt2demo.errors import RunError, SettingError
from gpt2demo.training import jobs
from gpt2demo.ui import create_app, guard, launch, server
from gpt2demo.ui.uploads import FILE_LIMIT

# ---------------------------------------------------------------------------------------------- launch


@pytest.mark.parametrize(("arguments", "message"), [
    ({"host": "0.0.0.0"}, "--auth USER:PASSWORD"),
    ({"host": "::"}, "--auth USER:PASSWORD"),
    ({"host": "192.168.1.5"}, "--auth USER:PASSWORD"),
    ({"host": "example.org"}, "--auth USER:PASSWORD"),
    ({"auth": "me"}, "expected USER:PASSWORD"),
    ({"auth": ":secret"}, "expected USER:PASSWORD"),
])  # fmt: skip
def test_a_login_is_required_if_other_machines_can_connect(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        launch(**arguments)


def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RunError, match=r"--port \d+: cannot listen"):
        launch(port=taken.getsockname()[1])


def test_launch_passes_on_login_and_settings_and_closes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}

    class Page:
        def queue(self, **options: Any) -> None:
            calls["queue"] = options

        def launch(self, **options: Any) -> None:
            calls["launch"] = options
            raise KeyboardInterrupt

        def close(self, verbose: bool) -> None:
            calls["closed"] = True

    monkeypatch.setattr(server, "create_app", lambda uploads: Page())
    monkeypatch.setattr(server.signal, "signal", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        launch(port=0, browser=False, auth="me:secret:with colon")
    assert calls["queue"]["api_open"] is False
    assert calls["launch"]["auth"] == ("me", "secret:with colon")
    assert calls["launch"]["inbrowser"] is False
    assert calls["launch"].keys() >= server.settings("127.0.0.1", 0, Path("x")).keys()
    assert calls["closed"]


# ---------------------------------------------------------------------------------------------- privacy


def test_environment_variables_cannot_make_the_page_public(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHARE", "ALLOWED_PATHS", "VIBE_MODE", "MCP_SERVER", "ANALYTICS_ENABLED", "SERVER_NAME"):
        monkeypatch.setenv(f"GRADIO_{name}", "True")
    server.isolate()
    remaining = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    assert remaining == {"GRADIO_ANALYTICS_ENABLED": "False"}
    assert "127.0.0.1" in os.environ["NO_PROXY"]
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["HF_HUB_DISABLE_TELEMETRY"]) == ("1", "1")


@pytest.mark.parametrize(("setting", "value"), [
    ("server_name", "127.0.0.1"),
    ("share", False),  # no tunnel to a public address
    ("ssr_mode", False),  # no second server in Node.js
    ("pwa", False),
    ("mcp_server", False),  # no endpoints for tools
    ("enable_monitoring", False),  # no page with the usage by others
    ("run_history", False),  # no stored inputs and outputs
    ("footer_links", ["settings"]),  # no link to the API page
    ("max_file_size", FILE_LIMIT),
])  # fmt: skip
def test_a_setting_keeps_the_page_private(setting: str, value: object) -> None:
    assert setting in inspect.signature(gr.Blocks.launch).parameters
    assert server.settings("127.0.0.1", 7860, Path("x"))[setting] == value


def test_files_outside_of_the_upload_folder_are_not_allowed() -> None:
    assert (
        not {"allowed_paths", "root_path", "auth_dependency", "strict_cors"}
        & server.settings("127.0.0.1", 7860, Path("x")).keys()
    )


def test_every_request_passes_the_guard_and_the_api_is_not_documented() -> None:
    options = server.settings("127.0.0.1", 7860, Path("x"))["app_kwargs"]
    assert [entry.cls for entry in options["middleware"]] == [server.Guard, server.Uploads]
    assert (options["docs_url"], options["redoc_url"], options["openapi_url"]) == (None, None, None)


def test_nothing_can_be_called_without_the_queue(served: PageServer) -> None:
    page = create_app()
    assert all(function.queue for function in page.fns.values())
    for name in {str(function.api_name) for function in page.fns.values()}:
        body = json.dumps({"data": [], "session_hash": "x"})
        assert served.request("POST", f"/gradio_api/run/{name}", body).status in (404, 500), name
    for index in page.fns:
        body = json.dumps({"data": [], "fn_index": index, "session_hash": "x"})
        assert served.request("POST", "/gradio_api/run/predict", body).status == 404
    assert not jobs.running()


def test_uploads_go_to_a_private_folder_and_can_be_read_back(served: PageServer) -> None:
    body = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--b--\r\n'
    response = served.request("POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert response.status == 200
    (folder,) = served.folder.glob("gpt2demo-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    (path,) = folder.rglob("a.txt")
    assert served.request("GET", f"/gradio_api/file={path}").body == b"hello"


# ---------------------------------------------------------------------------------------------- the guard


@pytest.mark.parametrize(("path", "headers", "status"), [("/", {}, 200), ("/", {"Host": "evil.com"}, 400), ("/docs", {}, 404)])
def test_every_response_has_a_content_security_policy(served: PageServer, path: str, headers: Any, status: int) -> None:
    response = served.request("GET", path, headers=headers)
    assert response.status == status
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'self' ")
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"https?:|\*", policy)
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", [
    *("evil.com", "127.0.0.1.evil.com", "evil.com:7860", "192.168.1.5", "localhost.evil.com", "127.1", "0x7f000001"),
    *("evil@localhost", "localhost@evil.com", "localhost/x", "localhost#x", "localhost evil.com", "localhost,evil.com"),
    *("", "[", "]", "[]", "[::1", "[::1]x", "[v1.x]", ":", ":80", "a:b:c", "127.0.0.1:", "localhost:x", "localhost:-1"),
    *("\xff\xfe", "m\xfcnchen", "x" * 50_000),
], ids=lambda host: host[:20])  # fmt: skip
def test_another_host_name_is_refused(served: PageServer, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/queue/join")):
        response = served.request(method, path, headers={"Host": host})
        assert (response.status, response.body) == (400, b"unknown host")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1234", "[::1]:7860"])
def test_the_names_of_this_machine_are_accepted(served: PageServer, host: str) -> None:
    assert served.request("GET", "/config", headers={"Host": host}).status == 200


@pytest.mark.parametrize("headers", [
    {"Origin": "http://evil.com"},
    {"Origin": "null"},
    *({"Origin": f"http://{host}"} for host in ("[", "]", "", ":", "\xff", "x" * 50_000)),
    *({"Origin": origin} for origin in ("", "[", "//", "http:", "://127.0.0.1", "file://")),
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "\xff"},
], ids=lambda headers: str(headers)[:60])  # fmt: skip
def test_requests_of_other_sites_are_refused(served: PageServer, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/upload"), ("GET", "/config")):
        response = served.request(method, path, headers=headers)
        assert (response.status, response.body) == (403, b"requests of other sites are refused")


@pytest.mark.parametrize("name", ["host", "origin", "sec-fetch-site", "sec-fetch-mode"])
def test_a_repeated_header_is_refused(name: str) -> None:
    values = {"host": b"127.0.0.1", "origin": b"http://127.0.0.1"}
    headers = {**values, "sec-fetch-site": b"same-origin", "sec-fetch-mode": b"cors"}
    once = [(key.encode(), value) for key, value in headers.items()]
    assert passed("/", headers=once)
    assert not passed("/", headers=[*once, (name.encode(), b"evil.com")])
    assert not passed("/", headers=[(name.encode(), b"evil.com"), *once])


def test_a_link_on_another_site_may_open_the_page_but_not_send_a_form(served: PageServer) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert served.request("GET", "/", headers=link).status == 200
    assert served.request("POST", "/gradio_api/queue/join", headers=link).status == 403


def test_the_page_itself_may_send_requests(served: PageServer) -> None:
    own = {"Origin": f"http://127.0.0.1:{served.port}", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert served.request("GET", "/config", headers=own).status == 200


RAW = [
    *(
        b"\0\1\2\r\n\r\n",
        b"\x16\x03\x01\0\xa5\x01\0\0\xa1\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\r\n\r\n",
    ),
    *(b"G\xffT / HTTP/1.1\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"),
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    *(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + line + b"\r\n\r\n" for line in (b"no colon", b"X: \0")),
    *(
        b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\n" + lines + b"\r\n\r\nzz\r\n\r\n"
        for lines in (b"Content-Length: -1", b"Content-Length: 1\r\nContent-Length: 2", b"Transfer-Encoding: chunked")
    ),
]
"""Requests that are not valid HTTP."""


@pytest.mark.parametrize("request_", RAW, ids=lambda raw: ascii(raw)[2:40])
def test_a_request_that_is_not_http_is_refused_quietly(served: PageServer, request_: bytes) -> None:
    """The server's fixture checks that it has printed nothing."""
    assert send_raw(served, request_).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("headers", [
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade\r\nUpgrade: h2c",
    b"X: " + b"x" * 50_000,
    b"\r\n".join(b"X%d: x" % number for number in range(5000)),
], ids=lambda headers: headers[:30].decode())  # fmt: skip
def test_unusual_headers_are_ignored_quietly(served: PageServer, headers: bytes) -> None:
    answer = send_raw(served, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + headers + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def send_raw(server: PageServer, request: bytes) -> bytes:
    """Send bytes to a server, and return the start of its answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request)
        return connection.recv(100)


def test_the_body_of_a_request_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_LIMIT", 100)
    assert passed("/gradio_api/queue/join", method="POST", body=[b"[" + b" " * 90, b"]"])
    assert not passed("/gradio_api/queue/join", method="POST", body=[b"[" + b" " * 60, b" " * 60, b"]"])


@pytest.mark.parametrize("body", [
    *("", "{", "\xff", "[" * 100_000, "9" * 5000),
    *(json.dumps({"data": [], "fn_index": 0, "session_hash": name}) for name in ("\ud800", "", "../x", "x" * 65, 7)),
    *(json.dumps({"data": [], "fn_index": index, "session_hash": "a"}) for index in (99_999, -1)),
], ids=lambda body: body[:60])  # fmt: skip
def test_an_invalid_event_is_refused_and_harms_no_later_one(served: PageServer, body: str) -> None:
    """With a session that is not valid UTF-8, Gradio would fail at every later event."""
    response = served.request("POST", "/gradio_api/queue/join", body)
    assert (response.status, response.body.startswith(b"invalid ")) == (400, True)
    client = QueueClient(served)
    ((_, answer),) = client.send(0, [("select the example text", ["tales"])])
    assert answer
    assert answer.success


def test_the_events_of_an_unknown_session_end_with_a_message(served: PageServer) -> None:
    response = served.request("GET", "/gradio_api/queue/data?session_hash=unknown")
    assert response.status == 200
    assert b'"session_not_found":true' in response.body


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listen on a free port; check after the test that nothing has connected."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


ROUTES = ("/gradio_api/file=", "/gradio_api/file%3D", "/gradio_api/%66ile=", "/gradio_api/file/", "/file=", "/file/")
PROXIES = ("/gradio_api/proxy=", "/gradio_api/proxy%3d", "/gradio_api/pro%78y=", "/proxy=")
URLS = ("http://{}/x", "https://{}/x", "HTTP://{}/x", "http%3A//{}/x", "http:%2F%2F{}/x", "%68ttp://{}/x", "ftp://{}/x")


@pytest.mark.parametrize("route", ROUTES + PROXIES)
@pytest.mark.parametrize("url", URLS)
def test_remote_files_are_refused(served: PageServer, listener: socket.socket, route: str, url: str) -> None:
    """The reason is compared as well: Gradio refuses private addresses with 403, but would fetch from public ones."""
    host, port = listener.getsockname()
    response = served.request("GET", route + url.format(f"{host}:{port}"))
    assert (response.status, response.body) == (403, b"remote files are refused")


@pytest.mark.parametrize("path", ["//evil.com/share/x", "%2F%2Fevil.com/share/x", "%5C%5Cevil.com/share/x"])
def test_network_paths_are_refused(served: PageServer, path: str) -> None:
    """On Windows opening `//HOST/SHARE` contacts the host."""
    response = served.request("GET", f"/gradio_api/file={path}")
    assert (response.status, response.body) == (403, b"remote files are refused")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/gradio_api/file=/etc/passwd", 403),
    ("GET", "/docs", 404),
    ("GET", "/redoc", 404),
    ("GET", "/openapi.json", 404),
    ("GET", "/monitoring/summary", 403),
    ("GET", "/gradio_api/mcp/", 404),
])  # fmt: skip
def test_gradio_serves_neither_other_files_nor_its_other_pages(served: PageServer, method: str, path: str, status: int) -> None:
    assert served.request(method, path).status == status


def passed(path: str, *, hosts: set[str] | None = None, body: Sequence[bytes] = (), **scope: object) -> bool:
    """Return whether the guard passes a request, with a body in parts, on to the application."""
    reached, sent = [], []
    parts = [{"type": "http.request", "body": part, "more_body": part is not body[-1]} for part in body]

    async def receive() -> Any:
        return parts.pop(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    request = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"127.0.0.1")], **scope}
    asyncio.run(server.Guard(app, hosts)(request, receive, send))
    assert bool(reached) != bool(sent)
    return bool(reached)


@pytest.mark.parametrize("path", [
    "/gradio_api/file=/tmp/gpt2demo-x/a: b.txt",
    "/gradio_api/file=C:/Users/me/a.txt",
    "/gradio_api/file=C:\\Users\\me\\a.txt",
    "/assets/index-1.js",
])  # fmt: skip
def test_local_files_reach_gradio(path: str) -> None:
    assert passed(path)


def test_a_refused_request_never_reaches_gradio() -> None:
    assert not passed("/gradio_api/file=https://example.org/a.txt")
    assert not passed("/", hosts={"localhost"})


def test_websockets_are_guarded_too() -> None:
    assert passed("/", type="websocket", hosts={"127.0.0.1"})
    assert not passed("/", type="websocket", hosts={"localhost"})
    assert not passed("/", type="websocket", headers=[(b"host", b"127.0.0.1"), (b"origin", b"http://evil.com")])


def test_a_server_on_all_addresses_accepts_any_host_name() -> None:
    middleware, _ = server.settings("0.0.0.0", 7860, Path("x"))["app_kwargs"]["middleware"]
    assert middleware.kwargs["hosts"] is None
    middleware, _ = server.settings("MyHost", 7860, Path("x"))["app_kwargs"]["middleware"]
    assert middleware.kwargs["hosts"] == {"myhost", "localhost", "127.0.0.1", "::1"}
