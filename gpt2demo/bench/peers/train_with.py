"""Runner of training in transformers or nanoGPT: a plain loop. Argument: settings as JSON. Protocol: `bench/train.py`.

The loop is the one of nanoGPT's `train.py`: forward pass, loss and backward pass, clipping, AdamW. nanoGPT creates its optimizer
itself; the model of transformers gets the fused AdamW that its `Trainer` uses by default.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from torch.nn import functional as F

TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored as (in, out), nn.Linear has (out, in)


class Transformers(torch.nn.Module):
    """GPT-2 of transformers, called with inputs and targets as nanoGPT's."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(settings["checkpoint"], dtype=torch.float32)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> tuple[None, torch.Tensor]:
        """Return the mean loss: ids and targets (B, T)."""
        logits = self.model(ids, use_cache=False).logits  # (B, T, V)
        return None, F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def configure_optimizers(self, decay: float, rate: float, betas: tuple[float, float], device: str) -> torch.optim.Optimizer:
        """Return AdamW, with weight decay of the matrices."""
        parameters = list(self.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)


def nanogpt(settings: dict[str, Any]) -> Any:
    """Return nanoGPT's model with the weights of the checkpoint."""
    from safetensors.torch import load_file

    sys.path.insert(0, settings["folder"])
    from model import GPT, GPTConfig  # type: ignore[import-not-found]  # in the folder

    shape = settings["shape"]
    sizes = {name: shape[name] for name in ("vocab_size", "n_layer", "n_head", "n_embd", "dropout")}
    model = GPT(GPTConfig(block_size=shape["n_positions"], bias=True, **sizes))
    stored = load_file(Path(settings["checkpoint"]) / "model.safetensors")
    weights = {f"transformer.{name.removeprefix('transformer.')}": tensor for name, tensor in stored.items()}
    weights = {name: tensor.T if name.endswith(TRANSPOSED) else tensor for name, tensor in weights.items()}
    model.load_state_dict({**weights, "lm_head.weight": weights["transformer.wte.weight"]})
    return model


class Training:
    """A model, its optimizer, and the position in the batches."""

    def __init__(self, settings: dict[str, Any]) -> None:
        if settings["threads"]:
            torch.set_num_threads(settings["threads"])
        self.settings = settings
        self.batches = np.load(settings["batches"], mmap_mode="r")  # (steps, B, T + 1)
        self.step = 0
        model = Transformers(settings) if settings["program"] == "transformers" else nanogpt(settings)
        self.model = model.to(settings["device"]).train()
        betas = (settings["beta1"], settings["beta2"])
        self.optimizer = model.configure_optimizers(
            settings["weight_decay"], settings["learning_rate"], betas, settings["device"]
        )
        self.forward = torch.compile(self.model) if settings["compile"] else self.model

    def take(self) -> torch.Tensor:
        """Take a step and return its loss, a scalar."""
        settings = self.settings
        windows = torch.from_numpy(self.batches[self.step].astype(np.int64)).to(settings["device"], non_blocking=True)
        self.step += 1
        with torch.autocast(settings["device"], torch.bfloat16, enabled=settings["dtype"] == "bf16"):
            _, loss = self.forward(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings["grad_clip"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()  # type: ignore[no-any-return]

    def run(self, steps: int) -> dict[str, float]:
        """Take steps; return the seconds, the mean loss and the peak memory."""
        start = time.perf_counter()
        losses = [self.take() for _ in range(steps)]
        loss = float(torch.stack(losses).mean())
        if self.settings["device"] != "cpu":
            torch.accelerator.synchronize()
        return {"seconds": time.perf_counter() - start, "loss": loss, "megabytes": self.peak_megabytes()}

    def peak_megabytes(self) -> float:
        """Return the peak of the memory allocated on an NVIDIA GPU, elsewhere of the resident memory."""
        if self.settings["device"] == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main(settings: dict[str, Any]) -> None:
    """Load the model, then process requests until stdin ends."""
    training = Training(settings)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(training.run(json.loads(line)["steps"])), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
