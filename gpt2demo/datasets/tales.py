"""The example dataset `tales`: fables about a few animals and children, told by a small grammar.

A plot is a function. It casts one or two characters, makes a few choices that belong together, and returns the sentences
of a story. What sentence one says (who, what, where) comes back in later ones, because that is what attention has to find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import ClassVar, TypeVar

from pydantic import Field

from gpt2demo.interfaces import Dataset

T = TypeVar("T")

# Who lives here: kind and name. Nobody shares a name, so that whoever is met in one story can be known again in another.
HE = {"mouse": "Pip", "hedgehog": "Otto", "fox": "Finn", "badger": "Bruno", "bear": "Hugo", "pig": "Oscar", "donkey": "Ned"}
HE |= {"duck": "Toby", "boy": "Max"}
SHE = {"rabbit": "Rosa", "squirrel": "Tilly", "mole": "Mia", "goat": "Clara", "cat": "Luna", "owl": "Dora", "goose": "Emma"}
SHE |= {"robin": "Ruby", "girl": "Ida"}
VILLAGE = {**{kind: (name, "he") for kind, name in HE.items()}, **{kind: (name, "she") for kind, name in SHE.items()}}
PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}

BIRDS = ("owl", "goose", "duck", "robin")  # they fly and swim: never to be lost in a well or stopped by a river
CHILDREN = ("boy", "girl")
ANIMALS = tuple(kind for kind in VILLAGE if kind not in BIRDS + CHILDREN)
HERO_MOODS = ("small", "little", "young", "shy", "cheerful", "curious", "polite", "dreamy", "gentle", "lively")
FRIEND_MOODS = ("old", "kind", "wise", "calm", "merry", "busy", "patient", "grumpy")

DAYS = ("morning", "day", "sunny morning", "fine day", "quiet morning", "Monday")
EVENINGS = ("evening", "night", "quiet evening", "warm night")
PLACES = ("the old mill", "the market", "the orchard", "the lighthouse", "the green hill", "the school")
COLORS = ("red", "blue", "green", "yellow", "striped")
TREATS = ("apple pie", "plum cake", "honey cake", "cherry pie", "nut cake")


def a(noun: str) -> str:
    """The noun with its article: a fox, an owl."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@dataclass(frozen=True)
class Character:
    """Somebody in a story. Inside an f-string it is simply the name: f"{hero} put on {hero.his} hat"."""

    name: str
    mood: str
    kind: str
    he: str
    him: str
    his: str

    def __str__(self) -> str:
        return self.name

    @property
    def intro(self) -> str:
        """The first mention: a small owl named Pip."""
        return f"{a(self.mood)} {self.kind} named {self.name}"

    @property
    def the(self) -> str:
        """A later mention: the small owl."""
        return f"the {self.mood} {self.kind}"


class Teller(Random):
    """The random choices of one story."""

    def pick(self, *options: T) -> T:
        """One of the options."""
        return self.choice(options)

    def hero(self) -> Character:
        """The one whom the story is about."""
        return self._cast(HERO_MOODS, ANIMALS + CHILDREN)

    def pair(self, friends: tuple[str, ...] = ANIMALS) -> tuple[Character, Character]:
        """A hero, and a friend of another kind."""
        hero = self.hero()
        return hero, self._cast(FRIEND_MOODS, tuple(kind for kind in friends if kind != hero.kind))

    def _cast(self, moods: tuple[str, ...], kinds: tuple[str, ...]) -> Character:
        kind = self.choice(kinds)
        name, he = VILLAGE[kind]
        return Character(name, self.choice(moods), kind, *PRONOUNS[he])

    def opening(self, hero: Character, did: str, times: tuple[str, ...] = DAYS) -> str:
        """The first sentence: who did what."""
        return self.pick(
            f"Once upon a time, {hero.intro} {did}.",
            f"Once upon a time, there was {hero.intro} who {did}.",
            f"One {self.choice(times)}, {hero.intro} {did}.",
            f"One {times[0]}, {hero.intro} {did}.",
            f"There was {hero.intro} who {did}.",
            f"There was once {hero.intro} who {did}.",
            f"Long ago, {hero.intro} {did}.",
        )


# ---- The plots. Each is one function: first the choices that belong together, then the sentences in order. ----


def lost(t: Teller) -> list[str]:
    """Something gets lost for a reason, two look for it, and the reason is mended."""
    hero, friend = t.pair(ANIMALS + BIRDS)
    color, place, finder = t.choice(COLORS), t.choice(PLACES), t.pick("hen", "frog", "crow", "lamb")
    wore, thing, cause, remedy = t.pick(
        ("wore", t.pick("scarf", "ribbon", "hat"), "the wind blew it away", "tied it on with two knots"),
        ("carried", t.pick("button", "marble", "whistle"), "it fell through a hole in a pocket", "sewed up the hole"),
    )
    return [
        t.opening(hero, f"{wore} {hero.his} {color} {thing} to {place}"),
        f"On the way, {cause}.",
        f"{hero} looked {t.pick('behind every tree', 'under every stone', 'in every bush')}, but the {thing} was gone.",
        f'"{t.pick("Four eyes see more than two", "Do not cry")}," said {friend.intro}, and they looked together.',
        f"Near {place} they found it: {a(finder)} {t.pick('was sitting on it', 'was showing it to a snail')}.",
        f"Then {friend} {remedy}.",
        t.pick(
            f"{hero} never lost the {color} {thing} again.",
            f"{hero} was so happy that {hero.he} hugged {friend}, and then the {finder}.",
            f"The {finder} got a cookie for taking good care of the {color} {thing}.",
        ),
    ]


def storm(t: Teller) -> list[str]:
    """Bad weather, a shelter that is too small, and a warm fire in return."""
    hero, friend = t.pair()
    place, cover, drink = t.choice(PLACES), t.pick("umbrella", "hat", "blanket"), t.pick("tea", "milk", "cocoa", "soup")
    weather, sight = t.pick(
        ("rain", "wet from nose to toes"),
        ("snow", "white from nose to toes"),
        ("hail", "with a bump on the nose"),
    )
    return [
        t.opening(hero, f"walked to {place} with a big {cover}"),
        f"Soon the sky turned {t.pick('black', 'dark', 'gray')} and {weather} began to fall.",
        f"Under a tree stood {friend.intro}, {sight}.",
        f'"There is room for two under my {cover}," said {hero}, but there was only room for one and a half.',
        f"In return, {friend} took {hero} home, lit a fire and made hot {drink}.",
        f"They {t.pick('told jokes', 'sang songs', 'played cards')} until the {weather} stopped.",
        t.pick(
            f"The {cover} dried by the fire, and so did they.",
            f"{hero} got to {place} a day late and very happy.",
            f"From then on, {friend} liked {weather} very much.",
        ),
    ]


def sharing(t: Teller) -> list[str]:
    """The bigger half is given away, and comes back."""
    hero, friend = t.pair(ANIMALS + BIRDS)
    treat, food = t.choice(TREATS), t.pick("pears", "nuts", "apples", "carrots", "bread")
    trouble = t.pick("The frost took my garden", "A flood took my garden", "The snails ate my garden")
    return [
        t.opening(hero, f"baked {a(treat)}"),
        f"There was a knock at the door, and outside stood {friend.intro}.",
        f'"{trouble}," said {friend}. "I have one {t.pick("pea", "bean", "nut")} left."',
        f"{hero} cut the {treat} in two and gave {friend} the bigger half.",
        f"When winter came, {t.pick('snow closed the road', 'the cupboard was empty')} and {hero} was hungry.",
        f"There was a knock at the door, and outside stood {friend} with a basket of {food}.",
        f'"The bigger half is for you," said {friend.the}.',
        t.pick(f"{hero} had never eaten better {food}.", "They ate until they were round.", "It tasted of friendship."),
    ]


def crossing(t: Teller) -> list[str]:
    """A river without a bridge, a good idea, and courage one step at a time."""
    hero, friend = t.pair()
    treat, river = t.choice(TREATS), t.pick("river", "stream")
    cause = t.pick("a flood had taken the bridge away", "the wind had broken the bridge", "the bridge had fallen down")
    bridge, idea = t.pick(
        ("log", "pushed a long log over the water"),
        ("stones", "put a row of flat stones in the water"),
        ("plank", "put a strong plank over the water"),
    )
    return [
        t.opening(hero, f"wanted to bring {a(treat)} to {friend.intro} across the {river}"),
        f"But {cause}, and the water was {t.pick('cold', 'loud', 'deep')}.",
        f"{hero} was afraid, but then {hero.he} {idea}.",
        f'"Do not look down," called {friend}. "{t.pick("Look at my hat", "Look at me", "Think of tea")}!"',
        f"Step by step, with the {treat} on {hero.his} head, {hero} walked over the {bridge}.",
        f"{friend} {t.pick('cheered', 'danced', 'clapped')}, and they ate every crumb.",
        t.pick(
            f"On the way home, {hero} crossed the {river} three times, just for fun.",
            f"Now everybody uses the {bridge}, even the ducks.",
            f"{hero} was never afraid of the {river} again.",
        ),
    ]


def gift(t: Teller) -> list[str]:
    """A gift that fits a need, comes out wrong, and is right because of it."""
    hero, friend = t.pair()
    color = t.choice(COLORS)
    need, made, thing, flaw, joy = t.pick(
        ("was always cold", "knitted", "scarf", "much too long", "long enough for two"),
        ("could not see at night", "made", "lantern", "with a big nose", "as funny as it is bright"),
        ("always had tired feet", "built", "chair", "so crooked that it rocked", "a rocking chair"),
        ("often got wet in the rain", "made", "umbrella", "much too big", "big enough for two"),
        ("could not sleep well", "sewed", "pillow", "as round as a ball", "as round as my head"),
    )
    return [
        t.opening(hero, f"wanted to make a birthday gift for {friend.intro}"),
        f"{friend} {need}, so {hero} {made} {a(color)} {thing}.",
        f"It took {t.pick('three days', 'a week', 'all winter')}, and the {thing} came out {flaw}.",
        f"{hero} felt {t.pick('sad', 'foolish')} and hid it {t.pick('behind a tree', 'under a blanket')}.",
        f'But {friend} saw it and {t.pick("laughed", "jumped")} for joy. "It is {joy}," said {friend.the}. "I love it!"',
        t.pick(
            f"{friend} used the {color} {thing} every day.",
            f"Soon everybody wanted {a(color)} {thing}.",
            f"{hero} baked {a(t.choice(TREATS))} too, but that is another story.",
        ),
    ]


def race(t: Teller) -> list[str]:
    """The slow one could win, and stops to help."""
    hero, friend = t.pair()
    place, treat = t.choice(PLACES), t.choice(TREATS)
    trouble, rescue = t.pick(
        (f"it had rained all night, and {friend} got stuck in the mud", f"pulled {friend} out with a stick"),
        (f"there was ice on the road, and {friend} slid into a hole", f"pulled {friend} out with a rope"),
        (f"{friend} looked back to laugh and ran into a bush", "picked out every thorn"),
    )
    return [
        t.opening(hero, f"ran a race to {place} with {friend.intro}"),
        f"The prize was {a(treat)}, and {friend} was soon far ahead.",
        f"But {trouble}.",
        f'"Help!" {t.pick("cried", "called")} {friend.the}.',
        f"{hero} could have won, but {hero.he} stopped and {rescue}.",
        f"They {t.pick('walked', 'danced', 'ran')} the rest of the way to {place} together and shared the {treat}.",
        t.pick(
            "The judge, a snail, had never seen such a fast race.",
            "It was the slowest race of the year, and the best.",
            f'"You won," said {friend}. "We both did," said {hero}.',
        ),
    ]


def noise(t: Teller) -> list[str]:
    """A sound in the dark, a light to look with, and a very small cause."""
    hero = t.hero()
    light, monster = t.pick("candle", "lantern", "lamp"), t.pick("ghost", "giant", "dragon", "wolf")
    sound, where, cause, remedy = t.pick(
        ("tapping", "at the window", "a branch in the wind", "tied the branch back with a string"),
        ("scratching", "at the door", "a wet kitten", "gave the kitten some warm milk"),
        ("rattling", "in the kitchen", "a beetle in a teacup", "carried the beetle back to the garden"),
        ("humming", "under the bed", "a cricket with a song", "asked the cricket for a slower song"),
    )
    return [
        t.opening(hero, f"heard a strange {sound} {where}", EVENINGS),
        f'"{t.pick("I hope it is not", "Maybe it is")} a {monster}," whispered {hero}, and hid under the blanket.',
        f"But the {sound} did not stop, so {hero} lit a {light} and went to look.",
        f"It was only {cause}!",
        f"{hero} laughed at {hero.him}self and {remedy}.",
        f"Then {hero.he} blew out the {light}, and the dark felt {t.pick('soft', 'warm', 'kind')} and friendly.",
        t.pick(f"Soon {hero.the} was asleep.", f"{hero} slept until {t.pick('morning', 'noon')}.", "Good night!"),
    ]


def riddle(t: Teller) -> list[str]:
    """The answer to the riddle has been in the bag since the first sentence."""
    hero, friend = t.pair(ANIMALS + BIRDS)
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
        f"At the {t.pick('gate', 'bridge')} sat {friend.intro}, who asked everybody a riddle.",
        f'"What {question}?" asked {friend}.',
        f"{hero} thought until {hero.his} {t.pick('ears', 'nose', 'cheeks')} turned red.",
        f"Then {hero.he} looked into the bag for {t.pick('a cookie', 'a nut', 'an apple')} and saw the {thing}.",
        f'"{a(thing).capitalize()}!" cried {hero}. "{t.pick("Right", "Well done")}," said {friend.the}.',
        t.pick(
            f"At {place}, {hero} asked everybody the same riddle.",
            f"Since that day, {hero} never goes out without {a(thing)}.",
            f"{friend} needed a new riddle after that.",
        ),
    ]


def useful(t: Teller) -> list[str]:
    """A thing that somebody laughs at turns out to be what that somebody needs."""
    hero, friend = t.pair()
    thing, trouble, remedy = t.pick(
        ("rope", "fell into a dry well", "It was just long enough"),
        ("ladder", "climbed on a roof and could not get down", "It was just long enough"),
        ("lantern", "got lost in the dark forest", "Its light showed the way home"),
        ("bell", "got lost in the fog", "Its sound showed the way home"),
        ("net", "dropped a hat into the pond", "It caught the hat like a fish"),
        ("bucket", "had rain in the bedroom", "It caught every drop"),
    )
    return [
        t.opening(hero, f"found an old {thing} behind {t.choice(PLACES)}"),
        f'"What can you do with {a(thing)}?" laughed {friend.intro}. "{t.pick("Nothing at all", "Not much")}!"',
        f"But {hero} took the {thing} home and {t.pick('cleaned it', 'put it by the door')}.",
        f"{t.pick('That night', 'The next day', 'A week later')}, {friend} {trouble}.",
        f'"Help!" {t.pick("cried", "called")} {friend.the}, and {hero} came with the {thing}.',
        f"{remedy}.",
        f'"What can you do with {a(thing)}?" asked {hero}. "Everything," said {friend}.',
        t.pick("Then they both laughed.", f"{friend} never laughed at old things again."),
    ]


def seed(t: Teller) -> list[str]:
    """A seed that is dug up every day cannot grow."""
    hero, friend = t.pair(ANIMALS + BIRDS)
    plant, dish = t.pick("pumpkin", "turnip", "cabbage", "carrot"), t.pick("soup", "pie")
    place = t.choice(PLACES)
    return [
        t.opening(hero, f"planted {a(plant)} seed near {place}"),
        f"Every {t.pick('morning', 'day')} {hero} dug it up to see if it had grown, so of course it did not grow.",
        f'"Let it sleep," said {friend.intro}. "{t.pick("Nobody grows without sleep", "Good things take time")}."',
        f"So {hero} only gave it water and {t.pick('sang to it', 'told it stories', 'waited')}.",
        f"In the fall there was a {plant} as big as {t.pick('a cow', 'a bed', 'a boat')}!",
        f"{hero} and {friend} made {plant} {dish} for everybody near {place}.",
        t.pick(
            f"{hero} kept one seed, and this time {hero.he} let it sleep.",
            f"They ate {plant} {dish} until spring.",
            f"There was so much {dish} that even {friend.the} said no to more.",
        ),
    ]


def moon(t: Teller) -> list[str]:
    """The moon has fallen into the water, or so it seems."""
    hero, friend = t.pair(ANIMALS + BIRDS)
    water, tool = t.pick("pond", "well", "river", "lake"), t.pick("net", "spoon", "basket", "hat")
    return [
        t.opening(hero, f"saw the moon in the {water} and thought that it had fallen in", EVENINGS),
        f'"{t.pick("Poor", "Dear")} moon," {t.pick("cried", "called")} {hero}, "you will catch a cold!"',
        f"{hero} took a {tool} and caught {t.pick('an old boot', 'a surprised frog', 'a wet leaf')}, but no moon.",
        f"Then {friend.intro} came by and pointed up.",
        f'"The moon is in the sky," said {friend}. "The {water} is only its mirror."',
        f"{hero} {t.pick('laughed', 'was glad')}, and they sat by the {water} and shared {a(t.choice(TREATS))}.",
        t.pick(
            f"Before bed, {hero} said good night to both moons.",
            "And the moon, warm and dry, looked down on them all night.",
        ),
    ]


def favor(t: Teller) -> list[str]:
    """Somebody very small gives help back."""
    hero = t.hero()
    friend, trouble, rescue, later, reward = t.pick(
        ("bee", "in a bucket of water", "lifted it out with a leaf", "had no honey", "brought a cup of it"),
        ("spider", "whose web was broken", "gave it a corner by the window", "tore a coat", "mended it with silk"),
        ("firefly", "in a bottle", "let it fly", "got lost in the dark forest", "lit the way home"),
        ("ant", "in a puddle", "pulled it out with a stick", "dropped a bag of rice", "picked up every grain"),
    )
    return [
        t.opening(hero, f"found {a(friend)} {trouble}"),
        f"{hero} felt sorry for the {friend} and {rescue}.",
        f'"Thank you," said the {friend}. "One day I will help you too."',
        f"{hero} smiled, because the {friend} was smaller than {t.pick('a button', 'a pea', 'a nut', 'a crumb')}.",
        f"{t.pick('A week later', 'In the fall', 'The next day')}, {hero} {later}.",
        f"But the {friend} {t.pick('saw it', 'heard of it')} and {reward}.",
        t.pick(
            f'"You are bigger than you look," said {hero.the}.',
            f"Now the {friend} comes to tea every Sunday.",
            f"{hero} never smiled at a small friend again, except to say hello.",
        ),
    ]


PLOTS: tuple[Callable[[Teller], list[str]], ...] = (
    lost, storm, sharing, crossing, gift, race, noise, riddle, useful, seed, moon, favor,
)  # fmt: skip


def tell(number: int, seed: int = 0) -> str:
    """Story `number` of a seed. It depends on nothing else."""
    teller = Teller(f"{seed}/{number}")
    return " ".join(teller.choice(PLOTS)(teller))


class Tales(Dataset):
    """Short fables, one to a line, made on the spot."""

    summary: ClassVar[str] = "fables of a few sentences, made by a grammar: no download, any number of them"
    stories: int = Field(12000, ge=1, le=10_000_000, description="how many stories")
    seed: int = Field(0, ge=0, description="another seed gives other stories")

    def documents(self) -> Iterator[str]:
        """The stories in order; asking for more of them only adds further ones at the end."""
        return (tell(number, self.seed) for number in range(self.stories))
