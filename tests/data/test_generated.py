"""Texts that are no files: example datasets, and datasets of the Hugging Face hub."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from samples import SMALL, read_error, read_texts

from gpt2demo.data.corpus import load_corpus
from gpt2demo.training import prepare_run

ROWS: list[dict[str, Any]] = [{"text": f"Note {number}.", "title": str(number), "stars": 5} for number in range(500)]


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replace the library `datasets` by one with a single dataset; return what is requested of it."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Iterator[dict[str, Any]]:
        calls.append((name, config, split, streaming))
        if name != "someone/notes":
            raise ConnectionError(f"Couldn't reach {name!r} on the Hub\n(offline)")
        return iter(ROWS)

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("hf:someone/notes", (None, "train")),
        ("hf:someone/notes:validation", (None, "validation")),
        ("hf:someone/notes:english", ("english", "train")),
        ("hf:someone/notes:english:extra", ("english", "extra")),
    ],
)
def test_a_dataset_of_the_hub_is_streamed_by_name(requested: list[Any], path: str, request_: tuple[Any, ...]) -> None:
    documents, (source,) = read_texts(path)
    assert documents == [row["text"] for row in ROWS]
    assert (source["path"], source["documents"]) == (path, 500)
    assert requested == [("someone/notes", *request_, True)], "once, although the text is read twice"


def test_the_column_of_a_dataset_of_the_hub_is_configurable(requested: list[Any]) -> None:
    assert read_texts("hf:someone/notes", field="title")[0][:2] == ["0", "1"]
    assert "row 1: no field 'body'; available are 'text', 'title', 'stars'" in read_error("hf:someone/notes", field="body")
    assert "row 1: field 'stars' is not text but '5'" in read_error("hf:someone/notes", field="stars")


def test_a_run_is_trained_on_a_dataset_of_the_hub(requested: list[Any]) -> None:
    run = prepare_run("hf:someone/notes:english", **SMALL)
    assert run.name == "notes-english-nano"
    assert run.info()["cleaning"]["documents"] == 500


def test_a_dataset_of_the_hub_that_cannot_be_read_is_one_line(requested: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Couldn't reach 'someone/else' on the Hub (offline)); check the name and the network" in read_error("hf:someone/else")
    assert "expected hf:NAME[:CONFIG][:SPLIT]" in read_error("hf:a:b:c:d")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "needs the library datasets; run `pip install gpt2demo[hub]`" in read_error("hf:someone/notes")


def test_an_example_dataset_is_generated_once() -> None:
    corpus = load_corpus(dataset="tales:stories=5")
    assert list(corpus.documents) == list(corpus.documents)
    assert corpus.survey().documents == 5
