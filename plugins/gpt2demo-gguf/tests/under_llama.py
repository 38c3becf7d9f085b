"""Run by an interpreter with llama_cpp: `under_llama.py FILE` reads a JSON request on stdin and prints a JSON result."""

import ctypes
import json
import sys

import llama_cpp
import numpy as np


def main() -> None:
    request = json.load(sys.stdin)
    full = llama_cpp.GGML_TYPE_F32  # of keys and values; the default is float16
    llama = llama_cpp.Llama(sys.argv[1], n_ctx=0, n_threads=1, logits_all=True, type_k=full, type_v=full, verbose=False)
    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
    result = {
        "ids": [llama.tokenize(text.encode(), add_bos=True, special=False) for text in request["texts"]],
        "texts": [b"".join(piece(vocabulary, index) for index in ids).decode() for ids in request["ids"]],
        "greedy": [greedy(llama, prompt, request["count"]) for prompt in request["prompts"]],
        "logits": [logits(llama, ids) for ids in request["sequences"]],
        "ends": [index for index in range(llama.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, index)],
    }
    json.dump(result, sys.stdout)


def logits(llama: llama_cpp.Llama, ids: list[int]) -> list[list[float]]:
    llama.reset()
    llama.eval(ids)
    return llama.scores[: len(ids)].tolist()


def greedy(llama: llama_cpp.Llama, prompt: list[int], count: int) -> list[int]:
    llama.reset()
    llama.eval(prompt)
    chosen = []
    for _ in range(count):
        chosen.append(int(np.argmax(llama.scores[llama.n_tokens - 1])))
        llama.eval(chosen[-1:])
    return chosen


def piece(vocabulary: llama_cpp.llama_vocab_p, index: int) -> bytes:
    """Return a token's bytes. `Llama.detokenize` would leave out tokens of more than 32 bytes."""
    buffer = ctypes.create_string_buffer(1024)
    size = llama_cpp.llama_token_to_piece(vocabulary, index, buffer, len(buffer), 0, False)
    return buffer.raw[:size]


main()
