"""`Model`, an engine with its tokenizer, and `Generation`, an iterator over the pieces of a text."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from gpt2demo.config import GenerateConfig
from gpt2demo.errors import SettingError
from gpt2demo.generation.batch import Batch
from gpt2demo.generation.continuation import Continuation, StopReason, ends
from gpt2demo.interfaces import Decoder, Engine, Tokenizer
from gpt2demo.sampling.chains import Chain, create_chain, resolve_chains


class Generation(Iterator[str]):
    """A running generation: an iterator over the pieces of the text, with the attributes of its `Continuation`.

    Args:
        engine: the model; its cache is emptied at the first piece.
        tokenizer: decodes the ids.
        prompt: the prompt's ids, at least one.
        config: length, seed, samplers, stops.
        row: the number of the sample, to generate one text of `Model.generate_batch` again.

    Attributes:
        continuation: the text with all its attributes. The most important ones are also attributes of the generation.
    """

    def __init__(self, engine: Engine, tokenizer: Decoder, prompt: Sequence[int], config: GenerateConfig, row: int = 0) -> None:
        seed, stops = _seed(config), ends(tokenizer, config.stop_tokens)
        text = Continuation(tokenizer, prompt, config, seed=seed, row=row, n_positions=engine.n_positions, ends=stops)
        self.continuation = text
        self.prompt, self.seed, self.row, self.dropped = text.prompt, text.seed, text.row, text.dropped
        self.ids, self.rereads = text.ids, text.rereads  # these lists and the next two grow
        self.logprobs, self.explanations = text.logprobs, text.explanations
        self._pieces = _pieces(engine, tokenizer, text, config, create_chain(config.chain))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop the generation."""
        self._pieces.close()

    @property
    def text(self) -> str:
        """The generated text so far."""
        return self.continuation.text

    @property
    def reason(self) -> StopReason | None:
        """Why the text ended, see `Continuation`; None if it has not ended."""
        return self.continuation.reason

    @property
    def time_to_first_token_ms(self) -> float:
        """Milliseconds from the start to the first id."""
        return self.continuation.time_to_first_token_ms

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the first token; if there is only one, including it."""
        return self.continuation.tokens_per_second

    @property
    def notes(self) -> list[str]:
        """Remarks on the text: parts of it that the model did not read or had to drop."""
        return self.continuation.notes


def _pieces(
    engine: Engine, tokenizer: Decoder, text: Continuation, config: GenerateConfig, chain: Chain
) -> Generator[str, None, None]:
    """Generate one text, and yield its pieces."""
    batch = Batch(engine, tokenizer, [text], config, chain)
    while batch.running:
        if piece := batch.step()[0]:
            yield piece


def _seed(config: GenerateConfig) -> int:
    """Return the configured seed, or a random one."""
    return secrets.randbits(32) if config.seed is None else config.seed


class Model:
    """An engine with its tokenizer. Returned by `load`.

    Args:
        engine: runs the model.
        tokenizer: encodes prompts and decodes ids.
        name: the name of the run or export.
        path: the checkpoint or export folder.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, name: str, path: Path) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.name = name
        self.path = path

    def generate(self, prompt: str = "", config: GenerateConfig | None = None, *, row: int = 0, **settings: Any) -> Generation:
        """Continue a prompt.

        Args:
            prompt: the text to continue. An empty prompt is the start of a document.
            config: settings; by default those of `GenerateConfig`.
            row: the number of the sample, from 0. With the same seed, the text is that sample of `generate_batch`.
            settings: settings to change, such as `max_new_tokens=50, seed=1, samplers=["top-k:k=5"]`.

        Returns:
            An iterator over the pieces of the text, with ids, speed and other attributes.

        Raises:
            UserError: a setting is invalid, or the tokenizer cannot encode the prompt.
        """
        config = self._configured(config, settings)
        if config.samples != 1:
            raise SettingError(f"samples={config.samples}: generate() returns one text; use generate_batch() for several")
        return Generation(self.engine, self.tokenizer, self.prompt_ids(prompt), config, row)

    def generate_batch(self, prompts: Sequence[str], config: GenerateConfig | None = None, **settings: Any) -> list[Continuation]:
        """Continue several prompts at once, `samples` times each. Each text is the one `generate` returns for its prompt and row.

        Args:
            prompts: the texts to continue, of any lengths.
            config: settings; by default those of `GenerateConfig`.
            settings: settings to change, such as `samples=4`.

        Returns:
            The finished texts: all samples of the first prompt, then those of the second.

        Raises:
            UserError: as `generate`.
        """
        config = self._configured(config, settings)
        chain = create_chain(config.chain)
        shared: Any = {
            "seed": _seed(config),
            "n_positions": self.engine.n_positions,
            "ends": ends(self.tokenizer, config.stop_tokens),
        }
        rows = [
            Continuation(self.tokenizer, ids, config, row=row, **shared)
            for ids in map(self.prompt_ids, prompts)
            for row in range(config.samples)
        ]
        if rows:
            batch = Batch(self.engine, self.tokenizer, rows, config, chain)
            while batch.running:
                batch.step()
        return rows

    def check(self, config: GenerateConfig) -> None:
        """Check settings. Raise the same errors as `generate`."""
        create_chain(self._configured(config, {}).chain)
        ends(self.tokenizer, config.stop_tokens)

    def _configured(self, config: GenerateConfig | None, settings: dict[str, Any]) -> GenerateConfig:
        """Return the settings with changes, and with the names of saved chains replaced by their samplers."""
        config = config or GenerateConfig()
        return resolve_chains(config.with_changes(**settings) if settings else config, self.path)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the prompt's ids; for an empty prompt the end-of-text id, or a line break if the tokenizer has none."""
        if ids := self.tokenizer.encode(prompt):
            return ids
        return self.tokenizer.encode("\n") if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]
