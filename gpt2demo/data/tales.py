"""The example dataset `tales`: fables about small heroes and helpful strangers, told by a small grammar.

A plot is a function: it makes a few choices that belong together and returns the sentences of one story. Nothing is
downloaded and nothing is learned here; this file only makes text for a model to learn from.

The grammar is kind to a tiny model on purpose. A story has one hero with a name, one friend without, one place, one
thing: whatever comes back in a later sentence is found by looking for the only word of its sort further up.
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
FRIENDS = ("owl", "goose", "bear", "badger", "goat", "donkey", "hen", "horse")  # no hero is one of these

DAYS = ("morning", "day", "sunny morning", "Monday")
EVENINGS = ("evening", "night", "quiet evening")
PLACES = ("the mill", "the market", "the orchard", "the lighthouse", "the hill", "the school")
COLORS = ("red", "blue", "green", "yellow")
TREATS = ("apple pie", "plum cake", "honey bun", "cheese tart")


def a(noun: str) -> str:
    """The noun with its article: a fox, an owl."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@dataclass(frozen=True)
class Hero:
    """The one whom a story is about. Inside an f-string a hero is simply the name: f"{hero} put on {hero.his} hat"."""

    name: str
    kind: str
    he: str
    him: str
    his: str

    def __str__(self) -> str:
        return self.name


class Teller(Random):
    """The random choices of one story."""

    def pick(self, *options: T) -> T:
        """One of the options."""
        return self.choice(options)

    def hero(self) -> Hero:
        """Somebody with a name, and with the pronouns of that name."""
        gender = self.pick(*NAMES)
        kind = self.choice(HEROES)
        return Hero(self.choice(NAMES[gender]), CHILD[gender] if kind == "child" else kind, *PRONOUNS[gender])

    def some(self, friend: str) -> str:
        """The first mention of a friend; "the" and the bare word are enough later."""
        return a(f"{self.choice(FRIEND_MOODS)} {friend}")

    def opening(self, hero: Hero, did: str, times: tuple[str, ...] = DAYS) -> str:
        """The first sentence: who did what."""
        who = f"{a(self.choice(MOODS))} {hero.kind} named {hero.name}"
        return self.pick(
            f"Once upon a time, {who} {did}.",
            f"Once upon a time, there was {who} who {did}.",
            f"One {self.choice(times)}, {who} {did}.",
            f"One {times[0]}, {who} {did}.",
            f"There was once {who} who {did}.",
            f"There was {who} who {did}.",
        )


def lost(t: Teller, hero: Hero, friend: str) -> list[str]:
    """Something gets lost, two look for it, and the finder does not go away with nothing."""
    finder = t.pick("frog", "snail", "beetle")
    treasure, where, use = t.pick(
        ("scarf", "in the wind", "blanket"),
        ("hat", "in the wind", "house"),
        ("cup", "at a picnic", "bath"),
        ("spoon", "at a picnic", "mirror"),
    )
    thing = f"{t.choice(COLORS)} {treasure}"
    return [
        t.opening(hero, f"lost {hero.his} {thing} {where} near {t.choice(PLACES)}"),
        f"{hero} looked {t.pick('behind every tree', 'under every stone', 'in every bush')}, but the {thing} was gone.",
        f'"{t.pick("Four eyes see more than two", "Do not cry")}," said {t.some(friend)}, and helped {hero}.',
        f"Soon the {friend} found {a(finder)} who used the {thing} as {a(use)}.",
        f"{hero} made the {finder} a new {use} and got the {thing} back.",
        t.pick(
            f"{hero} never lost the {thing} again.",
            f"{hero} was so happy that {hero.he} hugged the {friend}, and then the {finder}.",
        ),
    ]


def storm(t: Teller, hero: Hero, friend: str) -> list[str]:
    """Bad weather, a shelter that is too small, and a warm fire in return."""
    place, cover = t.choice(PLACES), t.pick("umbrella", "hat", "blanket")
    weather, sight = t.pick(("rain", "wet"), ("snow", "white"))
    return [
        t.opening(hero, f"walked to {place} with a big {cover}"),
        f"Soon the sky turned {t.pick('black', 'dark', 'gray')} and {weather} began to fall.",
        f"Under a tree {hero} saw {t.some(friend)}, {sight} from head to toes.",
        f'"There is room for two under my {cover}," said {hero}, but there was only room for one and a half.',
        f"In return, the {friend} took {hero} home, lit a fire and made hot {t.pick('tea', 'milk', 'cocoa', 'soup')}.",
        t.pick(
            f"The {cover} dried by the fire, and so did they.",
            f"{hero} and the {friend} told jokes until the {weather} stopped.",
            f"{hero} got to {place} a day late and very happy.",
        ),
    ]


def sharing(t: Teller, hero: Hero, friend: str) -> list[str]:
    """The bigger half is given away, and comes back."""
    treat, food = t.choice(TREATS), t.pick("pears", "nuts", "apples", "carrots")
    trouble = t.pick("The frost took my garden", "A flood took my garden", "The snails ate my garden")
    return [
        t.opening(hero, f"baked {a(treat)}"),
        f"Somebody knocked at the door: it was {t.some(friend)}.",
        f'"{trouble}," said the {friend}. "I have one {t.pick("pea", "bean")} left."',
        f"{hero} cut the {treat} in two and gave the {friend} the bigger half.",
        f"Then winter came, and {hero} had nothing to eat.",
        f"Somebody knocked at the door: it was the {friend} with a basket of {food}.",
        f'"The bigger half is for you," said the {friend}.',
        t.pick(f"{hero} had never eaten better {food}.", f"{hero} and the {friend} ate until they were round."),
    ]


def crossing(t: Teller, hero: Hero, friend: str) -> list[str]:
    """A river without a bridge, a good idea, and courage one step at a time."""
    treat, river, bridge = t.choice(TREATS), t.pick("river", "stream"), t.pick("log", "plank", "ladder")
    cheer = t.pick("Look at my hat", "Look at me", f"Think of the {treat}")
    return [
        t.opening(hero, f"wanted to bring {a(treat)} to {t.some(friend)} across the {river}"),
        f"But {t.pick('the wind', 'a flood')} had broken the bridge, and {hero} was afraid of the water.",
        f"Then {hero} found a long {bridge} and pushed it over the {river}.",
        f'"Do not look down," called the {friend}. "{cheer}!"',
        f"Step by step, with the {treat} on {hero.his} head, {hero} walked over the {bridge}.",
        t.pick(
            f"On the way home, {hero} crossed the {river} three times, just for fun.",
            f"{hero} and the {friend} ate every crumb of the {treat}.",
            f"{hero} was never afraid of the {river} again.",
        ),
    ]


def gift(t: Teller, hero: Hero, friend: str) -> list[str]:
    """A gift that fits a need, comes out wrong, and is right because of it."""
    need, made, present, flaw, joy = t.pick(
        ("was always cold", "knitted", "scarf", "much too long", "long enough for two"),
        ("always had tired feet", "built", "chair", "so crooked that it rocked", "a rocking chair"),
        ("often got wet in the rain", "made", "umbrella", "much too big", "big enough for two"),
        ("could not sleep well", "sewed", "pillow", "as round as a ball", "as round as my head"),
    )
    thing = f"{t.choice(COLORS)} {present}"
    return [
        t.opening(hero, f"wanted to make a gift for {t.some(friend)}"),
        f"The {friend} {need}, so {hero} {made} {a(thing)}.",
        f"But the {thing} came out {flaw}, and {hero} hid it {t.pick('behind a tree', 'under a blanket')}.",
        f"The {friend} saw it and {t.pick('laughed', 'jumped')} for joy.",
        f'"It is {joy}," said the {friend}. "I love it!"',
        t.pick(
            f"The {friend} used the {thing} every day.",
            f"Soon everybody wanted {a(thing)}.",
            f"{hero} baked {a(t.choice(TREATS))} too, but that is another story.",
        ),
    ]


def race(t: Teller, hero: Hero, friend: str) -> list[str]:
    """The slow one could win, and stops to help."""
    place, treat = t.choice(PLACES), t.choice(TREATS)
    return [
        t.opening(hero, f"ran a race to {place} with {t.some(friend)}"),
        f"The prize was {a(treat)}, and the {friend} was soon far ahead of {hero}.",
        f"But then the {friend} looked back to laugh and ran into {t.pick('a tree', 'a fence', 'a cow')}.",
        f"{hero} could have won, but {hero.he} stopped and put a {t.pick('wet leaf', 'cold stone')} on the bump.",
        f"{hero} and the {friend} {t.pick('walked', 'danced')} to {place} together and shared the {treat}.",
        t.pick(
            "The judge, a snail, had never seen such a fast race.",
            "It was the slowest race of the year, and the best.",
            f'"You won," said the {friend}. "We both did," said {hero}.',
        ),
    ]


def noise(t: Teller, hero: Hero, friend: str) -> list[str]:
    """A sound in the dark, a light to look with, and a harmless cause."""
    light, monster = t.pick("candle", "lantern", "lamp"), t.pick("ghost", "giant", "dragon", "wolf")
    sound = t.pick("tapping", "scratching", "humming")
    wish, remedy = t.pick(
        ("wanted some sugar", "filled a big cup"),
        ("was cold", "found a warm blanket"),
        ("could not sleep", "made milk for two"),
        ("was hungry", "made toast for two"),
    )
    return [
        t.opening(hero, f"heard a strange {sound} at the {t.pick('door', 'window')}", EVENINGS),
        f'"I hope it is not a {monster}," whispered {hero}, and hid under the {t.pick("bed", "blanket", "table")}.',
        f"But the {sound} did not stop, so {hero} lit a {light} and went to look.",
        f"It was only {t.some(friend)} who {wish}!",
        f"{hero} laughed at {hero.him}self, let the {friend} in and {remedy}.",
        t.pick(
            f"When {hero} blew out the {light}, the dark felt soft and friendly.",
            f"{hero} was never afraid of {sound} again.",
        ),
    ]


def riddle(t: Teller, hero: Hero, friend: str) -> list[str]:
    """The answer to the riddle has been in the bag since the first sentence."""
    place = t.choice(PLACES)
    thing, question = t.pick(
        ("comb", "has many teeth but never bites"),
        ("needle", "has one eye but cannot see"),
        ("clock", "has two hands but never washes them"),
        ("bottle", "has a neck but no head"),
        ("candle", "gets shorter when it gets older"),
        ("shoe", "has a tongue but cannot talk"),
        ("potato", "has many eyes but never cries"),
    )
    return [
        t.opening(hero, f"walked to {place} with {a(thing)} in {hero.his} bag"),
        f"At the {t.pick('gate', 'bridge')} sat {t.some(friend)} who asked everybody a riddle.",
        f'"What {question}?" asked the {friend}.',
        f"{hero} thought until {hero.his} {t.pick('ears', 'nose', 'cheeks')} turned red.",
        f"Then {hero} looked into the bag for {t.pick('a cookie', 'a nut', 'an apple')} and saw the {thing}.",
        f'"{a(thing).capitalize()}!" cried {hero}. "{t.pick("Right", "Well done")}," said the {friend}.',
        t.pick(
            f"At {place}, {hero} asked everybody the same riddle.",
            f"Since that day, {hero} never goes out without {a(thing)}.",
            f"The {friend} needed a new riddle after that.",
        ),
    ]


def useful(t: Teller, hero: Hero, friend: str) -> list[str]:
    """A thing that somebody laughs at turns out to be what that somebody needs."""
    thing, trouble, remedy = t.pick(
        ("rope", "had a cart stuck in the mud", "pulled it out"),
        ("lantern", "got lost in the fog", "showed the way home"),
        ("net", "dropped a hat into the pond", "caught it like a fish"),
        ("bucket", "had rain in the bedroom", "caught every drop"),
        ("needle", "tore a coat", "made it whole again"),
    )
    return [
        t.opening(hero, f"found an old {thing} near {t.choice(PLACES)}"),
        f'"What can you do with {a(thing)}?" laughed {t.some(friend)}. "{t.pick("Nothing at all", "Not much")}!"',
        f"But {hero} took the {thing} home.",
        f"{t.pick('That night', 'The next day', 'A week later')}, the {friend} {trouble}.",
        f"{hero} came with the {thing} and {remedy}.",
        f'"What can you do with {a(thing)}?" asked {hero}. "Everything," said the {friend}.',
        t.pick(f"Then {hero} and the {friend} laughed.", f"The {friend} never laughed at an old thing again."),
    ]


def seed(t: Teller, hero: Hero, friend: str) -> list[str]:
    """A seed that is dug up every day cannot grow."""
    plant, dish, place = t.pick("pumpkin", "turnip", "cabbage", "carrot"), t.pick("soup", "pie"), t.choice(PLACES)
    return [
        t.opening(hero, f"planted {a(plant)} seed near {place}"),
        f"Every day {hero} dug it up to see if it had grown, so of course it did not grow.",
        f'"Let it sleep," said {t.some(friend)}. "{t.pick("Nobody grows without sleep", "Good things take time")}."',
        f"So {hero} only gave it water and {t.pick('sang to it', 'told it stories', 'waited')}.",
        f"In the fall there was a {plant} as big as {t.pick('a cow', 'a bed', 'a boat')}!",
        f"{hero} and the {friend} made {plant} {dish} for everybody near {place}.",
        t.pick(
            f"{hero} kept one seed, and this time {hero.he} let it sleep.",
            f"They ate {plant} {dish} until spring.",
        ),
    ]


def moon(t: Teller, hero: Hero, friend: str) -> list[str]:
    """The moon has fallen into the water, or so it seems."""
    water, tool = t.pick("pond", "well", "river", "lake"), t.pick("net", "spoon", "basket", "hat")
    return [
        t.opening(hero, f"saw the moon in the {water} and thought that it had fallen in", EVENINGS),
        f'"{t.pick("Poor", "Dear")} moon," {t.pick("cried", "called")} {hero}, "you will catch a cold!"',
        f"{hero} took a {tool} and caught {t.pick('an old boot', 'a surprised frog', 'a wet leaf')}, but no moon.",
        f"Then {t.some(friend)} came by and pointed up.",
        f'"The moon is in the sky," said the {friend}. "The {water} is only its mirror."',
        f"{hero} laughed and shared {a(t.choice(TREATS))} with the {friend} by the {water}.",
        t.pick(
            f"Before bed, {hero} said good night to both moons.",
            "And the moon, warm and dry, looked down on them all night.",
        ),
    ]


PLOTS: tuple[Callable[[Teller, Hero, str], list[str]], ...] = (
    lost, storm, sharing, crossing, gift, race, noise, riddle, useful, seed, moon,
)  # fmt: skip


def tell(number: int, seed: int = 0) -> str:
    """Story `number` of a seed. It depends on nothing else."""
    teller = Teller(f"{seed}/{number}")
    return " ".join(teller.choice(PLOTS)(teller, teller.hero(), teller.choice(FRIENDS)))


class Tales(Dataset):
    """Short fables, one to a line, made on the spot."""

    summary: ClassVar[str] = "fables of a few sentences, made by a grammar: no download, any number of them"
    stories: int = Field(12000, ge=1, le=10_000_000, description="how many stories")
    seed: int = Field(0, ge=0, description="another seed gives other stories")

    def documents(self) -> Iterator[str]:
        """The stories in order; asking for more of them only adds further ones at the end."""
        return (tell(number, self.seed) for number in range(self.stories))
