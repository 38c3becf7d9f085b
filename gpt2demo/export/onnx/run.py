"""Continue a prompt with the exported model in this folder: python run.py "Once upon a time" --top-p.p 0.9 --seed 1.

Requires only onnxruntime (or onnxruntime-gpu), numpy and tokenizers. gpt2demo writes this file but does not use it: it is a
starting point for your own program. Its options are those of the samplers in gpt2demo.json.
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
DTYPES = {"tensor(int64)": np.int64, "tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}


def read(name: str) -> dict[str, Any]:
    """Return the content of a JSON file in this folder."""
    content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


def main(prompt: str, options: dict[str, Any], count: int = 200) -> None:
    """Print a prompt and its continuation by up to `count` tokens."""
    about, eos_id = read("gpt2demo.json"), read("generation_config.json").get("eos_token_id")
    shape, samplers = about["shape"], about["samplers"]
    tokenizer, stream = Tokenizer.from_file(str(FOLDER / "tokenizer.json")), DecodeStream(skip_special_tokens=False)
    tokenizer.encode_special_tokens = True  # special tokens in a prompt are plain text
    session = onnxruntime.InferenceSession(FOLDER / "generate.onnx", providers=["CPUExecutionProvider"])
    random = np.random.default_rng(options["seed"])
    types = {value.name: (value.shape, DTYPES[value.type]) for value in session.get_inputs()}
    sampler_inputs = {}
    for step in samplers:
        for field, label in step["inputs"].items():
            low, high = step["limits"].get(field, (None, None))
            value = options[label]
            value = value if low is None else max(low, value)
            sampler_inputs[label] = np.full(types[label][0], value if high is None else min(high, value), types[label][1])

    empty = np.zeros((1, shape["n_head"], 0, about["head_dim"]), types["past_key_values.0.key"][1])
    cache = {name: empty for name in types if name.startswith("past_key_values")}
    text = tokenizer.encode(prompt or "\n", add_special_tokens=False).ids
    new, start = text[-shape["n_positions"] :], len(text)
    print(prompt, end="", flush=True)
    for _ in range(count):
        past = next(iter(cache.values())).shape[2]  # positions in the cache
        if past + len(new) > shape["n_positions"]:  # the context is full: start again with its newer half
            cache, new, past = dict.fromkeys(cache, empty), text[-max(1, shape["n_positions"] // 2) :], 0
        inputs: dict[str, Any] = {
            "input_ids": np.array([new]),
            "attention_mask": np.ones((1, past + len(new)), np.int64),
            "position_ids": np.arange(past, past + len(new))[None],
            "uniform": random.random((1, 1)),
            "text_ids": np.array([text]),
            "prompt_length": np.array(start),
        }
        used = {name: value for name, value in inputs.items() if name in types}  # generate.onnx has the inputs its samplers need
        next_ids, *present = session.run(None, used | sampler_inputs | cache)
        cache, new = dict(zip(cache, present, strict=True)), [int(next_ids[0, 0])]
        if new[0] == eos_id:
            break
        text += new
        print(stream.step(tokenizer, new[0]) or "", end="", flush=True)
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Continue a prompt with the exported model in this folder.", allow_abbrev=False)
    parser.add_argument("prompt", nargs="?", default="")
    parser.add_argument("--seed", type=int, help="the same seed produces the same text")
    for step in read("gpt2demo.json")["samplers"]:
        for field, label in step["inputs"].items():
            parser.add_argument(
                f"--{label}", dest=label, type=float, metavar="X", default=step["values"][field], help="default: %(default)s"
            )
    arguments = vars(parser.parse_args())
    main(arguments.pop("prompt"), arguments)
