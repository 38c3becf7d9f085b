"""Model card of a Hugging Face folder: shape, training, evaluation, training text and usage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2demo.config import ModelConfig

HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
- gpt2demo
---

# {name}

A GPT-2 with {parameters:,} parameters, written by gpt2demo. It is a base model: it continues text, it does not follow
instructions. It reproduces its training text, including errors and prejudices.

| | |
|---|---|
"""

USE = """
## Usage

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForCausalLM.from_pretrained(FOLDER)
prompt = tokenizer("Once upon a time", return_tensors="pt")
text = model.generate(**prompt, max_new_tokens=100, do_sample=True, temperature=0.8, top_p=0.95)
print(tokenizer.decode(text[0]))
```
"""

USE_IDS = """
## Usage

The tokenizer `{tokenizer}` cannot be expressed as a `tokenizer.json`, so transformers runs the model on ids only. gpt2demo reads
the tokenizer from `tokenizer/`: `gpt2demo import FOLDER`, then `gpt2demo chat`.
"""


def model_card(config: ModelConfig, facts: dict[str, Any], info: dict[str, Any]) -> str:
    """Return the README.md of an exported folder.

    Args:
        config: the model's shape.
        facts: the content of the export's gpt2demo.json; see `huggingface.source_and_metrics`.
        info: the content of the run's run.json; may be empty.
    """
    rows = [*_shape(config, facts), *_training(info, facts), *_metrics(facts)]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    use = USE if facts["tokenizer_json"] else USE_IDS.format(tokenizer=facts["tokenizer"])
    check = (
        f"\nThe weights are {facts['dtype']}. The logits of this export differ from those of the training checkpoint by at most "
        f"{facts['largest_difference']:.1e} (limit {facts['limit']:.1e}).\n"
    )
    return HEAD.format(name=facts["name"], parameters=config.n_parameters) + table + "\n" + _data(info) + use + check


def _shape(config: ModelConfig, facts: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("layers × width", f"{config.n_layer} × {config.n_embd}"),
        ("heads", config.n_head),
        ("context", f"{config.n_positions} tokens"),
        ("tokenizer", f"`{facts['tokenizer']}`, vocabulary of {config.vocab_size:,}"),
    ]


def _training(info: dict[str, Any], facts: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return how the model was trained, from the information that the run has."""
    rows: list[tuple[str, Any]] = [("steps", facts["source"]["step"])]
    if start := info.get("init_from") or info.get("imported"):
        rows.append(("starts from", f"`{Path(str(start.get('source'))).name}`"))
    if train := info.get("train"):
        batch = f"{train['batch_size']} × {train['grad_accumulation']} sequences"
        rows.append(("training", f"{train['optimizer']}, learning rate {train['learning_rate']:g}, {batch} a step"))
    return rows


def _metrics(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the metrics on the validation text, if the checkpoint was evaluated."""
    names = {"validation_loss": "nats per token", "perplexity": "", "bits_per_byte": ""}
    return [(name.replace("_", " "), f"{facts[name]:.4f} {unit}".strip()) for name, unit in names.items() if name in facts]


def _data(info: dict[str, Any]) -> str:
    """Return the table of training texts, by file name and checksum; full paths are left out."""
    sources = info.get("data") or []
    if not sources:
        return ""
    rows = [f"| `{Path(source['path']).name}` | {source['bytes']:,} | `{source['sha256']}` |" for source in sources]
    return "\n".join(["", "## Training text", "", "| text | bytes | sha256 |", "|---|---|---|", *rows, ""])
