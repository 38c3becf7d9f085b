"""Read the tokenizer of a Hugging Face folder: tokenizer.json, or vocab.json and merges.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpt2demo.errors import CheckpointError, TokenizerError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.storage import read_bytes, read_json
from gpt2demo.tokenization.bpe import END, BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer


def read_tokenizer(folder: Path) -> tuple[Tokenizer, str]:
    """Return the tokenizer of a Hugging Face folder, and the name of its built-in class: `bpe` or `byte`.

    Raises:
        TokenizerError: the folder has no tokenizer, or one of another kind; the message has the difference.
    """
    try:
        stored = read_tokenizer_json(folder)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    if is_byte_tokenizer(stored):
        return ByteTokenizer(), "byte"
    try:
        return BpeTokenizer(stored), "bpe"
    except TokenizerError as error:
        raise TokenizerError(f"{folder}: unsupported tokenizer: {error}") from None


def read_tokenizer_json(folder: Path) -> dict[str, Any]:
    """Return the content of tokenizer.json, or the equivalent for vocab.json and merges.txt.

    Raises:
        TokenizerError: the folder has no tokenizer, or an unsupported option.
        CheckpointError: a file is damaged.
    """
    config = folder / "tokenizer_config.json"
    options = read_json(config) if config.is_file() else {}
    for name in ("add_prefix_space", "add_bos_token"):
        if options.get(name):
            raise TokenizerError(f"{config}: {name}=true is not supported; GPT-2 has false")
    if (folder / "tokenizer.json").is_file():
        stored = read_json(folder / "tokenizer.json")
        post = stored.get("post_processor")
        unused = isinstance(post, dict) and post.get("type") == "TemplateProcessing" and not post.get("special_tokens")
        return {**stored, "post_processor": None} if unused else stored  # transformers 5 writes one without effect
    if not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        raise TokenizerError(f"{folder}: no tokenizer found; expected tokenizer.json, or vocab.json and merges.txt")
    return _from_vocab_and_merges(folder, options)


def _from_vocab_and_merges(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Convert OpenAI's pair of files to a tokenizer.json. Added tokens are in one of two files, depending on the version."""
    vocabulary = read_json(folder / "vocab.json")
    added = folder / "added_tokens.json"
    special: dict[str, Any] = {END: vocabulary[END]} if END in vocabulary else {}
    special |= read_json(added) if added.is_file() else {}
    decoder = options.get("added_tokens_decoder")
    try:
        special |= {token["content"]: int(index) for index, token in (decoder or {}).items()}
        ordinary = {token["content"] for token in (decoder or {}).values() if token.get("special") is False}
        lines = read_bytes(folder / "merges.txt").decode("utf-8").splitlines()
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise TokenizerError(f"{folder}: merges.txt or tokenizer_config.json cannot be read ({error})") from None
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": name, **flags, "special": name not in ordinary} for name, index in special.items()
        ],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [line for line in lines if line.strip() and not line.startswith("#version")],
        },
    }


def is_byte_tokenizer(stored: dict[str, Any]) -> bool:
    """Return whether a tokenizer.json is the built-in `byte` tokenizer: its vocabulary, no merges, no added tokens."""
    model, pre = stored.get("model"), stored.get("pre_tokenizer")
    if not (isinstance(model, dict) and isinstance(pre, dict)) or stored.get("normalizer") or stored.get("added_tokens"):
        return False
    same = model.get("vocab") == json.loads(ByteTokenizer().tokenizer_json())["model"]["vocab"]
    return same and not model.get("merges") and pre.get("type") == "ByteLevel" and not pre.get("add_prefix_space")
