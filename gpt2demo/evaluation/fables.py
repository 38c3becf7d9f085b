"""Check sentences against the grammar of the example dataset `tales`.

A sentence is reduced to a template, in which every name, animal, place and so on is replaced by its kind. The templates of many
stories are those of the grammar. Only single sentences are checked: a hero who changes names between two of them is not noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from gpt2demo.data import tales

STORIES = 10_000  # the last new one of the 910 templates is in story 4,805
KINDS: dict[str, tuple[str, ...]] = {
    "he": tales.NAMES["he"],
    "she": tales.NAMES["she"],
    "mood": tales.MOODS,
    "hero": (*tales.HEROES, *tales.CHILD.values()),
    "friend mood": tales.FRIEND_MOODS,
    "friend": tales.FRIENDS,
    "day": (*tales.DAYS, *tales.EVENINGS),
    "place": tales.PLACES,
    "color": tales.COLORS,
    "treat": tales.TREATS,
}
_KIND = {word: kind for kind, words in KINDS.items() for word in words}
_WORDS = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _KIND), key=len, reverse=True))})\b")
_ARTICLE = re.compile(r"\b(a|an) (\w)", re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?]+[.!?]+\"?")


def accepted(texts: Iterable[str]) -> float | None:
    """Return the fraction of the sentences that the grammar of `tales` can produce, or None if there is no complete sentence."""
    found = [_template(sentence) in templates() for text in texts for sentence in sentences(text)]
    return sum(found) / len(found) if found else None


def sentences(text: str) -> list[str]:
    """Return the complete sentences of a text; those inside quotes count on their own."""
    return [match.strip() for line in text.splitlines() for match in _SENTENCE.findall(line)]


@cache
def templates() -> frozenset[str]:
    """Return the templates of all sentences."""
    return frozenset(_template(sentence) for number in range(STORIES) for sentence in sentences(tales.story(number, seed=-1)))


def _template(sentence: str) -> str:
    """Return a sentence with its words of known kinds replaced. A wrong article is kept, so that no template matches it."""
    reduced = _ARTICLE.sub(lambda match: f"ARTICLE {match[2]}" if _agrees(match[1], match[2]) else match[0], sentence)
    return _WORDS.sub(lambda match: f"<{_KIND[match[0]]}>", reduced)


def _agrees(article: str, letter: str) -> bool:
    return (article.lower() == "an") == (letter.lower() in "aeiou")
