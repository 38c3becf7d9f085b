"""The example stories: seeded, extendable, and true to themselves: names, pronouns, articles and things stay what they were."""

from __future__ import annotations

import re

import pytest

from gpt2demo.data.tales import COLORS, FRIENDS, HEROES, NAMES, PLACES, PLOTS, PRONOUNS, TREATS, Tales, Teller, a, tell

STORIES = list(Tales(stories=5000).documents())
GENDER = {name: gender for gender, names in NAMES.items() for name in names}


def words(story: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", story)


def sentences(story: str) -> list[str]:
    """Cut where a mark, perhaps a closing quote, meets a space and a capital letter."""
    return re.split(r'(?<=[.!?])"? (?="?[A-Z])', story)


def test_the_same_options_give_the_same_stories() -> None:
    assert list(Tales(stories=50).documents()) == STORIES[:50]
    assert not set(Tales(stories=50, seed=1).documents()) & set(STORIES[:50])


def test_a_story_depends_on_its_seed_and_number_alone() -> None:
    assert [tell(number) for number in (5, 3)] == [STORIES[5], STORIES[3]]
    stories = Tales(stories=10_000_000).documents()  # lazy: nobody waits for ten million
    assert next(stories) == STORIES[0]


def test_hardly_two_stories_are_alike() -> None:
    assert len(set(STORIES)) >= 0.95 * len(STORIES)


def test_the_vocabulary_is_a_few_hundred_words() -> None:
    assert 300 <= len({word.lower() for story in STORIES for word in words(story)}) <= 600


@pytest.mark.parametrize("start", ["Once upon a time", "One morning", "There was"])
def test_a_newcomers_prompt_is_a_common_beginning(start: str) -> None:
    assert sum(story.startswith(start) for story in STORIES) > 0.05 * len(STORIES)


def test_a_story_is_one_short_line_of_plain_text() -> None:
    for story in STORIES:
        assert story.isascii()
        assert story.isprintable()
        assert 250 <= len(story) <= 500, story


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_every_plot_tells_whole_sentences(plot: object) -> None:
    for number in range(300):
        teller = Teller(f"test/{number}")
        told = plot(teller, teller.hero(), teller.choice(FRIENDS))  # type: ignore[operator]
        assert 5 <= len(told) <= 8
        for sentence in told:
            assert re.fullmatch(r'["A-Z].*[.!?]"?', sentence), sentence
            assert sentence.count('"') % 2 == 0, sentence


@pytest.mark.parametrize(
    ("slip", "what"),
    [
        (r"[{}<>\[\]]", "an unfilled place"),
        (r"\s\s|^\s|\s$", "a stray space"),
        (r"\s[,.!?]|[,.!?:]{2}", "a stray mark"),
        (r"\b(\w+) \1\b", "a doubled word"),
        (r"\b[Aa] [aeiouAEIOU]|\b[Aa]n [^aeiouAEIOU]", "a wrong article"),
        (r"\b([Aa]n?|the|[Tt]heir) (a|an|the)\b", "two articles"),
    ],
)
def test_there_is_not(slip: str, what: str) -> None:
    assert [story for story in STORIES if re.search(slip, story)] == [], what


def test_articles() -> None:
    assert [a("owl"), a("apple pie"), a("fox"), a("yellow hat")] == ["an owl", "an apple pie", "a fox", "a yellow hat"]


def test_the_hero_has_one_name_which_is_said_when_the_hero_comes_in_and_comes_back() -> None:
    for story in STORIES:
        (name,) = re.findall(r" named (\w+)", story)
        assert {word for word in words(story) if word in GENDER} == {name}, story
        assert name in sentences(story)[0]
        assert story.count(name) >= 3


def test_pronouns_and_children_agree_with_the_name() -> None:
    other = {"he": {*PRONOUNS["she"], "herself", "girl"}, "she": {*PRONOUNS["he"], "himself", "boy"}}
    seen = set()
    for story in STORIES:
        (name,) = re.findall(r" named (\w+)", story)
        used = {word.lower() for word in words(story)}
        assert not used & other[GENDER[name]], story
        seen |= used
    assert seen >= {"he", "his", "himself", "boy", "she", "her", "herself", "girl"}  # every form was there to be checked


def test_there_is_one_friend_who_is_brought_in_once_and_comes_back() -> None:
    assert not set(FRIENDS) & {*HEROES, "boy", "girl"}
    for story in STORIES:
        (friend,) = {word for word in words(story) if word in FRIENDS}
        assert len(re.findall(rf"\ban? \w+ {friend}\b", story)) == 1, story
        assert story.index(friend) < re.search(rf"[Tt]he {friend}\b", story).start(), story  # type: ignore[union-attr]


@pytest.mark.parametrize("table", [PLACES, TREATS], ids=["place", "treat"])
def test_a_story_never_changes_its_mind(table: tuple[str, ...]) -> None:
    assert all(sum(word in story for word in table) <= 1 for story in STORIES)


def test_a_thing_keeps_its_color() -> None:
    colored = rf"\b({'|'.join(COLORS)}) (scarf|hat|cup|spoon|chair|umbrella|pillow)\b"
    found = [set(re.findall(colored, story)) for story in STORIES]
    assert max(map(len, found)) == 1


def test_the_thing_in_the_bag_answers_the_riddle() -> None:
    riddles = [story for story in STORIES if "riddle" in story]
    assert riddles
    for story in riddles:
        (thing,) = re.findall(r"with an? (\w+) in (?:his|her) bag", story)
        assert f'"{a(thing).capitalize()}!" cried' in story


def test_the_thing_that_is_found_is_the_thing_that_helps() -> None:
    helped = [story for story in STORIES if "What can you do" in story]
    assert helped
    for story in helped:
        (thing,) = re.findall(r"found an old (\w+) near", story)
        assert set(re.findall(r"do with an? (\w+)\?", story)) == {thing}
        assert f"came with the {thing}" in story
