"""One generated text: its ids, its text so far, and the reason it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from gpt2demo.config import GenerateConfig
from gpt2demo.errors import SettingError
from gpt2demo.generation.streaming import StopText, StreamDecoder
from gpt2demo.interfaces import Decoder
from gpt2demo.sampling.draw import Drawn
from gpt2demo.sampling.explain import Explanation, TokenLogprob, explanation, token_logprob

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
