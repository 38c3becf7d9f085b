"""Reads the tokenizer of a Hugging Face folder: tokenizer.json, or OpenAI's own vocab.json and merges.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpt2demo.errors import CheckpointError, TokenizerError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.storage import read_json
from gpt2demo.tokenization.bpe import END, BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer


def read_tokenizer(folder: Path) -> tuple[Tokenizer, str]:
    """The tokenizer of a Hugging Face folder, and its name among the built-in ones: `bpe` or `byte`.

    Raises:
        TokenizerError: there is none, or one of another kind; says what differs.
    """
    try:
        stored = tokenizer_json(folder)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    if is_bytes(stored):
        return ByteTokenizer(), "byte"
    try:
        return BpeTokenizer(stored), "bpe"
    except TokenizerError as error:
        raise TokenizerError(f"{folder}: its tokenizer cannot be used here: {error}") from None


def tokenizer_json(folder: Path) -> dict[str, Any]:
    """The content of tokenizer.json, or what it would be for vocab.json and merges.txt."""
    given = folder / "tokenizer_config.json"
    options = read_json(given) if given.is_file() else {}
    for name in ("add_prefix_space", "add_bos_token"):
        if options.get(name):
            raise TokenizerError(f"{given}: {name}=true is not supported; GPT-2 has false")
    if (folder / "tokenizer.json").is_file():
        stored = read_json(folder / "tokenizer.json")
        after = stored.get("post_processor")
        idle = isinstance(after, dict) and after.get("type") == "TemplateProcessing" and not after.get("special_tokens")
        return {**stored, "post_processor": None} if idle else stored  # transformers 5 writes one that adds nothing
    if not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        raise TokenizerError(f"{folder}: has no tokenizer that can be read (tokenizer.json, or vocab.json and merges.txt)")
    return _from_vocab_and_merges(folder, options)


def _from_vocab_and_merges(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's own pair of files as a tokenizer.json. Further tokens may stand in two places, by the version that wrote them."""
    vocabulary = read_json(folder / "vocab.json")
    more = folder / "added_tokens.json"
    special: dict[str, Any] = {END: vocabulary[END]} if END in vocabulary else {}
    special |= read_json(more) if more.is_file() else {}
    decoder = options.get("added_tokens_decoder")
    try:
        special |= {token["content"]: int(number) for number, token in (decoder or {}).items()}
        ordinary = {token["content"] for token in (decoder or {}).values() if token.get("special") is False}
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise TokenizerError(f"{folder}: merges.txt or tokenizer_config.json cannot be read ({error})") from None
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": name, **flags, "special": name not in ordinary} for name, number in special.items()
        ],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [line for line in lines if line.strip() and not line.startswith("#version")],
        },
    }


def is_bytes(stored: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is the built-in `byte` tokenizer's: its vocabulary, nothing merged, added or changed."""
    model, before = stored.get("model"), stored.get("pre_tokenizer")
    if not (isinstance(model, dict) and isinstance(before, dict)) or stored.get("normalizer") or stored.get("added_tokens"):
        return False
    same = model.get("vocab") == json.loads(ByteTokenizer().tokenizer_json())["model"]["vocab"]
    return same and not model.get("merges") and before.get("type") == "ByteLevel" and not before.get("add_prefix_space")
