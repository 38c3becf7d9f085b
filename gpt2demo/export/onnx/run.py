"""Continue a prompt with the exported model in this folder: python run.py "Once upon a time" --top-p.p 0.9 --seed 1.

Needs onnxruntime (or onnxruntime-gpu), numpy and tokenizers, nothing else. gpt2demo writes this file and does not use it: take it
as a start for a program of your own. The numbers that it can change are those of the samplers in gpt2demo.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

FOLDER = Path(__file__).resolve().parent
KINDS = {"tensor(int64)": np.int64, "tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}


def read(name: str) -> dict[str, Any]:
    """One of the folder's JSON files."""
    content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


def main(prompt: str, options: dict[str, Any], count: int = 200) -> None:
    """Print a prompt and what the model adds to it."""
    about, end = read("gpt2demo.json"), read("generation_config.json").get("eos_token_id")
    shape, samplers = about["shape"], about["samplers"]
    tokenizer, stream = Tokenizer.from_file(str(FOLDER / "tokenizer.json")), DecodeStream(skip_special_tokens=False)
    tokenizer.encode_special_tokens = True  # in a prompt they are text
    session = onnxruntime.InferenceSession(FOLDER / "generate.onnx", providers=["CPUExecutionProvider"])
    random = np.random.default_rng(options["seed"])
    types = {value.name: (value.shape, KINDS[value.type]) for value in session.get_inputs()}
    chosen = {}
    for step in samplers:
        for field, label in step["inputs"].items():
            low, high = step["limits"].get(field, (None, None))
            number = options[label]
            number = number if low is None else max(low, number)
            chosen[label] = np.full(types[label][0], number if high is None else min(high, number), types[label][1])

    empty = np.zeros((1, shape["n_head"], 0, about["head_dim"]), types["past_key_values.0.key"][1])
    cache = {name: empty for name in types if name.startswith("past_key_values")}
    text = tokenizer.encode(prompt or "\n", add_special_tokens=False).ids
    new, start = text[-shape["n_positions"] :], len(text)
    print(prompt, end="", flush=True)
    for _ in range(count):
        known = next(iter(cache.values())).shape[2]
        if known + len(new) > shape["n_positions"]:  # the context is full: read the newer half of it again
            cache, new, known = dict.fromkeys(cache, empty), text[-max(1, shape["n_positions"] // 2) :], 0
        inputs: dict[str, Any] = {
            "input_ids": np.array([new]),
            "attention_mask": np.ones((1, known + len(new)), np.int64),
            "position_ids": np.arange(known, known + len(new))[None],
            "uniform": random.random((1, 1)),
            "text_ids": np.array([text]),
            "prompt_length": np.array(start),
        }
        given = {name: value for name, value in inputs.items() if name in types}
        next_ids, *present = session.run(None, given | chosen | cache)
        cache, new = dict(zip(cache, present, strict=True)), [int(next_ids[0, 0])]
        if new[0] == end:
            break
        text += new
        print(stream.step(tokenizer, new[0]) or "", end="", flush=True)
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Continue a prompt with the exported model in this folder.", allow_abbrev=False)
    parser.add_argument("prompt", nargs="?", default="")
    parser.add_argument("--seed", type=int, help="the same seed gives the same text")
    for step in read("gpt2demo.json")["samplers"]:
        for field, label in step["inputs"].items():
            parser.add_argument(
                f"--{label}", dest=label, type=float, metavar="X", default=step["values"][field], help="default: %(default)s"
            )
    given = vars(parser.parse_args())
    main(given.pop("prompt"), given)
