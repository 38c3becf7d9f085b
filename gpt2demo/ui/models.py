"""Which models there are to talk to, and the few that are loaded."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2demo.config import EngineName
from gpt2demo.engines.exported import is_export
from gpt2demo.generation.generate import Model
from gpt2demo.generation.load import load
from gpt2demo.runs.find import list_runs
from gpt2demo.runs.folder import Run, exports_dir, runs_dir
from gpt2demo.storage import TEMPORARY

KEPT = 4
Key = tuple[str, EngineName, int]


def choices() -> list[tuple[str, str]]:
    """Label and MODEL of every run that has a checkpoint and of every export, the newest first."""
    found = [(_version(run.path), run.name, run.name) for run in list_runs() if _version(run.path)]
    folder = exports_dir()
    there = [path for path in folder.iterdir() if not path.name.startswith(TEMPORARY)] if folder.is_dir() else []
    exports = [path for path in there if is_export(path)]
    found += [(_version(path), f"{path.name} (exported)", str(path)) for path in exports]
    return [(label, model) for _, label, model in sorted(found, reverse=True)]


def runs() -> list[str]:
    """The runs that have a checkpoint, the newest first."""
    return [run.name for run in list_runs() if _version(run.path)]


def _version(folder: Path) -> int:
    """When a run's newest checkpoint or an export was written, in nanoseconds; 0 where there is neither."""
    marks = [*Run(folder).checkpoints.glob("step-*/manifest.json"), *folder.glob("gpt2demo.json")]
    return max(map(_written, marks), default=0)


def _written(mark: Path) -> int:
    """When a file was written, in nanoseconds; 0 where the trainer has just removed it with an old checkpoint."""
    try:
        return mark.stat().st_mtime_ns
    except OSError:
        return 0


class Loaded:
    """Loaded models that nobody uses at the moment, the most recently used last.

    An engine has one key/value cache, so a model writes one answer at a time: who wants an answer borrows a model and gives it
    back. Two answers at the same time take two models.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._idle: list[tuple[Key, Model]] = []
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @contextmanager
    def borrow(self, name: str, engine: EngineName, warn: Callable[[str], object] = print) -> Iterator[Model]:
        """A model for one answer; a run that was trained on or exported since is loaded anew.

        Args:
            name: a MODEL.
            engine: what shall compute.
            warn: told what the loading warns of, such as an export that is older than its run.

        Raises:
            Error: it cannot be loaded.

        """
        key = (name, engine, max(_version(path) for path in (runs_dir() / name, exports_dir() / name, Path(name))))
        model = self._take(key) or self._load(name, engine, warn)
        try:
            yield model
        finally:
            with self._lock:
                self._idle = [*self._idle, (key, model)][-self._kept :]

    def _take(self, key: Key) -> Model | None:
        """An idle model of this key, no longer idle."""
        with self._lock:
            for place, (there, model) in enumerate(self._idle):
                if there == key:
                    del self._idle[place]
                    return model
        return None

    def _load(self, name: str, engine: EngineName, warn: Callable[[str], object]) -> Model:
        """Load a model, one at a time, and pass on our own warnings."""
        with self._loading, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module="gpt2demo")
            model = load(name, engine=engine)
        for warning in caught:
            warn(str(warning.message))
        return model
