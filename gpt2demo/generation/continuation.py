"""The continuation of one prompt: ids, text so far, and the reason it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from gpt2demo.config import GenerateConfig
from gpt2demo.errors import SettingError
from gpt2demo.generation.streaming import StopText, StreamDecoder
from gpt2demo.interfaces import Decoder
from gpt2demo.sampling.chains import Chain
from gpt2demo.sampling.draw import Drawn
from gpt2demo.sampling.explain import Explanation, TokenLogprob, explanation, token_logprob

StopReason = Literal["length", "end", "stop"]


def ends(tokenizer: Decoder, stop_tokens: Sequence[int | str]) -> dict[int, StopReason]:
    """Return the ids that end a text, each with its reason: the stop tokens and the tokenizer's end-of-text id.

    Args:
        tokenizer: decodes the tokens.
        stop_tokens: ids, also as decimal strings, or the texts of tokens.

    Raises:
        SettingError: a token does not exist.
    """
    found: dict[int, StopReason] = {}
    for token in stop_tokens:
        found |= dict.fromkeys(_ids_of(tokenizer, token), "stop")
    return found if tokenizer.eos_id is None else {**found, tokenizer.eos_id: "end"}


def _ids_of(tokenizer: Decoder, token: int | str) -> list[int]:
    """Return the ids that a stop token stands for."""
    every = range(tokenizer.vocab_size)
    index = int(token) if isinstance(token, int) or token.isdecimal() else None
    ids = [i for i in every if tokenizer.decode([i]) == token] if index is None else [index] if index in every else []
    if not ids:
        raise SettingError(f"stop_tokens={token!r}: unknown token; use an id from 0 to {len(every) - 1}, or a token's text")
    return ids


class Continuation:
    """The text that a model generates after one prompt.

    Args:
        tokenizer: decodes the ids.
        prompt: the prompt's ids, at least one.
        config: maximum length, stop texts, and whether to report log-probabilities and explanations.
        seed: the seed of the random stream.
        row: the number of the sample among those of its prompt, from 0.
        n_positions: the model's context length.
        ends: the result of `ends` for the tokenizer and the stop tokens.

    Attributes:
        prompt: the prompt's ids.
        ids: the generated ids, without the prompt's, including the one that ended the text.
        text: the generated text so far.
        seed: the seed of the random stream.
        row: the number of the sample among those of its prompt.
        reason: why the text ended: `length`, `end` (the tokenizer's end-of-text id) or `stop` (a stop text or stop token); None
            if it has not ended.
        dropped: number of ids of the prompt beyond the context length, which the model did not read.
        rereads: number of generated ids at each time the context was full and its newer half was read again.
        logprobs: of each generated token, if requested.
        explanations: of each generated token, if requested.
        time_to_first_token_ms: milliseconds from the start to the first id.
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
        """Tokens per second after the first token; if there is only one, including it."""
        if len(self.ids) < 2 or self._seconds <= self.time_to_first_token_ms / 1000:
            return len(self.ids) / self._seconds if self._seconds else 0.0
        return (len(self.ids) - 1) / (self._seconds - self.time_to_first_token_ms / 1000)

    @property
    def notes(self) -> list[str]:
        """Remarks on the text: parts of it that the model did not read or had to drop."""
        notes = []
        if self.dropped:
            notes.append(f"the prompt is longer than the context; its first {self.dropped} tokens are not read")
        if self.rereads:
            times = "once" if len(self.rereads) == 1 else f"{len(self.rereads)} times"
            dropped = f"the older half was dropped and the newer half read again, {times}"
            notes.append(f"the context of {self._n_positions} tokens was full after {self.rereads[0]} new ones: {dropped}")
        return notes

    def explain(self, drawn: Drawn, place: int, chain: Chain) -> None:
        """Append the requested log-probability and explanation of a draw in which this is the row at `place`."""
        if self._config.logprobs is not None:
            self.logprobs.append(token_logprob(self._tokenizer, drawn, place, self._config.logprobs))
        if self._config.explain:
            self.explanations.append(explanation(self._tokenizer, drawn, place, chain))

    def append(self, token: int, seconds: float) -> str:
        """Append a drawn id, and return the new text, which may be empty. Set `reason` if the text ends.

        Args:
            token: the id.
            seconds: the duration of the step.
        """
        self.ids.append(token)
        self._seconds += seconds
        if len(self.ids) == 1:
            self.time_to_first_token_ms = seconds * 1000
        self.reason = self._ends.get(token)
        piece = "" if self.reason else self._stops.push(self._decoder.push(token))
        if self._stops.found:
            self.reason = "stop"
        elif self.reason or len(self.ids) == self._config.max_new_tokens:
            self.reason = self.reason or "length"
            piece += self._rest()
        self.text += piece
        return piece

    def _rest(self) -> str:
        """Return the text held back, up to a stop text."""
        rest = self._stops.push(self._decoder.flush())
        if self._stops.found:
            self.reason = "stop"
        return rest + self._stops.flush()
