"""The built-in tokenizers, registered through the same hook as any plugin's."""

from __future__ import annotations

from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Tokenizer


@hookimpl
def gpt2demo_tokenizers() -> dict[str, type[Tokenizer]]:
    """The built-in tokenizers by name."""
    from gpt2demo.tokenization.bpe import BpeTokenizer
    from gpt2demo.tokenization.byte import ByteTokenizer
    from gpt2demo.tokenization.char import CharTokenizer

    return {"bpe": BpeTokenizer, "byte": ByteTokenizer, "char": CharTokenizer}
