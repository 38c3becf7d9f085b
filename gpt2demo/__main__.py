"""`python -m gpt2demo`, the same program as the `gpt2demo` command."""

from gpt2demo.cli.commands import main

main()
