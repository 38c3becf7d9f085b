"""Generate greedily with Optimum's `ORTModelForCausalLM`: with and without bound buffers, and in a batch padded on the left.

Reads a request on stdin and prints the result, both JSON; see `test_interop.Request`.
"""

import json
import sys

import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

request = json.load(sys.stdin)
prompts, count = request["prompts"], request["count"]


def greedy(model, rows):
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    generated = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return generated[:, width:].tolist()


model = ORTModelForCausalLM.from_pretrained(request["folder"])
bound = ORTModelForCausalLM.from_pretrained(request["folder"], use_io_binding=True)
tokenizer = AutoTokenizer.from_pretrained(request["folder"])
result = {
    "alone": [greedy(model, [prompt])[0] for prompt in prompts],
    "bound": [greedy(bound, [prompt])[0] for prompt in prompts],
    "batch": greedy(model, prompts),
    "encoded": [tokenizer(text)["input_ids"] for text in request["texts"]],
}
print(json.dumps(result))
