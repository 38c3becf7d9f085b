"""Greedy text with onnxruntime-genai: at once, in chunks, after going back, up to the context's end, and padded on the right.

Reads a question on stdin and answers on stdout, both JSON; see `test_interop.Question`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

question = json.load(sys.stdin)
prompts, count = question["prompts"], question["count"]
config = json.loads((Path(question["folder"]) / "genai_config.json").read_text())
model = og.Model(question["folder"])
tokenizer = og.Tokenizer(model)


def generator(length, rows=1):
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=length, batch_size=rows, **question["search"])
    return og.Generator(model, parameters)


def finish(made):
    while not made.is_done():
        made.generate_next_token()
    return made


def greedy(prompt, length=None, chunk=None):
    made = generator(length or len(prompt) + count)
    for start in range(0, len(prompt), chunk or len(prompt)):
        made.append_tokens(np.array([prompt[start : start + (chunk or len(prompt))]], np.int32))
    return finish(made).get_sequence(0).tolist()[len(prompt) :]


def batch(rows):
    """Rows of unequal length; genai wants the padding on the right, and finds it by its id."""
    pad, width = config["model"]["pad_token_id"], max(map(len, rows))
    made = generator(width + count, len(rows))
    made.append_tokens(np.array([row + [pad] * (width - len(row)) for row in rows], np.int32))
    finish(made)
    return [made.get_sequence(row).tolist()[width:] for row in range(len(rows))]


def rewound(prompt):
    """Write some ids, go back to the prompt's end, put its last id there again, and write on."""
    made = generator(len(prompt) + count)
    made.append_tokens(np.array([prompt], np.int32))
    for _ in range(count // 2):
        made.generate_next_token()
    made.rewind_to(len(prompt) - 1)
    made.append_tokens(np.array([prompt[-1:]], np.int32))
    return finish(made).get_sequence(0).tolist()[len(prompt) :]


def stream(ids):
    made = tokenizer.create_stream()
    return "".join(made.decode(index) for index in ids)


encoded = [tokenizer.encode(text).tolist() for text in question["texts"]]
answer = {
    "alone": [greedy(prompt) for prompt in prompts],
    "chunked": [greedy(prompt, chunk=3) for prompt in prompts],
    "rewound": [rewound(prompt) for prompt in prompts],
    "full": [greedy(prompt, config["model"]["context_length"]) for prompt in prompts],
    "batch": batch(prompts),
    "encoded": encoded,
    "streamed": [stream(ids) for ids in encoded],
}
print(json.dumps(answer))
