"""Divide a stream of documents into training and validation text.

The part of a document depends on the document, not on its neighbors:

- A long document, of more than a tenth of the text to hold out, is in both: its end is held out.
- Another document is held out as a whole or not at all. Its hash decides, so equal documents are always on the same side. The
  documents of an example dataset go by their number instead, evenly spaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gpt2demo.data.cleaning import text_hash
from gpt2demo.data.corpus import Long, Survey
from gpt2demo.data.formats import Piece

SPLITS = ("train", "validation")
TRAIN, VALIDATION = range(2)
LONG = 10  # a document is long if it is larger than the text to hold out, divided by this
SEARCH = 2**20  # characters before the end of the training part among which a line break is looked for


class Part(NamedTuple):
    """A piece of a document in one of the splits, and whether the document's part in that split ends with it."""

    split: int
    text: str
    last: bool


def split_documents(pieces: Iterable[Piece], survey: Survey, fraction: float, *, numbered: bool = False) -> Iterator[Part]:
    """Yield each piece with its split.

    Args:
        pieces: the documents.
        survey: of the same documents.
        fraction: of the text to hold out.
        numbered: the documents are those of an example dataset.
    """
    long = survey.characters * fraction / LONG
    iterator = iter(pieces)
    for number, first in enumerate(iterator):
        known = Long(len(first.text), 0) if first.last else survey.long[number]
        document = _document(first, iterator)
        if known.characters > long:
            yield from _hold_out_end(document, known.characters, fraction)
        else:
            out = _is_due(number, fraction) if numbered else _by_hash(first, known, fraction)
            yield from (Part(VALIDATION if out else TRAIN, *piece) for piece in document)


def _document(first: Piece, rest: Iterator[Piece]) -> Iterator[Piece]:
    """Yield the pieces of one document."""
    yield first
    while not first.last:
        first = next(rest)
        yield first


def _by_hash(first: Piece, known: Long, fraction: float) -> bool:
    return (text_hash(first.text) if first.last else known.hash) < fraction * 2**64


def _is_due(number: int, fraction: float) -> bool:
    return int((number + 1) * fraction) > int(number * fraction)


def _hold_out_end(pieces: Iterator[Piece], characters: int, fraction: float) -> Iterator[Part]:
    """Cut after the last line break in the 1 % of the document before the exact position, or at that position."""
    exact = round(characters * (1 - fraction))
    search = exact - min(characters // 100, SEARCH)
    done, held = 0, ""
    for text, last in pieces:
        held += text
        if done + len(held) >= exact or last:
            cut = held.rfind("\n", search - done, exact - done) + 1 or exact - done
            if cut > 0:
                yield Part(TRAIN, held[:cut], last=True)
            if held[cut:] or not last:
                yield Part(VALIDATION, held[cut:], last)
            break
        if done + len(held) <= search:
            yield Part(TRAIN, held, last=False)
            done, held = done + len(held), ""
    yield from (Part(VALIDATION, *piece) for piece in pieces)
