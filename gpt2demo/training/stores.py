"""Stores: tokenizer and ids of a large text, prepared once for all runs with the same text and settings.

runs/.data/KEY/
  tokenizer/  data/     what a run has too: it gets hard links to these files, or copies where the disk has none
  store.json            what KEY is the checksum of
  texts/SIGNATURE.json  the text's part of run.json, for each list of files with this content
  texts/SIGNATURE.jsonl the list of files if it is long

A run is whole without its store, which only saves time and space. A file counts as unchanged if its path, size and time of last
change (in nanoseconds) are; otherwise its content is read and compared by SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import filelock

from gpt2demo import plugins
from gpt2demo.data.corpus import Corpus, Survey
from gpt2demo.data.generated import DATASET, is_generated
from gpt2demo.data.sources import is_url
from gpt2demo.errors import CheckpointError, RunError, UserError
from gpt2demo.progress import task
from gpt2demo.runs import checkpoint
from gpt2demo.runs.folder import Run, runs_dir
from gpt2demo.storage import flush, fsync, read_json, remove_folder, sha256, write_error, write_json
from gpt2demo.training.text import TextPlan, describe_text, encode_text, survey_text, write_files

STORED = 2**23  # bytes of text from which on a store is used; less is prepared in a second or two
FORMAT = 1  # of splitting, sampling and dividing into batches: a change makes other stores, and continues none
FILES = "files.jsonl"


def prepare_text(plan: TextPlan, run: Run) -> dict[str, Any]:
    """Write the tokenizer and the ids of a run, and return the text's part of run.json.

    Raises:
        UserError: the text, or an option of the tokenizer, is invalid.
        CheckpointError: a file cannot be written.
    """
    corpus = plan.corpus()
    settings = _settings(plan)
    signature = _signature(corpus, settings)
    store = next(stores_dir().glob(f"*/texts/{signature}.json"), None) if signature else None
    if store and (facts := _adopt(store.parent.parent, signature or "", run)):
        return facts
    if corpus.stored_bytes < STORED:
        survey = survey_text(corpus)
        encode_text(plan, corpus, survey, run.path)
        write_files(survey, run.path / FILES)
        return describe_text(plan, survey)
    return _through_store(plan, corpus, settings, signature, run)


def stores_dir() -> Path:
    """Return the folder of the stores."""
    return runs_dir() / ".data"


# ---------------------------------------------------------------------------------------------- keys


def _settings(plan: TextPlan) -> dict[str, Any]:
    """Return what determines the ids besides the text."""
    owner = plugins.registry().owner("tokenizers", plan.tokenizer)
    return {
        "format": FORMAT,
        "reading": plan.reading.model_dump(exclude={"sha256"}),
        "tokenizer": [plan.tokenizer, owner.distribution, owner.version],
        "options": plan.options,
        "trained": _files_digest(plan),
        "fraction": plan.fraction,
    }


def _files_digest(plan: TextPlan) -> list[str] | None:
    """Return the checksums of the files of a tokenizer that is already trained."""
    if plan.trained is None:
        return None
    with TemporaryDirectory() as folder:
        checkpoint.save_tokenizer(plan.trained, plan.tokenizer, Path(folder))
        return [f"{path.name} {sha256(path)}" for path in sorted(Path(folder).iterdir())]


def _signature(corpus: Corpus, settings: dict[str, Any]) -> str | None:
    """Return a checksum of settings, paths, sizes and times of the files, or None if the text must be read to know it.

    An example dataset is known by its options and the version of its plugin.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    try:
        for path in corpus.paths:
            digest.update(_fingerprint(path).encode(errors="surrogateescape"))
    except (OSError, ValueError):
        return None
    return digest.hexdigest()[:32]


def _fingerprint(path: str) -> str:
    """Return what a source is recognized by. Raise a ValueError if it cannot be recognized."""
    if path.startswith(DATASET):
        spec = path.removeprefix(DATASET)
        owner = plugins.registry().owner("datasets", spec.partition(":")[0])
        return f"{path}\n{owner.distribution}\n{owner.version}\n"
    if is_generated(path) or is_url(path):
        raise ValueError(path)
    found = os.stat(path)  # noqa: PTH116  # several times faster than Path.stat, for many files
    return f"{os.path.abspath(path)}\n{found.st_size}\n{found.st_mtime_ns}\n"  # noqa: PTH100


def _key(settings: dict[str, Any], survey: Survey) -> tuple[str, dict[str, Any]]:
    """Return the name of a store, and the values that it is made from."""
    values = {**settings, "content": survey.sources.digest}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32], values


# ---------------------------------------------------------------------------------------------- building and using


def _through_store(plan: TextPlan, corpus: Corpus, settings: dict[str, Any], signature: str | None, run: Run) -> dict[str, Any]:
    """Find or build the store of a text that has to be read, and give the run its files."""
    survey = survey_text(corpus)
    key, values = _key(settings, survey)
    store = stores_dir() / key
    with _lock(key):
        if not store.exists():
            _build(plan, corpus, survey, values, store)
        name = signature or key
        facts = {**describe_text(plan, survey), "store": key}
        write_files(survey, store / "texts" / f"{name}.jsonl")
        write_json(store / "texts" / f"{name}.json", facts)
        _link_all(store, name, run)
    return facts


def _build(plan: TextPlan, corpus: Corpus, survey: Survey, values: dict[str, Any], store: Path) -> None:
    """Write a store under another name and rename it. What a killed process has left is continued."""
    partial = store.with_name(f".partial-{store.name}")
    try:
        (partial / "texts").mkdir(parents=True, exist_ok=True)
        encode_text(plan, corpus, survey, partial)
        write_json(partial / "store.json", values)
        flush(partial)
        os.rename(partial, store)
        fsync(store.parent)
    except UserError:
        remove_folder(partial)
        raise
    except OSError as error:
        raise write_error(store, error) from None


def _adopt(store: Path, signature: str, run: Run) -> dict[str, Any] | None:
    """Give a run the files of a store; return the text's part of run.json, or None if the store has just been removed."""
    with _lock(store.name):
        try:
            facts = read_json(store / "texts" / f"{signature}.json")
            _link_all(store, signature, run)
        except CheckpointError:
            if store.exists():
                raise
            return None
    return facts


def _link_all(store: Path, signature: str, run: Run) -> None:
    """Link the files of a store into a run's folder."""
    files = {
        **{path: run.tokenizer / path.name for path in (store / "tokenizer").iterdir()},
        **{path: run.data / path.name for path in (store / "data").iterdir()},
        store / "texts" / f"{signature}.jsonl": run.path / FILES,
    }
    for source, target in files.items():
        if source.exists():
            target.parent.mkdir(exist_ok=True)
            _link(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise write_error(target, error) from None


@contextmanager
def _lock(key: str) -> Iterator[None]:
    """Hold the lock of a store; wait while another process prepares the same text."""
    try:
        stores_dir().mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(stores_dir() / f".{key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            with task("waiting for another process that prepares the same text", None):
                lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise write_error(stores_dir(), error) from None
    try:
        yield
    finally:
        lock.release()


# ---------------------------------------------------------------------------------------------- cleaning


@dataclass(frozen=True)
class Cleaned:
    """Stores that were removed, and the size of their files that no run has."""

    stores: int
    bytes: int


def clean_stores() -> Cleaned:
    """Remove the stores that no run refers to, and unfinished ones. A store in use by another process stays."""
    used = {str(_store_of(Run(path))) for path in runs_dir().glob("*") if path.is_dir()}
    count = size = 0
    for path in [path for path in stores_dir().glob("*") if path.is_dir()]:
        key = path.name.removeprefix(".partial-")
        if path.name not in used:
            with suppress(filelock.Timeout), filelock.FileLock(stores_dir() / f".{key}.lock", timeout=0):
                count, size = count + 1, size + _own_bytes(path)
                remove_folder(path)
    return Cleaned(count, size)


def _store_of(run: Run) -> Any:
    """Return the store that a run names; None for a damaged run, which has its own files all the same."""
    try:
        return run.info().get("store")
    except RunError:
        return None


def _own_bytes(folder: Path) -> int:
    """Return the size of the files that are not linked from a run."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.stat().st_nlink == 1)
