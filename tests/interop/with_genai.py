"""Generate greedily with onnxruntime-genai: prompts at once, in chunks, after rewinding, up to the end of the context, and padded.

Reads a request on stdin and prints the result, both JSON; see `test_interop.Request`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

request = json.load(sys.stdin)
prompts, count = request["prompts"], request["count"]
config = json.loads((Path(request["folder"]) / "genai_config.json").read_text())
model = og.Model(request["folder"])
tokenizer = og.Tokenizer(model)


def new_generator(length, rows=1):
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=length, batch_size=rows, **request["search"])
    return og.Generator(model, parameters)


def finish(generator):
    while not generator.is_done():
        generator.generate_next_token()
    return generator


def greedy(prompt, length=None, chunk=None):
    generator = new_generator(length or len(prompt) + count)
    for start in range(0, len(prompt), chunk or len(prompt)):
        generator.append_tokens(np.array([prompt[start : start + (chunk or len(prompt))]], np.int32))
    return finish(generator).get_sequence(0).tolist()[len(prompt) :]


def batch(rows):
    """Continue rows of different lengths. genai expects padding on the right and recognizes it by its id."""
    pad, width = config["model"]["pad_token_id"], max(map(len, rows))
    generator = new_generator(width + count, len(rows))
    generator.append_tokens(np.array([row + [pad] * (width - len(row)) for row in rows], np.int32))
    finish(generator)
    return [generator.get_sequence(row).tolist()[width:] for row in range(len(rows))]


def rewound(prompt):
    """Generate some ids, rewind to the prompt, append its last id again, and continue."""
    generator = new_generator(len(prompt) + count)
    generator.append_tokens(np.array([prompt], np.int32))
    for _ in range(count // 2):
        generator.generate_next_token()
    generator.rewind_to(len(prompt) - 1)
    generator.append_tokens(np.array([prompt[-1:]], np.int32))
    return finish(generator).get_sequence(0).tolist()[len(prompt) :]


def stream(ids):
    decoder = tokenizer.create_stream()
    return "".join(decoder.decode(index) for index in ids)


encoded = [tokenizer.encode(text).tolist() for text in request["texts"]]
result = {
    "alone": [greedy(prompt) for prompt in prompts],
    "chunked": [greedy(prompt, chunk=3) for prompt in prompts],
    "rewound": [rewound(prompt) for prompt in prompts],
    "full": [greedy(prompt, config["model"]["context_length"]) for prompt in prompts],
    "batch": batch(prompts),
    "encoded": encoded,
    "streamed": [stream(ids) for ids in encoded],
}
print(json.dumps(result))
