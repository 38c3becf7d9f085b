"""The number of optimizer steps, and the learning rate of each step."""

from __future__ import annotations

import math

from gpt2demo.config import TrainConfig


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then constant or a cosine decay to the minimum."""
    warmup = min(config.warmup_steps, total // 5)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, total - warmup)
    low = config.min_learning_rate
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def total_steps(config: TrainConfig, windows_per_epoch: int) -> int:
    """Return the number of optimizer steps of the whole run."""
    if config.steps is not None:
        return config.steps
    return max(1, math.ceil((config.epochs or 1) * windows_per_epoch / (config.batch_size * config.grad_accumulation)))
