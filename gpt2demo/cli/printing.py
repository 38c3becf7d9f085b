"""What `generate` prints: a text as it is written, several texts, their log-probabilities, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from gpt2demo.hookspecs import PROJECT
from gpt2demo.terminal import print_message, printable

if TYPE_CHECKING:
    from gpt2demo.config import GenerateConfig
    from gpt2demo.generation.continuation import Continuation
    from gpt2demo.generation.generate import Model


def print_texts(model: Model, prompts: Sequence[str], config: GenerateConfig, *, as_json: bool) -> None:
    """Continue prompts and print what comes: one text piece by piece, several when all are finished.

    JSON is an object for one text and a list for several. Explanations are printed in no other way.
    """
    as_json = as_json or config.explain
    if len(prompts) * config.samples == 1:
        text = _print_stream(model, prompts[0], config, quiet=as_json)
        _warn([text])
        if as_json:
            print(json.dumps(as_dict(prompts[0], model, text, config)))
        return
    texts = model.generate_batch(prompts, config)
    asked = [prompt for prompt in prompts for _ in range(config.samples)]
    _warn(texts)
    if as_json:
        print(json.dumps([as_dict(prompt, model, text, config) for prompt, text in zip(asked, texts, strict=True)]))
        return
    for number, (prompt, text) in enumerate(zip(asked, texts, strict=True)):
        print(f"--- prompt {number // config.samples + 1}, sample {text.row + 1}")
        print(prompt + printable(text.text))
        print_logprobs(text)


def _print_stream(model: Model, prompt: str, config: GenerateConfig, *, quiet: bool) -> Continuation:
    """Print one text while it is written; give the finished text."""
    generation = model.generate(prompt, config)
    if not quiet:
        print(prompt, end="", flush=True)
    for piece in generation:
        print("" if quiet else printable(piece), end="", flush=True)
    if not quiet:
        print()
        print_logprobs(generation)
    return generation


def _warn(texts: Sequence[Continuation]) -> None:
    """Say once each what the model did not read or had to forget."""
    for note in dict.fromkeys(note for text in texts for note in text.notes):
        print_message(f"gpt2demo: warning: {note}")


def print_logprobs(text: Continuation) -> None:
    """A line for each token: its log-probability to the model and in the draw, and the likeliest alternatives."""
    if text.logprobs:
        print("   model    drawn  token")
    for token in text.logprobs:
        others = "  ".join(f"{quoted(other.text)} {other.logprob:.3f}" for other in token.alternatives)
        print(f"{token.logprob:8.3f} {token.drawn_logprob:8.3f}  {quoted(token.text)}{f'   among {others}' if others else ''}")


def quoted(text: str) -> str:
    """A token's text so that its ends can be seen."""
    return printable(json.dumps(text, ensure_ascii=False))


def as_dict(prompt: str, model: Model, text: Continuation, config: GenerateConfig) -> dict[str, Any]:
    """What `generate --json` tells of one text."""
    told = {
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
        told["logprobs"] = [asdict(token) for token in text.logprobs]
    if config.explain:
        told["explanations"] = [asdict(token) for token in text.explanations]
    return told


def print_list(rows: list[dict[str, Any]], as_json: bool) -> None:
    """A list as JSON, or as a table for people."""
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        print_message("nothing here yet")
        return
    columns = max(rows, key=len)  # what cannot be read is a row with less in it
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else 240).print(table, markup=False)


def print_documents(documents: list[str], as_json: bool) -> None:
    """Documents behind each other, or as a list in JSON."""
    if as_json:
        print(json.dumps(documents))
    for document in () if as_json else documents:
        print(document, end="" if document.endswith("\n") else "\n")


def print_corpus(made: dict[str, Any], as_json: bool) -> None:
    """What a text is, in a row, and what tokenizers make of it, side by side."""
    if as_json:
        print(json.dumps(made))
        return
    whole = {name: value for name, value in made.items() if not isinstance(value, list)}
    for rows in ([whole], made["tokenizers"]):
        empty = {name for name in rows[0] if all(row[name] is None for row in rows)}
        print_list([{name: value for name, value in row.items() if name not in empty} for row in rows], as_json=False)


def _cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, dict):
        return "; ".join(
            f"{key.removeprefix(PROJECT + '_')}: {', '.join(names)}" if names else key for key, names in value.items()
        )
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
