"""Runner of onnxruntime-genai: greedy, on an ONNX export. Protocol: `bench/worker.py`.

Arguments: the export folder and the device.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime_genai as og


def main(folder: str, device: str) -> None:
    """Load the model, then process requests until stdin ends."""
    config = og.Config(folder)
    config.clear_providers()
    if device == "cuda":
        config.append_provider("cuda")
    model = og.Model(config)
    print("ready", flush=True)
    for line in sys.stdin:
        request, start = json.loads(line), time.perf_counter()
        prompts, count = np.array(request["prompts"], np.int32), request["count"]
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(
            do_sample=False, batch_size=len(prompts), max_length=prompts.shape[1] + count, min_length=prompts.shape[1] + count
        )
        generator = og.Generator(model, parameters)
        generator.append_tokens(prompts)
        first = 0.0
        for _ in range(count):
            generator.generate_next_token()
            first = first or time.perf_counter() - start
        seconds = time.perf_counter() - start
        ids = [generator.get_sequence(row)[prompts.shape[1] :].tolist() for row in range(len(prompts))]
        megabytes = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
        print(json.dumps({"ids": ids, "first": first, "seconds": seconds, "megabytes": megabytes}), flush=True)


main(*sys.argv[1:])
