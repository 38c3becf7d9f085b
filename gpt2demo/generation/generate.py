"""Models that are ready to write: a generation as an iterator of text pieces, batches of them, and `load`."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig
from gpt2demo.errors import SettingError
from gpt2demo.generation.batch import Batch
from gpt2demo.generation.continuation import Continuation, ends
from gpt2demo.interfaces import Decoder, Engine, Sampler, Tokenizer
from gpt2demo.sampling.saved import with_own_chains


class Generation(Continuation, Iterator[str]):
    """A running generation: iterate it for the text's pieces, read its attributes for the rest (see `Continuation`).

    Args:
        engine: what computes; its cache is emptied first.
        tokenizer: ids to text.
        prompt: the prompt's ids, at least one.
        config: length, seed, samplers, stops.
        row: the number of the stream that it draws from, to write one sample of `Model.generate_batch` again.
    """

    def __init__(self, engine: Engine, tokenizer: Decoder, prompt: Sequence[int], config: GenerateConfig, row: int = 0) -> None:
        seed, until = _seed(config), ends(tokenizer, config.stop_tokens)
        super().__init__(tokenizer, prompt, config, seed=seed, row=row, n_positions=engine.n_positions, ends=until)
        self._pieces = self._run(engine, [plugins.create_sampler(spec) for spec in config.chain])

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """End it early."""
        self._pieces.close()

    def _run(self, engine: Engine, samplers: Sequence[Sampler]) -> Generator[str, None, None]:
        batch = Batch(engine, self._tokenizer, [self], self._config, samplers)
        while self.reason is None:
            if piece := batch.step()[0]:
                yield piece


def _seed(config: GenerateConfig) -> int:
    """The seed that is asked for, or a new one."""
    return secrets.randbits(32) if config.seed is None else config.seed


class Model:
    """A model that is ready to write: an engine with its tokenizer. `load` makes one.

    Args:
        engine: what computes.
        tokenizer: text to ids and back.
        name: the run's or export's name.
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
            prompt: the text to continue. An empty one stands for the start of a document.
            config: settings; the defaults of `GenerateConfig` when left out.
            row: with the same seed, gives the sample of this number that `generate_batch` gives, counted from 0.
            settings: single settings by name, such as `max_new_tokens=50, seed=1, samplers=["top-k:k=5"]`.

        Returns:
            An iterator over text pieces that also tells ids, speed and why it ended.

        Raises:
            UserError: a setting is out of range, or the tokenizer cannot express the prompt.
        """
        config = self._configured(config, settings)
        if config.samples != 1:
            raise SettingError(f"samples={config.samples}: generate() writes one text; generate_batch() writes several")
        return Generation(self.engine, self.tokenizer, self.prompt_ids(prompt), config, row)

    def generate_batch(self, prompts: Sequence[str], config: GenerateConfig | None = None, **settings: Any) -> list[Continuation]:
        """Continue several prompts at once, each as often as `samples` says. Each text is what `generate` gives for it alone.

        Args:
            prompts: the texts to continue, of any lengths.
            config: settings; the defaults of `GenerateConfig` when left out.
            settings: single settings by name, such as `samples=4`.

        Returns:
            The finished texts: all samples of the first prompt, then those of the second.

        Raises:
            UserError: as `generate`.
        """
        config = self._configured(config, settings)
        samplers = [plugins.create_sampler(spec) for spec in config.chain]
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
            batch = Batch(self.engine, self.tokenizer, rows, config, samplers)
            while batch.running:
                batch.step()
        return rows

    def check(self, config: GenerateConfig) -> None:
        """Raise what `generate` raises for these settings, whatever the prompt."""
        for spec in self._configured(config, {}).chain:
            plugins.create_sampler(spec)
        ends(self.tokenizer, config.stop_tokens)

    def _configured(self, config: GenerateConfig | None, settings: dict[str, Any]) -> GenerateConfig:
        """The settings with single ones changed, and with the samplers in place of the names of chains."""
        config = config or GenerateConfig()
        return with_own_chains(config.with_changes(**settings) if settings else config, self.path)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The prompt's ids; for an empty prompt the end-of-text id, or a line break where there is none."""
        if ids := self.tokenizer.encode(prompt):
            return ids
        return self.tokenizer.encode("\n") if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]
