"""Greedy text from model.onnx with onnxruntime and numpy alone: a cache that grows, `session.run`, no buffers bound.

Reads a question on stdin and answers on stdout, both JSON; see `test_interop.Question`.
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
        """Logits of (B, T) further ids, and the grown cache; `mask` is that of all positions, cached ones too."""
        if not cache:
            kind = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[self.caches[0].type]
            cache = {v.name: np.zeros((len(ids), v.shape[1], 0, v.shape[3]), kind) for v in self.caches}
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **cache}
        logits, *present = self.session.run(None, feed)
        return logits, dict(zip(cache, present, strict=True))


def greedy(model, prompts, count, chunk=None):
    """The likeliest ids that follow some prompts, which are padded on the left and read in pieces of `chunk` ids."""
    width = max(map(len, prompts))
    ids = np.array([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = np.array([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    cache = {}
    for start in range(0, width, chunk or width):
        end = min(width, start + (chunk or width))
        logits, cache = model.read(ids[:, start:end], mask[:, :end], cache)
    written = []
    for _ in range(count):
        written.append(logits[:, -1].argmax(axis=-1))
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        logits, cache = model.read(written[-1][:, None], mask, cache)
    return np.stack(written, axis=1).tolist()


question = json.load(sys.stdin)
model = Model(Path(question["folder"]) / "model.onnx")
prompts, count = question["prompts"], question["count"]
answer = {
    "alone": [greedy(model, [prompt], count)[0] for prompt in prompts],
    "chunked": [greedy(model, [prompt], count, chunk=3)[0] for prompt in prompts],
    "batch": greedy(model, prompts, count),
    "modules": sorted({"gpt2demo", "torch", "onnx"} & set(sys.modules)),
}
print(json.dumps(answer))
