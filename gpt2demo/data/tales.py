"""Generate the example dataset `tales`: short fables from a small grammar, without a download.

Each plot is a function that makes a few random choices and returns the sentences of one story.

The stories are easy for a tiny model to learn. Each has one hero with a name, one friend without a name, one place and one
thing, so a later mention always refers to the only earlier word of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import ClassVar, TypeVar

from pydantic import Field

from gpt2demo.interfaces import Dataset

T = TypeVar("T")

NAMES = {
    "he": ("Pip", "Otto", "Hugo", "Finn", "Max", "Leo"),
    "she": ("Tilly", "Rosa", "Nell", "Mia", "Clara", "Luna"),
}
PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}
CHILD = {"he": "boy", "she": "girl"}

MOODS = ("small", "little", "young", "shy", "cheerful", "curious", "polite", "dreamy")
HEROES = ("mouse", "rabbit", "hedgehog", "squirrel", "fox", "mole", "cat", "pig", "child")
FRIEND_MOODS = ("old", "kind", "wise", "busy", "grumpy", "friendly")
FRIENDS = ("owl", "goose", "bear", "badger", "goat", "donkey", "hen", "horse")  # disjoint from HEROES

DAYS = ("morning", "day", "sunny morning", "Monday")
EVENINGS = ("evening", "night", "quiet evening")
PLACES = ("the mill", "the market", "the orchard", "the lighthouse", "the hill", "the school")
COLORS = ("red", "blue", "green", "yellow")
TREATS = ("apple pie", "plum cake", "honey bun", "cheese tart")


def a(noun: str) -> str:
    """Return the noun with its indefinite article: a fox, an owl."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@dataclass(frozen=True)
class Hero:
    """Main character of a story. It formats as its name: f"{hero} put on {hero.his} hat"."""

    name: str
    kind: str
    he: str
    him: str
    his: str

    def __str__(self) -> str:
        return self.name


class StoryRandom(Random):
    """Random choices of one story."""

    def pick(self, *options: T) -> T:
        """Return one of the options."""
        return self.choice(options)

    def hero(self) -> Hero:
        """Return a hero with a random kind and name, and the pronouns of the name."""
        gender = self.pick(*NAMES)
        kind = self.choice(HEROES)
        return Hero(self.choice(NAMES[gender]), CHILD[gender] if kind == "child" else kind, *PRONOUNS[gender])

    def introduce(self, friend: str) -> str:
        """Return the first mention of a friend: an adjective with an indefinite article. Later mentions use "the"."""
        return a(f"{self.choice(FRIEND_MOODS)} {friend}")

    def opening(self, hero: Hero, did: str, times: tuple[str, ...] = DAYS) -> str:
        """Return the first sentence, which introduces the hero."""
        who = f"{a(self.choice(MOODS))} {hero.kind} named {hero.name}"
        return self.pick(
            f"Once upon a time, {who} {did}.",
            f"Once upon a time, there was {who} who {did}.",
            f"One {self.choice(times)}, {who} {did}.",
            f"One {times[0]}, {who} {did}.",
            f"There was once {who} who {did}.",
            f"There was {who} who {did}.",
        )


def lost(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero loses a thing, the friend finds it, and the animal that used it gets a replacement."""
    finder = rng.pick("frog", "snail", "beetle")
    treasure, where, use = rng.pick(
        ("scarf", "in the wind", "blanket"),
        ("hat", "in the wind", "house"),
        ("cup", "at a picnic", "bath"),
        ("spoon", "at a picnic", "mirror"),
    )
    thing = f"{rng.choice(COLORS)} {treasure}"
    return [
        rng.opening(hero, f"lost {hero.his} {thing} {where} near {rng.choice(PLACES)}"),
        f"{hero} looked {rng.pick('behind every tree', 'under every stone', 'in every bush')}, but the {thing} was gone.",
        f'"{rng.pick("Four eyes see more than two", "Do not cry")}," said {rng.introduce(friend)}, and helped {hero}.',
        f"Soon the {friend} found {a(finder)} who used the {thing} as {a(use)}.",
        f"{hero} made the {finder} a new {use} and got the {thing} back.",
        rng.pick(
            f"{hero} never lost the {thing} again.",
            f"{hero} was so happy that {hero.he} hugged the {friend}, and then the {finder}.",
        ),
    ]


def storm(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero shares a small shelter in bad weather, and is warmed by a fire in return."""
    place, cover = rng.choice(PLACES), rng.pick("umbrella", "hat", "blanket")
    weather, sight = rng.pick(("rain", "wet"), ("snow", "white"))
    return [
        rng.opening(hero, f"walked to {place} with a big {cover}"),
        f"Soon the sky turned {rng.pick('black', 'dark', 'gray')} and {weather} began to fall.",
        f"Under a tree {hero} saw {rng.introduce(friend)}, {sight} from head to toes.",
        f'"There is room for two under my {cover}," said {hero}, but there was only room for one and a half.',
        f"In return, the {friend} took {hero} home, lit a fire and made hot {rng.pick('tea', 'milk', 'cocoa', 'soup')}.",
        rng.pick(
            f"The {cover} dried by the fire, and so did they.",
            f"{hero} and the {friend} told jokes until the {weather} stopped.",
            f"{hero} got to {place} a day late and very happy.",
        ),
    ]


def sharing(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero gives away the bigger half of a treat, and receives food when in need."""
    treat, food = rng.choice(TREATS), rng.pick("pears", "nuts", "apples", "carrots")
    trouble = rng.pick("The frost took my garden", "A flood took my garden", "The snails ate my garden")
    return [
        rng.opening(hero, f"baked {a(treat)}"),
        f"Somebody knocked at the door: it was {rng.introduce(friend)}.",
        f'"{trouble}," said the {friend}. "I have one {rng.pick("pea", "bean")} left."',
        f"{hero} cut the {treat} in two and gave the {friend} the bigger half.",
        f"Then winter came, and {hero} had nothing to eat.",
        f"Somebody knocked at the door: it was the {friend} with a basket of {food}.",
        f'"The bigger half is for you," said the {friend}.',
        rng.pick(f"{hero} had never eaten better {food}.", f"{hero} and the {friend} ate until they were round."),
    ]


def crossing(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero builds a bridge and crosses a river despite being afraid."""
    treat, river, bridge = rng.choice(TREATS), rng.pick("river", "stream"), rng.pick("log", "plank", "ladder")
    cheer = rng.pick("Look at my hat", "Look at me", f"Think of the {treat}")
    return [
        rng.opening(hero, f"wanted to bring {a(treat)} to {rng.introduce(friend)} across the {river}"),
        f"But {rng.pick('the wind', 'a flood')} had broken the bridge, and {hero} was afraid of the water.",
        f"Then {hero} found a long {bridge} and pushed it over the {river}.",
        f'"Do not look down," called the {friend}. "{cheer}!"',
        f"Step by step, with the {treat} on {hero.his} head, {hero} walked over the {bridge}.",
        rng.pick(
            f"On the way home, {hero} crossed the {river} three times, just for fun.",
            f"{hero} and the {friend} ate every crumb of the {treat}.",
            f"{hero} was never afraid of the {river} again.",
        ),
    ]


def gift(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero makes a gift with a flaw, and the flaw makes it better."""
    need, made, present, flaw, joy = rng.pick(
        ("was always cold", "knitted", "scarf", "much too long", "long enough for two"),
        ("always had tired feet", "built", "chair", "so crooked that it rocked", "a rocking chair"),
        ("often got wet in the rain", "made", "umbrella", "much too big", "big enough for two"),
        ("could not sleep well", "sewed", "pillow", "as round as a ball", "as round as my head"),
    )
    thing = f"{rng.choice(COLORS)} {present}"
    return [
        rng.opening(hero, f"wanted to make a gift for {rng.introduce(friend)}"),
        f"The {friend} {need}, so {hero} {made} {a(thing)}.",
        f"But the {thing} came out {flaw}, and {hero} hid it {rng.pick('behind a tree', 'under a blanket')}.",
        f"The {friend} saw it and {rng.pick('laughed', 'jumped')} for joy.",
        f'"It is {joy}," said the {friend}. "I love it!"',
        rng.pick(
            f"The {friend} used the {thing} every day.",
            f"Soon everybody wanted {a(thing)}.",
            f"{hero} baked {a(rng.choice(TREATS))} too, but that is another story.",
        ),
    ]


def race(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero could win a race, but stops to help the friend."""
    place, treat = rng.choice(PLACES), rng.choice(TREATS)
    return [
        rng.opening(hero, f"ran a race to {place} with {rng.introduce(friend)}"),
        f"The prize was {a(treat)}, and the {friend} was soon far ahead of {hero}.",
        f"But then the {friend} looked back to laugh and ran into {rng.pick('a tree', 'a fence', 'a cow')}.",
        f"{hero} could have won, but {hero.he} stopped and put a {rng.pick('wet leaf', 'cold stone')} on the bump.",
        f"{hero} and the {friend} {rng.pick('walked', 'danced')} to {place} together and shared the {treat}.",
        rng.pick(
            "The judge, a snail, had never seen such a fast race.",
            "It was the slowest race of the year, and the best.",
            f'"You won," said the {friend}. "We both did," said {hero}.',
        ),
    ]


def noise(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero is afraid of a sound at night and finds a harmless cause."""
    light, monster = rng.pick("candle", "lantern", "lamp"), rng.pick("ghost", "giant", "dragon", "wolf")
    sound = rng.pick("tapping", "scratching", "humming")
    wish, remedy = rng.pick(
        ("wanted some sugar", "filled a big cup"),
        ("was cold", "found a warm blanket"),
        ("could not sleep", "made milk for two"),
        ("was hungry", "made toast for two"),
    )
    return [
        rng.opening(hero, f"heard a strange {sound} at the {rng.pick('door', 'window')}", EVENINGS),
        f'"I hope it is not a {monster}," whispered {hero}, and hid under the {rng.pick("bed", "blanket", "table")}.',
        f"But the {sound} did not stop, so {hero} lit a {light} and went to look.",
        f"It was only {rng.introduce(friend)} who {wish}!",
        f"{hero} laughed at {hero.him}self, let the {friend} in and {remedy}.",
        rng.pick(
            f"When {hero} blew out the {light}, the dark felt soft and friendly.",
            f"{hero} was never afraid of {sound} again.",
        ),
    ]


def riddle(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero solves a riddle with a thing from the first sentence."""
    place = rng.choice(PLACES)
    thing, question = rng.pick(
        ("comb", "has many teeth but never bites"),
        ("needle", "has one eye but cannot see"),
        ("clock", "has two hands but never washes them"),
        ("bottle", "has a neck but no head"),
        ("candle", "gets shorter when it gets older"),
        ("shoe", "has a tongue but cannot talk"),
        ("potato", "has many eyes but never cries"),
    )
    return [
        rng.opening(hero, f"walked to {place} with {a(thing)} in {hero.his} bag"),
        f"At the {rng.pick('gate', 'bridge')} sat {rng.introduce(friend)} who asked everybody a riddle.",
        f'"What {question}?" asked the {friend}.',
        f"{hero} thought until {hero.his} {rng.pick('ears', 'nose', 'cheeks')} turned red.",
        f"Then {hero} looked into the bag for {rng.pick('a cookie', 'a nut', 'an apple')} and saw the {thing}.",
        f'"{a(thing).capitalize()}!" cried {hero}. "{rng.pick("Right", "Well done")}," said the {friend}.',
        rng.pick(
            f"At {place}, {hero} asked everybody the same riddle.",
            f"Since that day, {hero} never goes out without {a(thing)}.",
            f"The {friend} needed a new riddle after that.",
        ),
    ]


def useful(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The friend laughs at a thing and later needs it."""
    thing, trouble, remedy = rng.pick(
        ("rope", "had a cart stuck in the mud", "pulled it out"),
        ("lantern", "got lost in the fog", "showed the way home"),
        ("net", "dropped a hat into the pond", "caught it like a fish"),
        ("bucket", "had rain in the bedroom", "caught every drop"),
        ("needle", "tore a coat", "made it whole again"),
    )
    return [
        rng.opening(hero, f"found an old {thing} near {rng.choice(PLACES)}"),
        f'"What can you do with {a(thing)}?" laughed {rng.introduce(friend)}. "{rng.pick("Nothing at all", "Not much")}!"',
        f"But {hero} took the {thing} home.",
        f"{rng.pick('That night', 'The next day', 'A week later')}, the {friend} {trouble}.",
        f"{hero} came with the {thing} and {remedy}.",
        f'"What can you do with {a(thing)}?" asked {hero}. "Everything," said the {friend}.',
        rng.pick(f"Then {hero} and the {friend} laughed.", f"The {friend} never laughed at an old thing again."),
    ]


def seed(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero learns that a seed grows when it is left alone."""
    plant, dish, place = rng.pick("pumpkin", "turnip", "cabbage", "carrot"), rng.pick("soup", "pie"), rng.choice(PLACES)
    return [
        rng.opening(hero, f"planted {a(plant)} seed near {place}"),
        f"Every day {hero} dug it up to see if it had grown, so of course it did not grow.",
        f'"Let it sleep," said {rng.introduce(friend)}. "{rng.pick("Nobody grows without sleep", "Good things take time")}."',
        f"So {hero} only gave it water and {rng.pick('sang to it', 'told it stories', 'waited')}.",
        f"In the fall there was a {plant} as big as {rng.pick('a cow', 'a bed', 'a boat')}!",
        f"{hero} and the {friend} made {plant} {dish} for everybody near {place}.",
        rng.pick(
            f"{hero} kept one seed, and this time {hero.he} let it sleep.",
            f"They ate {plant} {dish} until spring.",
        ),
    ]


def moon(rng: StoryRandom, hero: Hero, friend: str) -> list[str]:
    """The hero takes the reflection of the moon for the moon."""
    water, tool = rng.pick("pond", "well", "river", "lake"), rng.pick("net", "spoon", "basket", "hat")
    return [
        rng.opening(hero, f"saw the moon in the {water} and thought that it had fallen in", EVENINGS),
        f'"{rng.pick("Poor", "Dear")} moon," {rng.pick("cried", "called")} {hero}, "you will catch a cold!"',
        f"{hero} took a {tool} and caught {rng.pick('an old boot', 'a surprised frog', 'a wet leaf')}, but no moon.",
        f"Then {rng.introduce(friend)} came by and pointed up.",
        f'"The moon is in the sky," said the {friend}. "The {water} is only its mirror."',
        f"{hero} laughed and shared {a(rng.choice(TREATS))} with the {friend} by the {water}.",
        rng.pick(
            f"Before bed, {hero} said good night to both moons.",
            "And the moon, warm and dry, looked down on them all night.",
        ),
    ]


PLOTS: tuple[Callable[[StoryRandom, Hero, str], list[str]], ...] = (
    lost, storm, sharing, crossing, gift, race, noise, riddle, useful, seed, moon,
)  # fmt: skip


def story(number: int, seed: int = 0) -> str:
    """Return one story, a function of its number and the seed alone."""
    rng = StoryRandom(f"{seed}/{number}")
    return " ".join(rng.choice(PLOTS)(rng, rng.hero(), rng.choice(FRIENDS)))


class Tales(Dataset):
    """Short fables of one line each, generated on the fly."""

    summary: ClassVar[str] = "fables of a few sentences, generated by a grammar: no download, any number of them"
    stories: int = Field(12000, ge=1, le=10_000_000, description="number of stories")
    seed: int = Field(0, ge=0, description="random seed; each seed gives different stories")

    def documents(self) -> Iterator[str]:
        """Yield the stories in order; a larger `stories` only appends to them."""
        return (story(number, self.seed) for number in range(self.stories))
