"""Runner of `generate` in Hugging Face transformers: greedy. Protocol: `bench/worker.py`.

Arguments: a checkpoint folder, the device, the dtype, and `static` for a static cache, whose steps transformers compiles on GPUs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import psutil
import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList


class Clock(StoppingCriteria):
    """A criterion that never stops, and records the time of the first new token."""

    def __init__(self) -> None:
        self.first = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **rest: Any) -> torch.Tensor:
        """Return False for each row. transformers calls this after each token."""
        self.first = self.first or time.perf_counter()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def main(folder: str, device: str, dtype: str, cache: str | None = None) -> None:
    """Load the model, then process requests until stdin ends."""
    dtypes = {"fp32": torch.float32, "fp16": torch.float16}
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtypes[dtype])
    model.to(device)
    print("ready", flush=True)
    for line in sys.stdin:
        request, clock, start = json.loads(line), Clock(), time.perf_counter()
        ids, count = torch.tensor(request["prompts"], device=device), request["count"]
        with torch.inference_mode():
            text = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=count,
                min_new_tokens=count,
                pad_token_id=0,
                cache_implementation=cache,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        seconds, new = time.perf_counter() - start, text[:, ids.shape[1] :].tolist()
        result = {
            "ids": new,
            "first": clock.first - start,
            "seconds": seconds,
            "megabytes": psutil.Process().memory_info().rss / 1e6,
        }
        print(json.dumps(result), flush=True)


main(*sys.argv[1:])
