"""The example stories: endless, seeded, and true to themselves: names, pronouns, articles and things stay what they were."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from gpt2demo.datasets.tales import PLOTS, PRONOUNS, VILLAGE, Tales, Teller, tell

STORIES = list(Tales(stories=3000).documents())
SEX = dict(VILLAGE.values())


def names(story: str) -> set[str]:
    return {word for word in re.findall(r"[A-Z][a-z]+", story) if word in SEX}


def test_a_seed_gives_the_same_stories_and_more_of_them_are_added_at_the_end() -> None:
    assert list(Tales(stories=50).documents()) == STORIES[:50]
    assert list(Tales(stories=50, seed=1).documents()) != STORIES[:50]


def test_hardly_two_stories_are_alike() -> None:
    assert len(set(STORIES)) > 0.95 * len(STORIES)


def test_the_vocabulary_is_a_few_hundred_words() -> None:
    words = Counter(word.lower() for story in STORIES for word in re.findall(r"[A-Za-z]+", story))
    assert 300 < len(words) < 700
    assert sum(count for _, count in words.most_common(100)) > sum(words.values()) / 2


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_every_plot_tells_whole_sentences(plot: object) -> None:
    for number in range(200):
        sentences = plot(Teller(f"test/{number}"))  # type: ignore[operator]
        assert 5 <= len(sentences) <= 10
        for sentence in sentences:
            assert re.match(r'["A-Z]', sentence), sentence
            assert re.search(r'[.!?]"?$', sentence), sentence


def test_stories_are_one_line_of_plain_text_without_slips() -> None:
    for story in STORIES:
        assert story.isascii()
        assert 200 < len(story) < 700
        assert not re.search(r"[{}\n]|  |\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|\b(\w+) \1\b|\.\.", story), story
        assert story.count('"') % 2 == 0


def test_everybody_keeps_name_and_kind() -> None:
    for story in STORIES:
        assert 1 <= len(names(story)) <= 2, story
        for kind, name in re.findall(r"(\w+) named (\w+)", story):
            assert VILLAGE[kind][0] == name


def test_pronouns_agree_where_there_is_one_character() -> None:
    checked = 0
    for story in STORIES:
        if len(found := names(story)) == 1 and story.count(" named ") == 1:
            he = SEX[found.pop()]
            other = set(PRONOUNS["she" if he == "he" else "he"]) | {"herself" if he == "he" else "himself"}
            assert not other & set(re.findall(r"[a-z]+", story.lower())), story
            checked += 1
    assert checked > 100


def test_the_thing_that_is_found_is_the_thing_that_helps() -> None:
    told = [story for story in STORIES if "What can you do with" in story]
    assert told
    for story in told:
        (thing,) = set(re.findall(r"What can you do with an? (\w+)\?", story))
        assert f"old {thing}" in story
        assert f"with the {thing}" in story


def test_a_story_depends_on_its_seed_and_number_alone() -> None:
    assert [tell(number) for number in (5, 3)] == [STORIES[5], STORIES[3]]
