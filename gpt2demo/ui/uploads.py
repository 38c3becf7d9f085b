"""The uploads of a server: a private folder that the next server removes if this one is killed, and a bound on their size."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2demo.runs.folder import process_alive, process_start
from gpt2demo.storage import safe_check, write_error
from gpt2demo.ui.guard import App, Receive, Scope, Send

FILE_LIMIT = 200 * 10**6
"""Bytes of one file."""
TOTAL_LIMIT = 10**9
"""Bytes of all files that a server keeps. Gradio removes a file after an hour."""
_PREFIX = "gpt2demo-uploads-"
_NAME = re.compile(_PREFIX + r"(?P<pid>\d{1,9})-(?P<started>\d{1,12}\.\d)-\w+")


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Create the folder for uploads, with access for this user alone, and remove it at the end of the block.

    Its name holds the id and start time of this process. The folders of killed servers are removed first.

    Raises:
        CheckpointError: the folder cannot be created.
    """
    try:
        parent = Path(tempfile.gettempdir())
        _remove_abandoned(parent)
        prefix = f"{_PREFIX}{os.getpid()}-{process_start(os.getpid()) or 0.0:.1f}-"
        created = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise write_error(Path(error.filename or "the temporary folder"), error) from None
    with created as folder:
        yield Path(folder)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of servers whose process is gone."""
    for path in parent.glob(f"{_PREFIX}*"):
        found = _NAME.fullmatch(path.name)
        if found and not path.is_symlink() and not process_alive(int(found["pid"]), float(found["started"])):
            shutil.rmtree(path, ignore_errors=True)


class Uploads:
    """ASGI middleware that refuses an upload, with 413, if the files of this server would become too large.

    Args:
        app: the application behind this middleware, which is Gradio.
        folder: of the uploads: Gradio receives files directly in it, and moves complete ones into subfolders.
        limit: bytes of all files.
    """

    def __init__(self, app: App, folder: Path, limit: int = TOTAL_LIMIT) -> None:
        self._app = app
        self._folder = folder
        self._limit = limit
        self._uploading = 0  # requests
        self._receiving = 0  # bytes of these requests so far

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count the bytes of an upload."""
        if not is_upload(scope):
            await self._app(scope, receive, send)
            return
        if not self._uploading:
            self._receiving = 0
            self._remove_incomplete()
        self._uploading += 1
        try:
            await self._app(scope, self._counted(receive), send)
        finally:
            self._uploading -= 1

    def _counted(self, receive: Receive) -> Receive:
        """Return a function that receives the parts of a body within the limit."""
        from starlette.formparsers import MultiPartException

        free = self._limit - self._stored()

        async def receive_counted() -> Scope:
            message = await receive()
            self._receiving += len(message.get("body", b""))
            if self._receiving <= free:
                return message
            while message.get("more_body"):  # a browser reads the response only after it has sent everything
                message = await receive()
            raise MultiPartException(  # Gradio removes the incomplete files, and answers 413 because of the words "maximum …"
                f"the uploads would exceed {self._limit / 10**6:,.0f} MB, the maximum allowed size of all files together; "
                "they are removed after an hour, or when gpt2demo ends"
            )

        return receive_counted

    def _stored(self) -> int:
        """Return the bytes of the complete files."""
        files = (path for path in self._folder.rglob("*") if path.parent != self._folder)
        return sum(path.stat().st_size for path in files if safe_check(path.is_file))

    def _remove_incomplete(self) -> None:
        """Remove the files of uploads whose connection was closed."""
        for path in self._folder.iterdir():
            if path.is_file():
                path.unlink(missing_ok=True)


def is_upload(scope: Scope) -> bool:
    """Return whether a request uploads files."""
    is_post = scope["type"] == "http" and scope.get("method") == "POST"
    return is_post and scope.get("path", "").startswith("/gradio_api/upload")
