"""List the models that can be used, and keep a few of them loaded."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2demo.config import EngineName
from gpt2demo.engines.exported import is_export, stored_dtype
from gpt2demo.generation.generate import Model
from gpt2demo.generation.load import load
from gpt2demo.runs.find import list_runs
from gpt2demo.runs.folder import Run, exports_dir, runs_dir
from gpt2demo.storage import TEMPORARY

POOL_SIZE = 4
Key = tuple[str, EngineName, int]


def choices() -> list[tuple[str, str]]:
    """Return label and MODEL of every run with a checkpoint and of every export, newest first."""
    found = [(_saved_at(run.path), run.name, run.name) for run in list_runs() if _saved_at(run.path)]
    folder = exports_dir()
    candidates = folder.iterdir() if folder.is_dir() else ()
    exports = [path for path in candidates if not path.name.startswith(TEMPORARY) and is_export(path)]
    found += [(_saved_at(path), f"{path.name} (exported, {stored_dtype(path)})", str(path)) for path in exports]
    return [(label, model) for _, label, model in sorted(found, reverse=True)]


def runs() -> list[str]:
    """Return the names of the runs with a checkpoint, newest first."""
    return [run.name for run in list_runs() if _saved_at(run.path)]


def _saved_at(folder: Path) -> int:
    """Return when a run's newest checkpoint or an export was written, in nanoseconds; 0 if there is neither."""
    marks = [*Run(folder).checkpoints.glob("step-*/manifest.json"), *folder.glob("gpt2demo.json")]
    return max(map(_modified_at, marks), default=0)


def _modified_at(path: Path) -> int:
    """Return a file's modification time in nanoseconds; 0 if the trainer has just removed it with an old checkpoint."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class ModelPool:
    """Pool of idle models, least recently used first.

    An engine has one key/value cache, so a model generates one answer at a time. Two answers at the same time need two models.

    Args:
        size: maximum number of idle models.

    """

    def __init__(self, size: int = POOL_SIZE) -> None:
        self._size = size
        self._idle: list[tuple[Key, Model]] = []
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @contextmanager
    def borrow(self, name: str, engine: EngineName, warn: Callable[[str], object] = print) -> Iterator[Model]:
        """Take a model out of the pool for one answer, or load it. A newer checkpoint or export is loaded again.

        Args:
            name: a MODEL.
            engine: the engine to use.
            warn: called with each warning of gpt2demo while loading, such as an export older than its run.

        Yields:
            The model, which returns to the pool at the end of the block.

        Raises:
            Error: the model cannot be loaded.

        """
        key = (name, engine, max(_saved_at(path) for path in (runs_dir() / name, exports_dir() / name, Path(name))))
        model = self._take(key) or self._load(name, engine, warn)
        try:
            yield model
        finally:
            with self._lock:
                self._idle = [*self._idle, (key, model)][-self._size :]

    def _take(self, key: Key) -> Model | None:
        """Remove an idle model with this key from the pool and return it."""
        with self._lock:
            for index, (idle_key, model) in enumerate(self._idle):
                if idle_key == key:
                    del self._idle[index]
                    return model
        return None

    def _load(self, name: str, engine: EngineName, warn: Callable[[str], object]) -> Model:
        """Load a model (one at a time) and pass on the warnings of gpt2demo."""
        with self._loading, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module="gpt2demo")
            model = load(name, engine=engine)
        for warning in caught:
            warn(str(warning.message))
        return model
