"""The built-in tokenizers (byte-level BPE, bytes, characters), and tokenizers read from Hugging Face folders."""

from __future__ import annotations

from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Tokenizer
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.tokenization.char import CharTokenizer
from gpt2demo.tokenization.huggingface import read_tokenizer

__all__ = ["BpeTokenizer", "ByteTokenizer", "CharTokenizer", "read_tokenizer"]


@hookimpl
def gpt2demo_tokenizers() -> dict[str, type[Tokenizer]]:
    """Return the built-in tokenizers by name."""
    return {"bpe": BpeTokenizer, "byte": ByteTokenizer, "char": CharTokenizer}
