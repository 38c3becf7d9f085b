"""Which part of a document is held out depends on the document, not on its neighbors."""

from __future__ import annotations

import pytest

from gpt2demo.data.corpus import Sources, Survey
from gpt2demo.data.formats import Piece
from gpt2demo.data.sample import Sample
from gpt2demo.data.split import split_documents


def split(documents: list[str], fraction: float, *, size: int = 100, numbered: bool = False) -> tuple[list[str], list[str]]:
    """Split documents that come in pieces of `size` characters; return both sides as documents."""
    pieces = [piece for document in documents for piece in in_pieces(document, size)]
    survey = Survey(Sources(), Sample(0, 0))
    for piece in pieces:
        survey.add(piece)
    sides: tuple[list[str], list[str]] = ([], [])
    held = ["", ""]
    for side, text, last in split_documents(pieces, survey, fraction, numbered=numbered):
        held[side] += text
        if last:
            sides[side].append(held[side])
            held[side] = ""
    assert held == ["", ""], "every part has an end"
    return sides


def in_pieces(document: str, size: int) -> list[Piece]:
    starts = range(0, len(document), size)
    return [Piece(document[start : start + size], start == starts[-1]) for start in starts]


NOTES = [f"Note {number:04}: the fox walks home.\n" for number in range(1000)]


def test_short_documents_are_held_out_as_a_whole_whatever_is_beside_them() -> None:
    train, validation = split(NOTES, 0.1)
    assert sorted(train + validation) == NOTES
    assert 70 < len(validation) < 130
    fewer = split(NOTES[::2], 0.1)[1]
    assert fewer == [note for note in validation if note in NOTES[::2]]
    again, more = split(NOTES * 2, 0.1)
    assert (sorted(set(again)), sorted(set(more))) == (train, validation), "equal documents are on the same side"


@pytest.mark.parametrize("size", [7, 10**6])
def test_a_document_is_on_the_same_side_in_pieces(size: int) -> None:
    assert split(NOTES, 0.1, size=size) == split(NOTES, 0.1)


@pytest.mark.parametrize("size", [50, 997, 10**6])
def test_of_a_single_document_the_end_is_held_out_from_a_line_break_on(size: int) -> None:
    document = "".join(f"line {number:04}\n" for number in range(1000))
    (train,), (validation,) = split([document], 0.0955, size=size)
    assert train + validation == document
    assert validation.startswith("line 0904\n"), "from the last line break before character 9,045 on"


def test_without_a_line_break_near_it_is_cut_at_the_exact_position() -> None:
    assert split(["x" * 1000], 0.1) == (["x" * 900], ["x" * 100])


def test_a_long_document_beside_short_ones_is_in_both() -> None:
    book = "".join(f"{number:05}\n" for number in range(20_000))
    train, validation = split([*NOTES, book], 0.1, size=1000)
    assert train[-1] + validation[-1] == book
    assert 50 < sum(note in validation for note in NOTES) < 150


def test_numbered_documents_are_held_out_evenly_spaced() -> None:
    assert split(NOTES, 0.1, numbered=True)[1] == NOTES[9::10]
