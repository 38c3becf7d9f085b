"""Greedy text with Optimum's `ORTModelForCausalLM`, with and without bound buffers, alone and padded on the left.

Reads a question on stdin and answers on stdout, both JSON; see `test_interop.Question`.
"""

import json
import sys

import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

question = json.load(sys.stdin)
prompts, count = question["prompts"], question["count"]


def greedy(model, rows):
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    written = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return written[:, width:].tolist()


model = ORTModelForCausalLM.from_pretrained(question["folder"])
bound = ORTModelForCausalLM.from_pretrained(question["folder"], use_io_binding=True)
tokenizer = AutoTokenizer.from_pretrained(question["folder"])
answer = {
    "alone": [greedy(model, [prompt])[0] for prompt in prompts],
    "bound": [greedy(bound, [prompt])[0] for prompt in prompts],
    "batch": greedy(model, prompts),
    "encoded": [tokenizer(text)["input_ids"] for text in question["texts"]],
}
print(json.dumps(answer))
