"""Runner of llama.cpp through llama-cpp-python: greedy, one row. Argument: a GGUF file. Protocol: `bench/worker.py`.

It uses the settings that were fastest in measurements: flash attention, an fp16 cache, all cores. A token needs three foreign
calls and an argmax.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp as lc
import numpy as np


class Greedy:
    """A model and its cache."""

    def __init__(self, file: str) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = {"n_threads": cores, "n_threads_batch": cores}
        self.llama = lc.Llama(file, n_ctx=0, n_batch=4096, n_ubatch=4096, flash_attn=True, verbose=False, **threads)
        self.memory = lc.llama_get_memory(self.llama.ctx)
        self.one = (lc.llama_token * 1)()
        self.step = lc.llama_batch_get_one(self.one, 1)

    def decode(self, batch: Any) -> int:
        """Read ids and return the most likely next one."""
        if code := lc.llama_decode(self.llama.ctx, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        pointer = lc.llama_get_logits_ith(self.llama.ctx, -1)
        array_type = ctypes.c_float * self.llama.n_vocab()
        return int(np.frombuffer(array_type.from_address(ctypes.addressof(pointer.contents)), np.float32).argmax())

    def generate(self, prompt: list[int], count: int) -> tuple[list[int], float, float]:
        """Return the ids after a prompt, seconds until the first, and total seconds."""
        tokens, start = (lc.llama_token * len(prompt))(*prompt), time.perf_counter()
        lc.llama_memory_clear(self.memory, False)
        ids = [self.decode(lc.llama_batch_get_one(tokens, len(prompt)))]
        first = time.perf_counter() - start
        for _ in range(count - 1):
            self.one[0] = ids[-1]
            ids.append(self.decode(self.step))
        return ids, first, time.perf_counter() - start


def main(file: str) -> None:
    """Load the model, then process requests until stdin ends."""
    model = Greedy(file)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        (prompt,) = request["prompts"]
        ids, first, seconds = model.generate(prompt, request["count"])
        megabytes = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
        print(json.dumps({"ids": [ids], "first": first, "seconds": seconds, "megabytes": megabytes}), flush=True)


main(sys.argv[1])
