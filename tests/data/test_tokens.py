"""Encoding documents, and storing their ids on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2demo.data import encoding, tokens
from gpt2demo.data.encoding import encode, train_tokenizer
from gpt2demo.data.split import TRAIN, VALIDATION, Part
from gpt2demo.data.tokens import load_ends, load_ids, load_sizes, write_splits
from gpt2demo.errors import DataError, TokenizerError
from gpt2demo.interfaces import HasCut, HasEncodeArray, Tokenizer
from gpt2demo.progress import use_display
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.tokenization.char import CharTokenizer

STORIES = [f"Story {number}: the fox is a friend of Zoë. " * 3 for number in range(100)]
BPE = BpeTokenizer.train(STORIES, vocab_size=300)


class ListTokenizer(ByteTokenizer):
    """A tokenizer without `encode_array` and `cut`, as a plugin may be."""

    encode_array = None  # type: ignore[assignment]
    cut = None  # type: ignore[assignment]


def parts(documents: list[str], validation: int = 3) -> Iterator[Part]:
    """Hold out every n-th document."""
    for number, document in enumerate(documents):
        yield Part(VALIDATION if number % validation == 0 else TRAIN, document, last=True)


# Encoding


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut documents after a few characters, and give each thread a few of them."""
    monkeypatch.setattr(encoding, "UNIT", 5)
    monkeypatch.setattr(encoding, "BATCH", 30)


def test_documents_are_encoded_with_a_line_break_and_the_end_of_text() -> None:
    assert BPE.decode(encode(["one", "two\n"], BPE)[0].tolist()) == "one\n<|endoftext|>two\n<|endoftext|>"
    ids, size = encode(["one", "Zoë\n"], ByteTokenizer())
    assert ByteTokenizer().decode(ids.tolist()) == "one\nZoë\n"
    assert size == len(ids) == 9


HOSTILE = [
    "",
    " \n \n\n  a\t\t b\u3000\u3000c\x85\x85d \u2028e",
    "don't we'll 'S ''ve it's1,000 a1b2 " * 5,
    "a" * 200 + " " * 200 + "\n" * 50,
    "日本語のテキスト。これは" * 30,
    "<|endoftext|> <|endoftext|>" * 5,
    "e\u0301\u0301 \u200b🙂🙂‍🙂 " * 20,
    "\r\n\r\n \r\n" * 40,
]


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("tokenizer", [BPE, ByteTokenizer(), CharTokenizer.train([*HOSTILE, "\n"]), ListTokenizer()])
def test_the_ids_of_a_document_in_parts_are_those_of_the_whole(tokenizer: Tokenizer) -> None:
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    expected = [index for text in HOSTILE for index in tokenizer.encode(text if text.endswith("\n") else text + "\n") + end]
    for size in (1, 3, 100):
        pieces = (
            Part(TRAIN, text[start : start + size], start + size >= len(text))
            for text in HOSTILE
            for start in range(0, max(1, len(text)), size)
        )
        assert encoded(pieces, tokenizer) == expected


def encoded(pieces: Iterator[Part], tokenizer: Tokenizer) -> list[int]:
    work = encoding.batches(pieces, tokenizer)
    return [index for train, _ in encoding.encode_batches(work, tokenizer, lambda amount: None) for index in train.ids.tolist()]


@given(st.text(st.sampled_from("ab'1.,st \n\r\t\u3000é日")), st.integers(1, 20))
def test_bpe_can_be_cut_where_it_says(text: str, start: int) -> None:
    if start < len(text) and (cut := BPE.cut(text, start)) is not None:
        assert cut >= start
        for rest in ("", "x", " ", "\n", "'s"):
            assert BPE.encode(text[:cut]) + BPE.encode(text[cut:] + rest) == BPE.encode(text + rest)


@pytest.mark.usefixtures("small_units")
def test_a_document_without_a_place_to_cut_is_cut_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WORD_LIMIT", 50)
    pieces = [Part(TRAIN, "a" * 40, last=False)] * 3 + [Part(TRAIN, "a\n", last=True)]
    with pytest.warns(UserWarning, match="50 characters without a place where the tokenizer can divide it"):
        ids = encoded(iter(pieces), BPE)
    assert BPE.decode(ids) == "a" * 121 + "\n<|endoftext|>"


@pytest.mark.usefixtures("small_units")
def test_an_error_in_a_thread_is_raised() -> None:
    with pytest.raises(TokenizerError, match="unknown characters"):
        encoded(parts(STORIES), CharTokenizer.train(["Story"]))


# Files


def test_the_ids_on_disk_decode_to_the_text(tmp_path: Path) -> None:
    sizes = write_splits(parts(STORIES), BPE, tmp_path)
    assert BPE.decode(load_ids(tmp_path, "train").tolist()) == "".join(
        f"{story}\n<|endoftext|>" for number, story in enumerate(STORIES) if number % 3
    )
    assert load_sizes(tmp_path) == sizes
    ids, ends = load_ids(tmp_path, "validation"), load_ends(tmp_path, "validation")
    assert sizes["validation"].tokens == len(ids) == ends[-1]
    assert sizes["validation"].documents == len(ends) == 34
    assert sizes["validation"].bytes == sum(len(story.encode()) + 1 for story in STORIES[::3])
    assert (ids[ends.astype(np.int64) - 1] == BPE.eos_id).all()
    assert {path.name for path in tmp_path.iterdir()} == {
        *("train.npy", "train-ends.npy", "validation.npy", "validation-ends.npy", "data.json")
    }


def test_a_tokenizer_without_arrays_and_threads_gives_the_same_files(tmp_path: Path) -> None:
    assert not isinstance(ListTokenizer(), HasEncodeArray | HasCut)
    for name, tokenizer in {"arrays": ByteTokenizer(), "lists": ListTokenizer()}.items():
        (tmp_path / name).mkdir()
        write_splits(parts(STORIES), tokenizer, tmp_path / name)
    for file in ("train.npy", "validation.npy"):
        ids = np.load(tmp_path / "arrays" / file)
        assert ids.dtype == np.uint16
        assert ids.size > 10
        assert np.array_equal(ids, np.load(tmp_path / "lists" / file))


def whole_ids(folder: Path) -> np.ndarray:
    """Return the training ids of STORIES when they are in one file."""
    folder.mkdir()
    write_splits(parts(STORIES), BPE, folder)
    return np.load(folder / "train.npy")


def test_ids_of_several_files_are_one_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = whole_ids(tmp_path / "whole")
    monkeypatch.setattr(tokens, "SHARD", 100)
    sizes = write_splits(parts(STORIES), BPE, tmp_path)
    assert sizes["train"].files == len(list(tmp_path.glob("train-0*.npy"))) + 1 > 5
    ids = load_ids(tmp_path, "train")
    assert (len(ids), ids.dtype, ids.shape, ids.ndim) == (len(whole), whole.dtype, whole.shape, 1)
    assert np.array_equal(np.asarray(ids), whole)
    assert ids.tolist() == whole.tolist()
    for part in (
        slice(0, 5),
        slice(95, 105),
        slice(150, 420),
        slice(100, 200),
        slice(0, 0),
        slice(-30, None),
        slice(None, None, 7),
    ):
        assert np.array_equal(ids[part], whole[part]), part
    assert [ids[100], ids[-1]] == [whole[100], whole[-1]]
    (tmp_path / "train-00003.npy").unlink()
    with pytest.raises(DataError, match=r"train-00003\.npy: cannot be read"):
        load_ids(tmp_path, "train")


@pytest.mark.parametrize("batches", [1, 2, 9, 17])
def test_a_killed_process_is_continued_after_its_last_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    whole = whole_ids(tmp_path / "whole")
    monkeypatch.setattr(tokens, "SHARD", 100)
    monkeypatch.setattr(tokens, "COMMIT", 2)
    monkeypatch.setattr(encoding, "BATCH", 500)

    class Killed(BaseException):
        pass

    def encode_some(work: Iterator[list[Part]], tokenizer: Tokenizer, advance: Callable[[int], None]) -> Iterator[object]:
        for number, encoded in enumerate(encoding.encode_batches(work, tokenizer, advance)):
            if number == batches:
                raise Killed
            yield encoded

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "encode_batches", encode_some)
        with pytest.raises(Killed):
            write_splits(parts(STORIES), BPE, tmp_path)
    assert not (tmp_path / "data.json").exists()
    encoded_again: list[object] = []

    def encode_rest(work: Iterator[list[Part]], tokenizer: Tokenizer, advance: Callable[[int], None]) -> Iterator[object]:
        for encoded in encoding.encode_batches(work, tokenizer, advance):
            encoded_again.append(encoded)
            yield encoded

    amounts: list[int] = []
    monkeypatch.setattr(tokens, "encode_batches", encode_rest)
    with use_display(lambda what, total: Amounts(amounts)):
        write_splits(parts(STORIES), BPE, tmp_path)
    recorded = batches - batches % tokens.COMMIT
    assert len(encoded_again) == len(list(encoding.batches(parts(STORIES), BPE))) - recorded
    assert np.array_equal(np.asarray(load_ids(tmp_path, "train")), whole)
    for name in ("train", "validation"):
        assert np.array_equal(load_ends(tmp_path, name), load_ends(tmp_path / "whole", name))
    assert not (tmp_path / "progress.json").exists()
    assert sum(amounts) == sum(len(story) + 1 for story in STORIES), "what was encoded before counts as done"


class Amounts(list):
    """A display that collects the amounts of progress in a list."""

    def __init__(self, amounts: list[int]) -> None:
        self.amounts = amounts

    def __enter__(self):
        return self.amounts.append

    def __exit__(self, *error: object) -> None:
        pass


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
        tokenizer = train_tokenizer("bpe", documents, {"vocab_size": "270"}, sum(map(len, documents)))
    ((what, total, steps),) = tasks
    assert (what, total) == ("training the tokenizer bpe", len(documents[0]) + len(documents[1]))
    assert sum(steps) == total + 1, "plus the line break after the first document"
    assert len(steps) > 5
    assert tokenizer.vocab_size == BpeTokenizer.train(documents, vocab_size=270).vocab_size
