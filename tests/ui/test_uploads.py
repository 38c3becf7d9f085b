"""Uploads: a private folder that the next server removes if this one was killed, and a bound on the size of all files."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.routes import App
from webpage import PageServer

from gpt2demo.errors import CheckpointError
from gpt2demo.ui import server
from gpt2demo.ui.uploads import Uploads, upload_folder

BODY = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--b--\r\n'
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------------------------------------- the folder


def other_server(folder: Path) -> subprocess.Popen[str]:
    """Start a process that has received a file, in `folder`."""
    code = "from gpt2demo.ui.uploads import *\nwith upload_folder() as f: (f / 'a.txt').write_text('x'); print(f); input()"
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(folder)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_the_folder_of_a_killed_server_is_removed_and_that_of_a_living_one_stays(temporary: Path) -> None:
    killed, living = other_server(temporary), other_server(temporary)
    assert killed.stdout
    assert living.stdout
    left, used = Path(killed.stdout.readline().strip()), Path(living.stdout.readline().strip())
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (left / "a.txt").is_file()
    with upload_folder() as own:
        assert sorted(temporary.iterdir()) == sorted([own, used])
        assert own.stat().st_mode & 0o777 == 0o700
        assert (used / "a.txt").is_file()
    living.communicate("\n")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("process", ["1-0.0", "own id-5.0", "999999999-1.0"])
def test_a_process_is_identified_by_its_id_and_start(temporary: Path, process: str) -> None:
    name = f"gpt2demo-uploads-{process.replace('own id', str(os.getpid()))}-a"
    (temporary / name).mkdir()
    with upload_folder():
        assert not (temporary / name).exists()


@pytest.mark.parametrize("name", ["gpt2demo-a", "gpt2demo-uploads-x", "gpt2demo-uploads-9999999999999-1.0-a", "gpt2demo-bench-1"])
def test_other_folders_are_left_alone(temporary: Path, name: str) -> None:
    (temporary / name).mkdir()
    with upload_folder():
        assert (temporary / name).is_dir()


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_link_is_not_followed(temporary: Path) -> None:
    (temporary / "mine").mkdir()
    (temporary / "mine" / "kept").touch()
    (temporary / "gpt2demo-uploads-999999999-1.0-a").symlink_to(temporary / "mine")
    with upload_folder():
        assert (temporary / "mine" / "kept").exists()


def test_a_folder_that_cannot_be_created_is_named(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    with (
        pytest.raises(CheckpointError, match=r"missing/gpt2demo-uploads-.*: could not be written \(No such file"),
        upload_folder(),
    ):
        pass


# ---------------------------------------------------------------------------------------------- the bound


class Client:
    """Uploads to Gradio behind the middleware, with a limit of a megabyte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with gr.Blocks(analytics_enabled=False) as page:
            pass
        page.max_file_size = None
        self._app = Uploads(App.create_app(page), folder, limit=10**6)

    def upload(self, *files: tuple[bytes, bytes]) -> list[httpx.Response]:
        """Upload files, each with a request of its own and all at the same time."""

        async def post(client: httpx.AsyncClient, name: bytes, content: bytes) -> httpx.Response:
            return await client.post("/gradio_api/upload", content=BODY % (name, content), headers=FORM)

        async def post_all() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return list(await asyncio.gather(*(post(client, *file) for file in files)))

        return asyncio.run(post_all())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def client(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    server.isolate()
    with upload_folder() as folder:
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield Client(folder)


def test_uploads_within_the_limit_are_stored(client: Client) -> None:
    assert [client.upload((b"%d" % n, b"%d" % n * 200_000))[0].status_code for n in range(4)] == [200] * 4
    assert client.size == 800_000


def test_an_upload_beyond_the_limit_is_refused_with_the_reason_and_leaves_nothing(client: Client) -> None:
    client.upload((b"a", b"a" * 700_000))
    (response,) = client.upload((b"b", b"b" * 700_000))
    assert (response.status_code, client.size) == (413, 700_000)
    assert response.text == (
        "the uploads would exceed 1 MB, the maximum allowed size of all files together; they are removed after an hour, or when "
        "gpt2demo ends"
    )
    assert client.upload((b"c", b"c" * 50_000))[0].status_code == 200


def test_uploads_at_the_same_time_count_together(client: Client) -> None:
    statuses = sorted(response.status_code for response in client.upload(*((b"%d" % n, b"%d" % n * 300_000) for n in range(6))))
    assert statuses[-1] == 413
    assert client.size <= 10**6


def test_the_rest_of_an_upload_is_removed_whose_connection_was_closed(client: Client) -> None:
    (client.folder / "tmp12345").write_bytes(b"x" * 900_000)
    assert client.upload((b"a", b"a" * 700_000))[0].status_code == 200
    assert client.size == 700_000


# ---------------------------------------------------------------------------------------------- whole servers


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_server_removes_the_uploads_of_a_killed_one(temporary: Path, start_server: Any) -> None:
    with ExitStack() as stack:
        killed, living = start_server(temporary), start_server(temporary)
        for one in (killed, living):
            assert one.request("POST", "/gradio_api/upload", (BODY % (b"a.txt", b"hello")).decode(), FORM).status == 200
        assert len(list(temporary.glob("gpt2demo-uploads-*/*/a.txt"))) == 2
        killed.kill()
        new = PageServer(temporary)
        stack.callback(new.kill)
        assert len(list(temporary.glob("gpt2demo-uploads-*/*/a.txt"))) == 1
