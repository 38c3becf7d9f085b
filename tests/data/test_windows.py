"""Training batches are functions of (seed, number) alone."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2demo.data import windows as module
from gpt2demo.data.windows import DocumentWindows, Windows, shuffled
from gpt2demo.errors import DataError
from gpt2demo.metrics import PADDING


def windows(length: int = 1000, n_positions: int = 10, seed: int = 0) -> Windows:
    return Windows(np.arange(length, dtype=np.uint16), n_positions, seed)


def test_an_epoch_visits_every_window_once_without_overlap() -> None:
    source = windows()
    for epoch in range(3):
        batch = source.batch(epoch * source.per_epoch, source.per_epoch)
        inputs = np.sort(batch[:, :-1].ravel())
        assert np.array_equal(inputs, np.arange(inputs[0], inputs[0] + source.per_epoch * 10))


def test_targets_are_the_inputs_shifted_by_one() -> None:
    batch = windows().batch(0, 50)
    assert np.array_equal(batch[:, 1:], batch[:, :-1] + 1)


def test_batches_are_a_function_of_seed_and_number() -> None:
    batch = windows().batch(0, 300)
    assert np.array_equal(windows().batch(120, 60), batch[120:180]), "resuming needs no state"
    assert not np.array_equal(windows(seed=1).batch(0, 300), batch)
    assert not np.array_equal(batch[:99], batch[99:198]), "each epoch has its own order"


def test_the_first_window_starts_at_a_random_offset_in_each_epoch() -> None:
    source = windows(length=1008)
    offsets = {int(source.batch(epoch * source.per_epoch, source.per_epoch).min()) for epoch in range(30)}
    assert offsets == set(range(8))


@pytest.mark.parametrize("n", [1, 2, 5, 1000, 4097])
def test_the_order_of_many_windows_is_computed_and_a_permutation_too(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(module, "SHUFFLED", 0)
    orders = [[order[i] for i in range(n)] for order in (shuffled(n, np.random.default_rng(seed)) for seed in (0, 0, 1))]
    assert sorted(orders[0]) == list(range(n))
    assert orders[0] == orders[1]
    if n == 4097:
        assert orders[0] != orders[2]
        moved = np.abs(np.diff(orders[0]))
        assert moved.mean() == pytest.approx(n / 3, rel=0.05), "neighbors are as far apart as in a random order"
        assert abs(np.corrcoef(orders[0], np.arange(n))[0, 1]) < 0.06


def test_an_epoch_of_many_windows_visits_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHUFFLED", 10)
    test_an_epoch_visits_every_window_once_without_overlap()
    test_batches_are_a_function_of_seed_and_number()


def test_evaluation_windows_are_evenly_spaced() -> None:
    assert windows().evenly_spaced(5)[:, 0].tolist() == [0, 190, 390, 590, 790]
    assert len(windows().evenly_spaced(10_000)) == windows().per_epoch


def test_a_split_shorter_than_the_context_is_refused() -> None:
    with pytest.raises(DataError, match="the validation split has 10 tokens, but a context of 10 needs at least 11"):
        Windows(np.arange(10, dtype=np.uint16), 10, 0, "validation")
    assert len(Windows(np.arange(11, dtype=np.uint16), 10, 0).batch(0, 3)) == 3


# Windows inside documents


LENGTHS = [1, 30, 4, 10, 11, 1, 100, 9, 3]


def document_windows(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> DocumentWindows:
    """Return windows of 10 targets over documents of LENGTHS; the ids are the positions."""
    monkeypatch.setattr(module, "BLOCK", 4)
    ends = np.cumsum(LENGTHS, dtype=np.uint64)
    return DocumentWindows(np.arange(ends[-1], dtype=np.uint16), ends, 10, seed)


def test_each_token_is_the_target_of_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    source = document_windows(monkeypatch)
    for epoch in range(3):
        targets = source.batch(epoch * source.per_epoch, source.per_epoch)[:, 1:]
        assert np.array_equal(np.sort(targets[targets != PADDING]), np.arange(1, sum(LENGTHS)))


def test_a_window_has_targets_of_one_document_and_the_token_before(monkeypatch: pytest.MonkeyPatch) -> None:
    document_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    for window in document_windows(monkeypatch).batch(0, 100):
        tokens = window[window != PADDING]
        assert np.array_equal(tokens, np.arange(tokens[0], tokens[0] + len(tokens))), "padding is at the end"
        assert len(set(document_of[tokens[1:]])) == 1
        if document_of[tokens[0]] != document_of[tokens[1]]:
            assert document_of[tokens[0] + 1] == document_of[tokens[0]] + 1, "the end of the document before"


def test_document_windows_are_a_function_of_seed_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    source = document_windows(monkeypatch)
    batch = source.batch(0, 60)
    assert np.array_equal(document_windows(monkeypatch).batch(20, 9), batch[20:29])
    assert not np.array_equal(document_windows(monkeypatch, seed=1).batch(0, 60), batch)
    assert len(source.evenly_spaced(5)) == 5
    assert len(source.evenly_spaced(1000)) == source.per_epoch
