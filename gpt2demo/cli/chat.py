"""Chat in the terminal: prompts until `quit`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gpt2demo.errors import UserError

if TYPE_CHECKING:
    from gpt2demo.config import GenerateConfig
    from gpt2demo.generation.generate import Model
from gpt2demo.terminal import console, print_message, printable


def chat(model: Model, config: GenerateConfig) -> None:
    """Prompts until `quit` or the end of the input; each is continued by the model and streamed to stdout.

    Raises:
        UserError: a setting cannot be used.
    """
    model.check(config)
    engine = f"{model.engine.name} ({model.engine.provider})"
    print_message(f"{model.name} on {engine} continues your text; it does not follow instructions. `quit` ends.")
    while (prompt := _ask()) not in (None, "quit", "exit"):
        try:
            generation = model.generate(prompt or "", config)
            for piece in generation:
                print(printable(piece), end="", flush=True)
            print(flush=True)
            for note in generation.notes:
                print_message(f"gpt2demo: warning: {note}")
        except UserError as error:  # such as a character that the training text did not have
            print_message(f"gpt2demo: error: {error}")
        except KeyboardInterrupt:
            print(flush=True)


def _ask() -> str | None:
    """A line from the user, or None at the end of the input."""
    if sys.stdin.isatty():
        console.print("> ", end="")
    typed = sys.stdin.readline()
    return typed.rstrip("\r\n") if typed else None
