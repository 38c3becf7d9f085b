"""Generate greedily from model.onnx with only onnxruntime and numpy: a growing cache, `session.run`, no bound buffers.

Reads a request on stdin and prints the result, both JSON; see `test_interop.Request`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


class Model:
    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.caches = [value for value in self.session.get_inputs() if value.name.startswith("past_key_values.")]

    def read(self, ids, mask, cache):
        """Return the logits of the next ids (B, T) and the extended cache; `mask` includes cached positions."""
        if not cache:
            dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[self.caches[0].type]
            cache = {v.name: np.zeros((len(ids), v.shape[1], 0, v.shape[3]), dtype) for v in self.caches}
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **cache}
        logits, *present = self.session.run(None, feed)
        return logits, dict(zip(cache, present, strict=True))


def greedy(model, prompts, count, chunk=None):
    """Return the most likely ids after the prompts, which are padded on the left and read in chunks."""
    width = max(map(len, prompts))
    ids = np.array([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = np.array([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    cache = {}
    for start in range(0, width, chunk or width):
        end = min(width, start + (chunk or width))
        logits, cache = model.read(ids[:, start:end], mask[:, :end], cache)
    generated = []
    for _ in range(count):
        generated.append(logits[:, -1].argmax(axis=-1))
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        logits, cache = model.read(generated[-1][:, None], mask, cache)
    return np.stack(generated, axis=1).tolist()


request = json.load(sys.stdin)
model = Model(Path(request["folder"]) / "model.onnx")
prompts, count = request["prompts"], request["count"]
result = {
    "alone": [greedy(model, [prompt], count)[0] for prompt in prompts],
    "chunked": [greedy(model, [prompt], count, chunk=3)[0] for prompt in prompts],
    "batch": greedy(model, prompts, count),
    "modules": sorted({"gpt2demo", "torch", "onnx"} & set(sys.modules)),
}
print(json.dumps(result))
