"""The command line: each command reads its options, calls the package and prints. Results go to stdout, messages to stderr."""

from gpt2demo.cli.commands import app, main

__all__ = ["app", "main"]
