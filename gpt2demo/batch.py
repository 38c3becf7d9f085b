"""Texts that are written together, one token each per step: what the engine reads, what is drawn, and where a text ends.

Past the context length: of a prompt that is too long the model reads the last `n_positions` ids. When a text has taken all
positions, its older half is dropped and the newer half is read again as if the text began there. That is decided here, the same
for every engine, with and without a cache, and the same for a text of a batch as for the text alone.

Every row draws from the stream keyed by (seed, row, position), where `row` is the number of the sample among its prompt's, from
0, and `position` counts from the start of the row's own prompt: a text does not depend on its neighbours, and can be written
again alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpt2demo.config import GenerateConfig, parse_spec
from gpt2demo.drawing import Chain, Drawn, Floats, Ids, Uniforms
from gpt2demo.errors import Error, SettingError
from gpt2demo.explaining import Explanation, TokenLogprob, explanation, token_logprob
from gpt2demo.interfaces import Decoder, Engine, Sampler, SamplingEngine
from gpt2demo.streaming import StopText, StreamDecoder

StopReason = Literal["length", "end", "stop"]


def ends(tokenizer: Decoder, stop_tokens: Sequence[int | str]) -> dict[int, StopReason]:
    """The ids that end a text, each with the reason: the tokenizer's end-of-text id, and the stop tokens.

    Args:
        tokenizer: knows the tokens.
        stop_tokens: an id, also in digits, or what a token says alone.

    Raises:
        SettingError: there is no such token.
    """
    found: dict[int, StopReason] = {}
    for token in stop_tokens:
        found |= dict.fromkeys(_ids_of(tokenizer, token), "stop")
    return found if tokenizer.eos_id is None else {**found, tokenizer.eos_id: "end"}


def _ids_of(tokenizer: Decoder, token: int | str) -> list[int]:
    every = range(tokenizer.vocab_size)
    index = int(token) if isinstance(token, int) or token.isdecimal() else None
    ids = [i for i in every if tokenizer.decode([i]) == token] if index is None else [index] if index in every else []
    if not ids:
        raise SettingError(
            f"stop_tokens={token!r}: there is no such token; give an id from 0 to {len(every) - 1}, or a token's text"
        )
    return ids


class Continuation:
    """What a model writes behind one prompt.

    Args:
        tokenizer: ids to text.
        prompt: the prompt's ids, at least one.
        config: length, stops, and what to note of each token.
        seed: of the generation.
        row: the number of its stream: which of the prompt's samples it is, from 0.
        n_positions: the model's context.
        ends: what `ends` gives for the tokenizer and the config.

    Attributes:
        prompt: the prompt's ids.
        ids: the generated ids so far, without the prompt's, with the one that ended the text.
        text: the text given out so far.
        seed: the seed that is used.
        row: the number of its stream.
        reason: why it ended: `length`, `end` (the tokenizer's end-of-text id) or `stop` (a stop text or stop token); None while
            it runs.
        dropped: how many ids of the prompt the model did not read because the context is shorter.
        rereads: for each time that the context was full and its newer half was read again, how many ids had been generated.
        logprobs: of each generated token, where the config asks for them.
        explanations: of each generated token, where the config asks for them.
        time_to_first_token_ms: from the start to the first id, in milliseconds.
    """

    def __init__(
        self,
        tokenizer: Decoder,
        prompt: Sequence[int],
        config: GenerateConfig,
        *,
        seed: int,
        row: int,
        n_positions: int,
        ends: Mapping[int, StopReason],
    ) -> None:
        self.prompt = list(prompt)
        self.ids: list[int] = []
        self.text = ""
        self.seed = seed
        self.row = row
        self.reason: StopReason | None = None if config.max_new_tokens else "length"
        self.dropped = max(0, len(self.prompt) - n_positions)
        self.rereads: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.explanations: list[Explanation] = []
        self.time_to_first_token_ms = 0.0
        self._seconds = 0.0
        self._tokenizer = tokenizer
        self._config = config
        self._n_positions = n_positions
        self._ends = ends
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopText(config.stop)

    @property
    def tokens_per_second(self) -> float:
        """Speed after the first token; of everything when there is only one."""
        if len(self.ids) < 2 or self._seconds <= self.time_to_first_token_ms / 1000:
            return len(self.ids) / self._seconds if self._seconds else 0.0
        return (len(self.ids) - 1) / (self._seconds - self.time_to_first_token_ms / 1000)

    @property
    def notes(self) -> list[str]:
        """What a reader of the text should know: what the model did not read, or had to forget."""
        notes = []
        if self.dropped:
            notes.append(f"the prompt is longer than the context; its first {self.dropped} tokens are not read")
        if self.rereads:
            times = "once" if len(self.rereads) == 1 else f"{len(self.rereads)} times"
            again = f"its older half was forgotten and the newer half read again, {times}"
            notes.append(f"the context of {self._n_positions} tokens was full after {self.rereads[0]} new ones: {again}")
        return notes

    def note(self, drawn: Drawn, place: int) -> None:
        """Keep what the config wants to know of a draw in which this is the row at `place`."""
        if self._config.logprobs is not None:
            self.logprobs.append(token_logprob(self._tokenizer, drawn, place, self._config.logprobs))
        if self._config.explain:
            self.explanations.append(explanation(self._tokenizer, drawn, place, self._config.chain))

    def take(self, index: int, seconds: float) -> str:
        """Take a drawn id; give the text that may be shown now. Decides whether the text ends here.

        Args:
            index: the id.
            seconds: that it took.
        """
        self.ids.append(index)
        self._seconds += seconds
        if len(self.ids) == 1:
            self.time_to_first_token_ms = seconds * 1000
        self.reason = self._ends.get(index)
        piece = "" if self.reason else self._stops.push(self._decoder.push(index))
        if self._stops.found:
            self.reason = "stop"
        elif self.reason or len(self.ids) == self._config.max_new_tokens:
            self.reason = self.reason or "length"
            piece += self._rest()
        self.text += piece
        return piece

    def _rest(self) -> str:
        """What was held back; it may still hold a stop text."""
        rest = self._stops.push(self._decoder.flush())
        if self._stops.found:
            self.reason = "stop"
        return rest + self._stops.flush()


class Batch:
    """Rows that are written together. Rows that have ended are not drawn any more.

    Samplers never see padding: they get the texts of all rows whose prompts are equally long in one call. A chain with a sampler
    that may have a state (one that says `traceable = False`) is called for each row by itself.

    Args:
        engine: what computes; its cache is emptied first.
        tokenizer: only its ids are drawn.
        rows: the texts to write, at least one.
        config: the same for all of them.
        samplers: the chain.

    Attributes:
        running: the numbers of the rows that have not ended.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Decoder,
        rows: Sequence[Continuation],
        config: GenerateConfig,
        samplers: Sequence[Sampler],
    ) -> None:
        self._engine = engine
        self._vocab_size = tokenizer.vocab_size
        self._rows = rows
        self._end = max(len(row.prompt) for row in rows)
        self._starts = [self._end - len(row.prompt) for row in rows]
        self._windows = [max(start, self._end - engine.n_positions) for start in self._starts]  # the model reads from here on
        self._ids = np.zeros((len(rows), 2 * self._end), np.int64)  # all texts end in the same column; the array grows
        for row, start, ids in zip(rows, self._starts, self._ids, strict=True):
            ids[start : self._end] = row.prompt
        self._fed: list[int] = []  # the rows in the engine
        self._streams: list[int] = []  # and the numbers of their streams
        self._noting = config.explain or config.logprobs is not None
        self._chains = [(self._chain(samplers, group[0]), group) for group in _groups(self._starts, samplers)]
        engine.reset()
        self._uniforms = Uniforms(rows[0].seed)
        self.running = self._not_ended()
        self._inside = self._sampling_engine(engine, config.chain, samplers)

    def _sampling_engine(self, engine: Engine, specs: Sequence[str], samplers: Sequence[Sampler]) -> SamplingEngine | None:
        """The engine, ready to draw by itself, where it has this very chain inside and nobody asks what happens in there."""
        if self._noting or len(self._chains) > 1 or self._chains[0][0].greedy or not isinstance(engine, SamplingEngine):
            return None
        chain = [(parse_spec(spec)[0], sampler.model_dump()) for spec, sampler in zip(specs, samplers, strict=True)]
        if not engine.takes(chain):
            return None
        engine.set_options(chain)
        return engine

    def _chain(self, samplers: Sequence[Sampler], number: int) -> Chain:
        """The samplers for a row and those that are as long."""
        row = self._rows[number]
        return Chain(samplers, row.seed, len(row.prompt), keep=self._noting)

    def _not_ended(self) -> list[int]:
        return [number for number, row in enumerate(self._rows) if row.reason is None]

    def step(self) -> list[str]:
        """Draw a token for every row that has not ended; give each row's text that may be shown now.

        Raises:
            Error: so many texts do not fit into memory.
        """
        start = time.perf_counter()
        running = self.running
        try:
            self._draw_all()
        except MemoryError:
            texts = f"{len(self._rows)} texts of up to {self._engine.n_positions} positions"
            raise Error(f"out of memory with {texts} at once; try fewer samples or prompts") from None
        self._end += 1
        seconds = time.perf_counter() - start
        pieces = [""] * len(self._rows)
        for number in running:
            row = self._rows[number]
            pieces[number] = row.take(self._ids.item(number, self._end - 1), seconds)
            if row.reason is not None:
                self.running = self._not_ended()
        return pieces

    def _draw_all(self) -> None:
        """Draw for every row, and write the ids behind the texts."""
        if self._end == self._ids.shape[1]:
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)], axis=1)
        if self._inside:
            self._draw_inside(self._inside)
        else:
            logits = self._engine.feed(*self._unread())[:, : self._vocab_size]
            for chain, group in self._chains:
                self._draw(chain, group, logits)

    def _draw_inside(self, engine: SamplingEngine) -> None:
        """Draw for all rows in the engine, by the samplers in its graph, and write the ids behind their texts."""
        ids, padding = self._unread()
        start = self._starts[0]
        text = _selected(self._ids, self._fed)[:, start : self._end]
        numbers = self._uniforms.at(self._end - start, self._streams)
        self._write(self._fed, engine.draw(ids, numbers, text, len(self._rows[0].prompt), padding))

    def _draw(self, chain: Chain, group: list[int], logits: Floats) -> None:
        """Draw for those rows of a group that have not ended, and write the ids behind their texts."""
        every = len(self.running) == len(self._rows)
        numbers = group if every else [number for number in group if number in self.running]
        if not numbers:
            return
        texts = _selected(self._ids, numbers)[:, self._starts[numbers[0]] : self._end]
        places = numbers if every else [self._fed.index(number) for number in numbers]
        drawn = chain.draw(_selected(logits, places), texts, [self._rows[number].row for number in numbers])
        self._write(numbers, drawn.ids)
        if self._noting:
            for place, number in enumerate(numbers):
                self._rows[number].note(drawn, place)

    def _write(self, numbers: list[int], ids: Ids) -> None:
        """Write an id behind the text of each row."""
        if len(numbers) == len(self._rows):
            self._ids[:, self._end] = ids  # a fifth of the time of the general form
        else:
            self._ids[numbers, self._end] = ids

    def _unread(self) -> tuple[Ids, Ids | None]:
        """What the engine has to read before the next draw."""
        if 0 < self._engine.length < self._engine.n_positions:
            return _selected(self._ids, self._fed)[:, self._end - 1 : self._end], None
        self._fed = self.running
        self._streams = [self._rows[number].row for number in self._fed]
        return self._reread()

    def _reread(self) -> tuple[Ids, Ids | None]:
        """What an empty engine has to read: each row's window, with padding where they differ in length.

        The longest window decides when all positions are taken. Then a row whose own window has taken them goes on with its newer
        half; the others are read again as they are, which changes nothing but rounding.
        """
        for number in self._fed:
            if self._end - self._windows[number] > self._engine.n_positions:
                self._windows[number] = self._end - max(1, self._engine.n_positions // 2)
                self._rows[number].rereads.append(len(self._rows[number].ids))
        self._engine.reset()
        windows = np.array([self._windows[number] for number in self._fed])
        ids, padding = self._ids[self._fed, windows.min() : self._end], windows - windows.min()
        return ids, padding if padding.any() else None


def _groups(starts: list[int], samplers: Sequence[Sampler]) -> list[list[int]]:
    """The numbers of the rows that are equally long, or each for itself where a sampler may have a state."""
    numbers = range(len(starts))
    if not all(sampler.traceable for sampler in samplers):
        return [[number] for number in numbers]
    return [[number for number in numbers if starts[number] == start] for start in dict.fromkeys(starts)]


def _selected(array: npt.NDArray[Any], rows: list[int]) -> npt.NDArray[Any]:
    """Some rows of an array; the array itself, not a copy, where they are all."""
    return array if len(rows) == len(array) else array[rows]
