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
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2demo.config import GenerateConfig, parse_spec
from gpt2demo.errors import Error
from gpt2demo.generation.continuation import Continuation
from gpt2demo.interfaces import Decoder, Engine, Sampler, SamplingEngine
from gpt2demo.sampling.draw import Chain, Floats, Ids, Uniforms


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
