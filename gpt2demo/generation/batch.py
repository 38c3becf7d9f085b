"""Generate a batch of texts, one token per row and step.

Context limit: if a prompt is longer than `n_positions`, the model reads only its last `n_positions` ids. When a text has filled
all positions, its older half is dropped, and the newer half is read again as if the text began there. This module handles it for
all engines, so it is the same with and without a cache, and the same for a row of a batch as for the text alone.

Random numbers: every row draws from the stream for (seed, sample, position), where `sample` is `Continuation.row`, the number of
the sample among those of its prompt, and `position` counts from the start of the row's own prompt. A text therefore does not
depend on the other rows, and can be generated again alone.

Legend for indices: index = of a row in the batch; place = of a row among those in the engine or passed to a runner, which may be
fewer; column = of an id, the same for all rows, since all texts end in the same column.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2demo.config import GenerateConfig
from gpt2demo.errors import Error
from gpt2demo.generation.continuation import Continuation
from gpt2demo.interfaces import Decoder, Engine, SamplingEngine, TensorEngine
from gpt2demo.memory import out_of_memory
from gpt2demo.sampling.chains import Chain
from gpt2demo.sampling.draw import ChainRunner, Ids, Uniforms


class Batch:
    """Rows that are generated together. A row that has ended gets no more tokens.

    Samplers never see padding: rows with prompts of equal length are passed to them in one call. If a sampler of the chain may
    have a state (`traceable = False`), each row is passed alone.

    Args:
        engine: the model; its cache is emptied first.
        tokenizer: only ids of its vocabulary are drawn.
        rows: the texts to continue, at least one, with the same seed.
        config: the settings of all rows.
        chain: the samplers.

    Attributes:
        running: indices of the rows that have not ended.
    """

    def __init__(
        self, engine: Engine, tokenizer: Decoder, rows: Sequence[Continuation], config: GenerateConfig, chain: Chain
    ) -> None:
        self._engine = engine
        self._vocab_size = tokenizer.vocab_size
        self._rows = rows
        self._chain = chain
        self._end = max(len(row.prompt) for row in rows)  # column after the last id
        self._starts = [self._end - len(row.prompt) for row in rows]  # column of each prompt's first id
        self._windows = [max(start, self._end - engine.n_positions) for start in self._starts]  # the first column the model reads
        self._ids = np.zeros((len(rows), 2 * self._end), np.int64)  # doubled when full
        for row, start, ids in zip(rows, self._starts, self._ids, strict=True):
            ids[start : self._end] = row.prompt
        self._fed: list[int] = []  # indices of the rows in the engine
        self._samples: list[int] = []  # their sample numbers
        self._uniforms = Uniforms(rows[0].seed)
        self._keep_stages = config.explain or config.logprobs is not None
        self._runners = [(self._runner(group[0]), group) for group in _groups(self._starts, chain)]
        self._feed: Callable[[Ids, Ids | None], Any] = engine.feed
        if isinstance(engine, TensorEngine) and engine.provider == "cuda" and not self._keep_stages:
            self._feed = engine.feed_tensor  # the samplers run on the GPU
        engine.reset()
        self.running = self._not_ended()
        self._sampling_engine = self._with_chain_inside(engine)

    def _runner(self, index: int) -> ChainRunner:
        """Return a runner for a row and those of equal length."""
        return ChainRunner(self._chain, self._uniforms, len(self._rows[index].prompt), keep_stages=self._keep_stages)

    def _with_chain_inside(self, engine: Engine) -> SamplingEngine | None:
        """Return the engine if its graph contains this chain and can draw for all rows, and no stages are requested."""
        if self._keep_stages or len(self._runners) > 1 or self._runners[0][0].greedy or not isinstance(engine, SamplingEngine):
            return None
        options = [(item.name, item.sampler.model_dump()) for item in self._chain]
        if not engine.takes(options):
            return None
        engine.set_options(options)
        return engine

    def _not_ended(self) -> list[int]:
        return [index for index, row in enumerate(self._rows) if row.reason is None]

    def step(self) -> list[str]:
        """Draw a token for every row that has not ended, and return each row's new text, which may be empty.

        Raises:
            Error: there is not enough memory for the batch.
        """
        start = time.perf_counter()
        running = self.running
        try:
            self._draw_all()
        except Exception as error:
            if not out_of_memory(error):
                raise
            batch = f"a batch of {len(self._rows)} texts with up to {self._engine.n_positions} positions"
            raise Error(f"out of memory with {batch}; try fewer samples or prompts") from None
        self._end += 1
        seconds = time.perf_counter() - start
        pieces = [""] * len(self._rows)
        for index in running:
            row = self._rows[index]
            pieces[index] = row.append(self._ids.item(index, self._end - 1), seconds)
            if row.reason is not None:
                self.running = self._not_ended()
        return pieces

    def _draw_all(self) -> None:
        """Draw a token for every row that has not ended, and append it to the text."""
        if self._end == self._ids.shape[1]:
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)], axis=1)
        if self._sampling_engine:
            self._draw_inside(self._sampling_engine)
        else:
            ids, padding = self._unread()
            logits = self._feed(ids, padding)[:, : self._vocab_size]
            for runner, group in self._runners:
                self._draw(runner, group, logits)

    def _draw_inside(self, engine: SamplingEngine) -> None:
        """Draw for all rows in the engine with the samplers in its graph. Tokens of ended rows are ignored."""
        ids, padding = self._unread()
        start = self._starts[0]
        text = _selected(self._ids, self._fed)[:, start : self._end]
        uniforms = self._uniforms.at(self._end - start, self._samples)
        self._append(self._fed, engine.draw(ids, uniforms, text, len(self._rows[0].prompt), padding))

    def _draw(self, runner: ChainRunner, group: list[int], logits: Any) -> None:
        """Draw for the rows of a group that have not ended, and append the ids."""
        all_running = len(self.running) == len(self._rows)
        indices = group if all_running else [index for index in group if index in self.running]
        if not indices:
            return
        texts = _selected(self._ids, indices)[:, self._starts[indices[0]] : self._end]
        in_engine = indices if all_running else [self._fed.index(index) for index in indices]
        drawn = runner.draw(_selected(logits, in_engine), texts, [self._rows[index].row for index in indices])
        self._append(indices, drawn.ids)
        if self._keep_stages:
            for place, index in enumerate(indices):
                self._rows[index].explain(drawn, place, self._chain)

    def _append(self, indices: list[int], ids: Ids) -> None:
        """Append an id to the text of each row."""
        if len(indices) == len(self._rows):
            self._ids[:, self._end] = ids  # five times as fast as the general form
        else:
            self._ids[indices, self._end] = ids

    def _unread(self) -> tuple[Ids, Ids | None]:
        """Return the ids, and the padding, for the engine to read before the next draw: the newest ids, or whole windows.

        Windows are read at the start and when the context is full; the engine is then emptied.
        """
        if 0 < self._engine.length < self._engine.n_positions:  # the cache is usable
            return _selected(self._ids, self._fed)[:, self._end - 1 : self._end], None
        self._fed = self.running
        self._samples = [self._rows[index].row for index in self._fed]
        return self._advance_windows()

    def _advance_windows(self) -> tuple[Ids, Ids | None]:
        """Empty the engine, and return each row's window, with padding if their lengths differ.

        The context is full when the longest window has filled it. A row whose own window is full continues with its newer half.
        The other windows are read again unchanged, which changes only rounding.
        """
        for index in self._fed:
            if self._end - self._windows[index] > self._engine.n_positions:
                self._windows[index] = self._end - max(1, self._engine.n_positions // 2)  # at least one id is read
                self._rows[index].rereads.append(len(self._rows[index].ids))
        self._engine.reset()
        windows = np.array([self._windows[index] for index in self._fed])
        padding = windows - windows.min()
        ids = self._ids[self._fed, windows.min() : self._end]
        return ids, padding if padding.any() else None


def _groups(starts: list[int], chain: Chain) -> list[list[int]]:
    """Group the indices of rows of equal length. If a sampler may have a state (`traceable = False`), each row is a group."""
    indices = range(len(starts))
    if not all(item.sampler.traceable for item in chain):
        return [[index] for index in indices]
    return [[index for index in indices if starts[index] == start] for start in dict.fromkeys(starts)]


def _selected(array: Any, rows: list[int]) -> Any:
    """Return some rows of an array or tensor; if all are selected, the array itself instead of a copy."""
    return array if len(rows) == len(array) else array[rows]
