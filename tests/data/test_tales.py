"""The example stories are reproducible, grammatical and consistent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

import pytest

from gpt2demo.data.tales import (
    COLORS,
    FRIENDS,
    HEROES,
    NAMES,
    PLACES,
    PLOTS,
    PRONOUNS,
    TREATS,
    Hero,
    StoryRandom,
    Tales,
    a,
    story,
)

STORIES = list(Tales(stories=5000).documents())
GENDER = {name: gender for gender, names in NAMES.items() for name in names}


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)


def sentences(text: str) -> list[str]:
    """Split after a punctuation mark and an optional closing quote, before a capital letter."""
    return re.split(r'(?<=[.!?])"? (?="?[A-Z])', text)


def hero_name(text: str) -> str:
    (name,) = re.findall(r" named (\w+)", text)
    return name


def test_the_same_options_give_the_same_stories() -> None:
    assert list(Tales(stories=50).documents()) == STORIES[:50]
    assert not set(Tales(stories=50, seed=1).documents()) & set(STORIES[:50])


def test_stories_do_not_change_between_versions() -> None:
    """Runs and measurements refer to this text."""
    digest = hashlib.sha256("\n".join(STORIES).encode()).hexdigest()
    assert digest == "d234cf9d0f787c40e9eaf21c4db596a67f3ad3d0a3114d07fe31d979320948c6"


def test_a_story_depends_on_its_seed_and_number_alone() -> None:
    assert [story(number) for number in (5, 3)] == [STORIES[5], STORIES[3]]


def test_stories_are_generated_lazily() -> None:
    assert next(Tales(stories=10_000_000).documents()) == STORIES[0]


def test_duplicate_stories_are_rare() -> None:
    assert len(set(STORIES)) >= 0.95 * len(STORIES)


def test_the_vocabulary_is_a_few_hundred_words() -> None:
    assert 300 <= len({word.lower() for text in STORIES for word in words(text)}) <= 600


@pytest.mark.parametrize("start", ["Once upon a time", "One morning", "There was"])
def test_many_stories_begin_with_a_common_prompt(start: str) -> None:
    assert sum(text.startswith(start) for text in STORIES) > 0.05 * len(STORIES)


def test_a_story_is_one_short_line_of_ascii_text() -> None:
    for text in STORIES:
        assert text.isascii()
        assert text.isprintable()
        assert 250 <= len(text) <= 500, text


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_every_plot_returns_complete_sentences(plot: Callable[[StoryRandom, Hero, str], list[str]]) -> None:
    for number in range(300):
        rng = StoryRandom(f"test/{number}")
        lines = plot(rng, rng.hero(), rng.choice(FRIENDS))
        assert 5 <= len(lines) <= 8
        for line in lines:
            assert re.fullmatch(r'["A-Z].*[.!?]"?', line), line
            assert line.count('"') % 2 == 0, line


@pytest.mark.parametrize(
    ("pattern", "mistake"),
    [
        (r"[{}<>\[\]]", "unfilled placeholder"),
        (r"\s\s|^\s|\s$", "stray space"),
        (r"\s[,.!?]|[,.!?:]{2}", "stray punctuation"),
        (r"\b(\w+) \1\b", "repeated word"),
        (r"\b[Aa] [aeiouAEIOU]|\b[Aa]n [^aeiouAEIOU]", "wrong article"),
        (r"\b([Aa]n?|the|[Tt]heir) (a|an|the)\b", "two articles"),
    ],
)
def test_stories_have_no_typical_mistakes(pattern: str, mistake: str) -> None:
    assert [text for text in STORIES if re.search(pattern, text)] == [], mistake


def test_the_article_fits_the_noun() -> None:
    assert [a("owl"), a("apple pie"), a("fox"), a("yellow hat")] == ["an owl", "an apple pie", "a fox", "a yellow hat"]


def test_the_hero_is_named_in_the_first_sentence_and_mentioned_again() -> None:
    for text in STORIES:
        name = hero_name(text)
        assert {word for word in words(text) if word in GENDER} == {name}, text
        assert name in sentences(text)[0]
        assert text.count(name) >= 3


def test_pronouns_agree_with_the_name() -> None:
    wrong = {"he": {*PRONOUNS["she"], "herself", "girl"}, "she": {*PRONOUNS["he"], "himself", "boy"}}
    seen = set()
    for text in STORIES:
        used = {word.lower() for word in words(text)}
        assert not used & wrong[GENDER[hero_name(text)]], text
        seen |= used
    assert seen >= {"he", "his", "himself", "boy", "she", "her", "herself", "girl"}, "every form was checked"


def test_the_friend_is_introduced_once_and_mentioned_again() -> None:
    assert not set(FRIENDS) & {*HEROES, "boy", "girl"}
    for text in STORIES:
        (friend,) = {word for word in words(text) if word in FRIENDS}
        assert len(re.findall(rf"\ban? \w+ {friend}\b", text)) == 1, text
        assert text.index(friend) < re.search(rf"[Tt]he {friend}\b", text).start(), text  # type: ignore[union-attr]


@pytest.mark.parametrize("table", [PLACES, TREATS], ids=["place", "treat"])
def test_a_story_has_at_most_one_place_and_one_treat(table: tuple[str, ...]) -> None:
    assert all(sum(word in text for word in table) <= 1 for text in STORIES)


def test_the_color_of_a_thing_does_not_change() -> None:
    colored = rf"\b({'|'.join(COLORS)}) (scarf|hat|cup|spoon|chair|umbrella|pillow)\b"
    found = [set(re.findall(colored, text)) for text in STORIES]
    assert max(map(len, found)) == 1


def test_the_thing_in_the_bag_is_the_answer_to_the_riddle() -> None:
    riddles = [text for text in STORIES if "riddle" in text]
    assert riddles
    for text in riddles:
        (thing,) = re.findall(r"with an? (\w+) in (?:his|her) bag", text)
        assert f'"{a(thing).capitalize()}!" cried' in text


def test_the_thing_that_is_found_is_the_thing_that_helps() -> None:
    helped = [text for text in STORIES if "What can you do" in text]
    assert helped
    for text in helped:
        (thing,) = re.findall(r"found an old (\w+) near", text)
        assert set(re.findall(r"do with an? (\w+)\?", text)) == {thing}
        assert f"came with the {thing}" in text
