"""Output of the commands: generated texts with their log-probabilities, tables, documents, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table

from gpt2demo.hookspecs import PROJECT
from gpt2demo.terminal import one_line, print_message, print_warning, printable

if TYPE_CHECKING:
    from gpt2demo.config import GenerateConfig
    from gpt2demo.generation.continuation import Continuation
    from gpt2demo.generation.generate import Model

_results: TextIO | None = None


@contextmanager
def results_only() -> Iterator[None]:
    """Reserve stdout for `print_result` inside the block. All other output, such as a plugin's `print`, goes to stderr."""
    global _results  # noqa: PLW0603  # like sys.stdout, one per process
    before, _results = _results, stdout()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results = before


def stdout() -> TextIO:
    """Return the stream of the results."""
    return _results or sys.stdout


def print_result(*values: object, sep: str = " ", end: str = "\n", flush: bool = False) -> None:
    """Print a result on stdout."""
    print(*values, sep=sep, end=end, flush=flush, file=stdout())


def print_texts(model: Model, prompts: Sequence[str], config: GenerateConfig, *, as_json: bool) -> None:
    """Continue prompts and print the texts: a single text is streamed, several are printed when all are finished.

    JSON is an object for one text and a list for several. Explanations are always printed as JSON.
    """
    as_json = as_json or config.explain
    if len(prompts) * config.samples == 1:
        text = _print_stream(model, prompts[0], config, quiet=as_json)
        _warn([text])
        if as_json:
            print_result(json.dumps(as_dict(prompts[0], model, text, config)))
        return
    texts = model.generate_batch(prompts, config)
    repeated = [prompt for prompt in prompts for _ in range(config.samples)]
    _warn(texts)
    if as_json:
        print_result(json.dumps([as_dict(prompt, model, text, config) for prompt, text in zip(repeated, texts, strict=True)]))
        return
    for number, (prompt, text) in enumerate(zip(repeated, texts, strict=True)):
        print_result(f"--- prompt {number // config.samples + 1}, sample {text.row + 1}")
        print_result(prompt + printable(text.text))
        print_logprobs(text)


def _print_stream(model: Model, prompt: str, config: GenerateConfig, *, quiet: bool) -> Continuation:
    """Print one text while it is generated, unless `quiet`, and return it finished."""
    generation = model.generate(prompt, config)
    if quiet:
        for _ in generation:
            pass
        return generation.continuation
    print_result(prompt, end="", flush=True)
    for piece in generation:
        print_result(printable(piece), end="", flush=True)
    print_result()
    print_logprobs(generation.continuation)
    return generation.continuation


def _warn(texts: Sequence[Continuation]) -> None:
    """Print each note about dropped or truncated text once."""
    for note in dict.fromkeys(note for text in texts for note in text.notes):
        print_warning(note)


def print_logprobs(text: Continuation) -> None:
    """Print a line per token: its log-probability in the model and in the draw, and the most likely alternatives."""
    if text.logprobs:
        print_result("   model    drawn  token")
    for token in text.logprobs:
        others = "  ".join(f"{quoted(other.text)} {other.logprob:.3f}" for other in token.alternatives)
        print_result(
            f"{token.logprob:8.3f} {token.drawn_logprob:8.3f}  {quoted(token.text)}{f'   among {others}' if others else ''}"
        )


def quoted(text: str) -> str:
    """Return a token's text in quotes, so that spaces at its ends are visible."""
    return printable(json.dumps(text, ensure_ascii=False))


def as_dict(prompt: str, model: Model, text: Continuation, config: GenerateConfig) -> dict[str, Any]:
    """Return the fields of `generate --json` for one text."""
    fields = {
        "prompt": prompt,
        "text": text.text,
        "ids": text.ids,
        "engine": model.engine.name,
        "provider": model.engine.provider,
        "time_to_first_token_ms": text.time_to_first_token_ms,
        "tokens_per_second": text.tokens_per_second,
        "seed": text.seed,
        "row": text.row,
        "reason": text.reason,
        "dropped": text.dropped,
        "rereads": text.rereads,
    }
    if config.logprobs is not None:
        fields["logprobs"] = [asdict(token) for token in text.logprobs]
    if config.explain:
        fields["explanations"] = [asdict(token) for token in text.explanations]
    return fields


def print_list(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as JSON or as a table."""
    if as_json:
        print_result(json.dumps(rows))
        return
    if not rows:
        print_message("no entries")
        return
    columns = max(rows, key=len)  # rows of unreadable items have fewer columns
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(file=stdout(), markup=False, emoji=False, width=None if stdout().isatty() else 240).print(table)


def print_documents(documents: Iterable[str], as_json: bool) -> None:
    """Print documents one after another, or as a JSON list."""
    if as_json:
        print_result(json.dumps(list(documents)))
        return
    for document in documents:
        print_result(document, end="" if document.endswith("\n") else "\n")


def print_corpus(statistics: dict[str, Any], as_json: bool) -> None:
    """Print the statistics of a text, followed by a table with a row per tokenizer; or JSON."""
    if as_json:
        print_result(json.dumps(statistics))
        return
    total = {name: value for name, value in statistics.items() if not isinstance(value, list)}
    for rows in ([total], statistics["tokenizers"]):
        empty = {name for name in rows[0] if all(row[name] is None for row in rows)}
        print_list([{name: value for name, value in row.items() if name not in empty} for row in rows], as_json=False)


def _cell(value: Any) -> str:
    """Return a value as the text of a table cell."""
    if isinstance(value, dict):
        return "; ".join(
            f"{key.removeprefix(PROJECT + '_')}: {', '.join(names)}" if names else key for key, names in value.items()
        )
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else printable(one_line(str(value)))
