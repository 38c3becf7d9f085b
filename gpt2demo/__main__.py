"""`python -m gpt2demo` is the same program as `gpt2demo`."""

from gpt2demo.cli.commands import main

main()
