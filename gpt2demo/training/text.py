"""Turn text into a tokenizer and token ids: in the run's own folder, or for large texts in a store that runs share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2demo import plugins
from gpt2demo.config import DataConfig
from gpt2demo.data.corpus import LISTED, Corpus, Sources, Survey, load_corpus
from gpt2demo.data.encoding import train_tokenizer
from gpt2demo.data.lossless import warn_of_losses
from gpt2demo.data.sample import SAMPLE
from gpt2demo.data.split import split_documents
from gpt2demo.data.tokens import write_splits
from gpt2demo.errors import DataError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.memory import memory_advice
from gpt2demo.runs import checkpoint
from gpt2demo.storage import new_file, new_folder

SAMPLE_SEED = 0  # not the run's: runs with different seeds share a store


@dataclass(frozen=True)
class TextPlan:
    """What determines the ids of a run.

    Attributes:
        paths: files, folders, globs and URLs; empty with a dataset.
        dataset: an example dataset, or None with paths.
        reading: how to read and clean the text.
        tokenizer, options: the tokenizer's name and options.
        trained: a tokenizer to use instead of a new one.
        fraction: of the text to hold out for validation.
    """

    paths: tuple[str, ...]
    dataset: str | None
    reading: DataConfig
    tokenizer: str
    options: dict[str, str]
    trained: Tokenizer | None
    fraction: float

    def corpus(self) -> Corpus:
        """Return the text. Raises as `load_corpus` does."""
        return load_corpus(self.paths, self.dataset, self.reading)


def encode_text(plan: TextPlan, corpus: Corpus, survey: Survey, folder: Path) -> Tokenizer:
    """Write the folders `tokenizer` and `data`, or continue where a killed process has stopped.

    Args:
        plan: of the text.
        corpus: the text.
        survey: of the same text.
        folder: the folder to write into.

    Raises:
        UserError: the text, or an option of the tokenizer, is invalid; or the text has changed since the survey.
        CheckpointError: a file cannot be written.
    """
    with memory_advice(f"training the tokenizer {plan.tokenizer!r}", "use less text or a smaller --vocab-size"):
        tokenizer = _tokenizer(plan, corpus, survey, folder / "tokenizer")
    warn_of_losses(plan.tokenizer, tokenizer, (piece.text for piece in corpus.pieces()))
    (folder / "data").mkdir(exist_ok=True)
    read = Sources()
    parts = split_documents(corpus.pieces(record=read.add), survey, plan.fraction, numbered=corpus.numbered)
    with memory_advice("encoding the text", "use less text"):
        write_splits(parts, tokenizer, folder / "data", survey.characters)
    if read.digest != survey.sources.digest:
        raise DataError(f"{corpus.paths[0]}: the text has changed while it was read; start again")
    return tokenizer


def _tokenizer(plan: TextPlan, corpus: Corpus, survey: Survey, folder: Path) -> Tokenizer:
    """Return the tokenizer and save it; or load the one that a killed process has saved."""
    if folder.exists():
        return checkpoint.load_tokenizer(folder)[0]
    tokenizer = plan.trained or _train(plan, corpus, survey)
    with new_folder(folder) as temporary:
        checkpoint.save_tokenizer(tokenizer, plan.tokenizer, temporary)
    return tokenizer


def _train(plan: TextPlan, corpus: Corpus, survey: Survey) -> Tokenizer:
    """Train a tokenizer: on a sample of a large text, unless the tokenizer needs all of it."""
    if getattr(plugins.tokenizers().get(plan.tokenizer), "needs_whole_text", False):
        texts: Iterator[str] = (piece.text for piece in corpus.pieces())
        return train_tokenizer(plan.tokenizer, texts, plan.options, survey.characters)
    size = len(survey.sample)
    if not survey.sample.complete:
        drawn = f"a random sample of {size:,} of {survey.characters:,} characters"
        warnings.warn(f"the tokenizer {plan.tokenizer!r} is trained on {drawn}", stacklevel=2)
    return train_tokenizer(plan.tokenizer, survey.sample.documents(), plan.options, size)


def describe_text(plan: TextPlan, survey: Survey) -> dict[str, Any]:
    """Return the text's part of run.json: its files, and how they were read and cleaned."""
    name = plan.paths[0] + (f" and {len(plan.paths) - 1} more" if len(plan.paths) > 1 else "") if plan.paths else ""
    cleaning = {**plan.reading.model_dump(exclude={"sha256"}), **survey.counts()}
    return {"data": survey.sources.as_list(name), "cleaning": cleaning}


def write_files(survey: Survey, path: Path) -> None:
    """Write the list of the text's files, a line of JSON each, if run.json does not have it."""
    if survey.sources.count > LISTED:
        with new_file(path) as file:
            file.writelines(survey.sources.lines())


def survey_text(corpus: Corpus) -> Survey:
    """Read the text once: its size, its checksums, and a sample for the tokenizer."""
    with memory_advice("reading the text", "use less text"):
        return corpus.survey(SAMPLE, SAMPLE_SEED)
