"""Text is split honestly, and batched as a function of (seed, number) alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2demo.data.tokens import load_ids, load_sizes, prepare, split
from gpt2demo.data.windows import Windows
from gpt2demo.errors import DataError
from gpt2demo.tokenization.byte import ByteTokenizer


def test_many_documents_are_split_whole_and_evenly() -> None:
    documents = [f"document {n}" for n in range(100)]
    train, validation = split(documents, 0.1)
    assert sorted(train + validation) == sorted(documents)
    assert len(validation) == 10
    assert all(f"document {n}" in validation for n in (9, 49, 99))


def test_one_document_gives_its_end_cut_at_a_line_break() -> None:
    document = "".join(f"line {n:04d}\n" for n in range(1000))
    (train,), (validation,) = split([document], 0.1)
    assert train + validation == document
    assert train.endswith("\n")
    assert len(validation) / len(document) == pytest.approx(0.1, abs=0.01)


def test_the_ids_on_disk_are_the_text(tmp_path: Path) -> None:
    text = "".join(f"Zoë {n}\n" for n in range(100))
    sizes = prepare([text], ByteTokenizer(), tmp_path, 0.2)
    parts = [ByteTokenizer().decode(load_ids(tmp_path, name).tolist()) for name in ("train", "validation")]
    assert parts[0] + ("" if parts[0].endswith("\n") else "\n") + parts[1] == text
    assert load_sizes(tmp_path) == sizes
    assert sizes["train"].tokens == sizes["train"].bytes == len(parts[0].encode())


def test_documents_are_kept_apart_by_a_line_break(tmp_path: Path) -> None:
    prepare(["one", "two\n", "three"] * 20, ByteTokenizer(), tmp_path, 0.1)
    assert ByteTokenizer().decode(load_ids(tmp_path, "train").tolist()).startswith("one\ntwo\nthree\none\n")


def test_a_damaged_file_of_ids_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.npy").write_bytes(b"\x93NUMPY garbage")
    with pytest.raises(DataError, match=r"train\.npy"):
        load_ids(tmp_path, "train")


def windows(length: int = 1000, n_positions: int = 10, seed: int = 0) -> Windows:
    return Windows(np.arange(length, dtype=np.uint16), n_positions, seed)


def test_an_epoch_visits_every_window_once_without_overlap() -> None:
    source = windows()
    for epoch in range(3):
        batch = source.batch(epoch * source.per_epoch, source.per_epoch)
        inputs = np.sort(batch[:, :-1].ravel())
        assert np.array_equal(inputs, np.arange(inputs[0], inputs[0] + source.per_epoch * 10))
        assert np.array_equal(batch[:, 1:], batch[:, :-1] + 1), "targets are the inputs one further"


def test_batches_are_a_function_of_seed_and_number() -> None:
    straight = windows().batch(0, 300)
    assert np.array_equal(windows().batch(120, 60), straight[120:180]), "a resumed run needs no state"
    assert not np.array_equal(windows(seed=1).batch(0, 300), straight)
    assert not np.array_equal(straight[:99], straight[99:198]), "epochs are shuffled differently"


def test_borders_between_windows_move_from_epoch_to_epoch() -> None:
    source = windows(length=1008)
    offsets = {int(source.batch(epoch * source.per_epoch, source.per_epoch).min()) for epoch in range(30)}
    assert offsets == set(range(8))


def test_evaluation_windows_are_spread_over_the_whole_split() -> None:
    starts = windows().even(5)[:, 0]
    assert starts.tolist() == [0, 190, 390, 590, 790]
    assert len(windows().even(10_000)) == windows().per_epoch


def test_a_text_shorter_than_the_context_says_what_would_work() -> None:
    with pytest.raises(DataError, match="validation part of the text has 10 tokens.*at least 11"):
        Windows(np.arange(10, dtype=np.uint16), 10, 0, "validation")
    assert len(Windows(np.arange(11, dtype=np.uint16), 10, 0).batch(0, 3)) == 3
