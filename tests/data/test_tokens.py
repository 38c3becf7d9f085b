"""Splitting documents, encoding them, and storing the ids on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2demo.data.tokens import SPLITS, load_ids, load_sizes, split_documents, train_tokenizer, write_splits
from gpt2demo.errors import DataError
from gpt2demo.interfaces import HasEncodeArray
from gpt2demo.progress import use_display
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer


def decoded_split(folder: Path, name: str) -> str:
    return ByteTokenizer().decode(load_ids(folder, name).tolist())


def test_many_documents_are_split_as_evenly_spaced_whole_documents() -> None:
    documents = [f"document {n}" for n in range(100)]
    train, validation = split_documents(documents, 0.1)
    assert sorted(train + validation) == sorted(documents)
    assert len(validation) == 10
    assert all(f"document {n}" in validation for n in (9, 49, 99))


def test_a_single_document_is_cut_at_a_line_break() -> None:
    document = "".join(f"line {n:04d}\n" for n in range(1000))
    (train,), (validation,) = split_documents([document], 0.1)
    assert train + validation == document
    assert train.endswith("\n")
    assert len(validation) / len(document) == pytest.approx(0.1, abs=0.01)


def test_the_ids_on_disk_decode_to_the_text(tmp_path: Path) -> None:
    text = "".join(f"Zoë {n}\n" for n in range(100))
    sizes = write_splits([text], ByteTokenizer(), tmp_path, 0.2)
    train, validation = (decoded_split(tmp_path, name) for name in SPLITS)
    assert train + ("" if train.endswith("\n") else "\n") + validation == text
    assert load_sizes(tmp_path) == sizes
    assert sizes["train"].tokens == sizes["train"].bytes == len(train.encode())


def test_documents_are_separated_by_a_line_break(tmp_path: Path) -> None:
    write_splits(["one", "two\n", "three"] * 20, ByteTokenizer(), tmp_path, 0.1)
    assert decoded_split(tmp_path, "train").startswith("one\ntwo\nthree\none\n")


def test_documents_are_followed_by_the_end_of_text_id(tmp_path: Path) -> None:
    tokenizer = BpeTokenizer.train([])
    write_splits(["one", "two"] * 20, tokenizer, tmp_path, 0.25)
    assert tokenizer.decode(load_ids(tmp_path, "validation")) == "two\n<|endoftext|>" * 10


class ListTokenizer(ByteTokenizer):
    """A tokenizer without `encode_array`, as a plugin may be."""

    encode_array = None  # type: ignore[assignment]


def test_a_tokenizer_without_arrays_gives_the_same_files(tmp_path: Path) -> None:
    assert not isinstance(ListTokenizer(), HasEncodeArray)
    for name, tokenizer in {"arrays": ByteTokenizer(), "lists": ListTokenizer()}.items():
        (tmp_path / name).mkdir()
        write_splits(["hello " * 20, "wörld\n" * 20], tokenizer, tmp_path / name, 0.1)
    for file in ("train.npy", "validation.npy"):
        ids = np.load(tmp_path / "arrays" / file)
        assert ids.dtype == np.uint16
        assert ids.size > 10
        assert np.array_equal(ids, np.load(tmp_path / "lists" / file))


@pytest.mark.parametrize("content", [b"\x93NUMPY garbage", b"", None])
def test_a_damaged_or_missing_file_of_ids_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "train.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.npy: cannot be read"):
        load_ids(tmp_path, "train")


def test_an_array_that_holds_no_ids_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.zeros((2, 2), np.uint16))
    with pytest.raises(DataError, match=r"train\.npy: not a one-dimensional array"):
        load_ids(tmp_path, "train")


def test_training_a_tokenizer_reports_progress_within_a_document() -> None:
    tasks: list[tuple[str, int | None, list[int]]] = []

    class Display:
        def __init__(self, what: str, total: int | None) -> None:
            tasks.append((what, total, []))

        def __enter__(self):
            return tasks[-1][2].append

        def __exit__(self, *error: object) -> None:
            pass

    documents = ["Once upon a time there was a fox. " * 200, "The end.\n"]
    with use_display(Display):
        tokenizer = train_tokenizer("bpe", documents, {"vocab_size": "270"})
    ((what, total, steps),) = tasks
    assert (what, total) == ("training the tokenizer bpe", len(documents[0]) + len(documents[1]))
    assert sum(steps) == total + 1, "plus the line break after the first document"
    assert len(steps) > 5
    assert tokenizer.vocab_size == BpeTokenizer.train(documents, vocab_size=270).vocab_size
