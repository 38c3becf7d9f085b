"""Chat in the terminal: prompts until `quit`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gpt2demo.cli.printing import print_result
from gpt2demo.errors import UserError
from gpt2demo.terminal import console, print_message, print_warning, printable

if TYPE_CHECKING:
    from gpt2demo.config import GenerateConfig
    from gpt2demo.generation.generate import Model


def chat(model: Model, config: GenerateConfig) -> None:
    """Read prompts until `quit` or the end of the input, and stream each continuation to stdout.

    Raises:
        UserError: a setting is invalid.
    """
    model.check(config)
    engine = f"{model.engine.name} ({model.engine.provider})"
    print_message(f"{model.name} on {engine} continues your text; it does not follow instructions. Type `quit` to exit.")
    while (prompt := _read_prompt()) not in (None, "quit", "exit"):
        try:
            generation = model.generate(prompt or "", config)
            for piece in generation:
                print_result(printable(piece), end="", flush=True)
            print_result(flush=True)
            for note in generation.notes:
                print_warning(note)
        except UserError as error:  # such as a character that the tokenizer cannot encode
            print_message(f"gpt2demo: error: {error}")
        except KeyboardInterrupt:
            print_result(flush=True)


def _read_prompt() -> str | None:
    """Return the next line of stdin, or None at its end."""
    if sys.stdin.isatty():
        console.print("> ", end="")
    entered = sys.stdin.readline()
    return entered.rstrip("\r\n") if entered else None
