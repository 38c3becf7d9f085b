"""An optimizer step: the gradients of its micro-batches, clipping, and the update of the weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from gpt2demo.config import TrainConfig
from gpt2demo.errors import ProcessError, TrainingError
from gpt2demo.memory import out_of_memory
from gpt2demo.metrics import PADDING, token_losses
from gpt2demo.model import GPT2
from gpt2demo.training.batches import Batches
from gpt2demo.training.parallel import Replicated
from gpt2demo.training.processes import lost, lost_connection

COMPILER_MODULES = ("torch._dynamo", "torch._inductor")  # where torch.compile's exceptions are defined
DIVERGENCE_ADVICE = "try a smaller --learning-rate, more --warmup-steps or --dtype fp32"


class OptimizerStep:
    """Take the optimizer steps of a training.

    A step reads A micro-batches (`grad_accumulation`), of which each process takes an equal share. The random numbers of each are
    a function of (seed, step, its number), whichever process takes it. Losses and gradient norm stay on the device, and are read
    together before the update.

    Args:
        model: the model, in training mode.
        optimizer: for its parameters; not restored yet, so that its groups have their initial learning rates.
        batches: the training batches.
        config: training settings.
        dtype: of the arithmetic; weights and optimizer state are float32.
        layout: how the model lies on the devices of the processes.
    """

    def __init__(
        self,
        model: GPT2,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        config: TrainConfig,
        dtype: torch.dtype,
        layout: Replicated,
    ) -> None:
        self.model, self.optimizer, self.batches, self.config, self.dtype = model, optimizer, batches, config, dtype
        self.layout, self.group, self.device = layout, layout.group, layout.device
        # An optimizer may give groups of parameters rates of their own: their ratio to the configured one is kept.
        self._rate_ratios = [group["lr"] / config.learning_rate for group in optimizer.param_groups]
        self._mean_loss = layout.averaging(self._compiled_if_configured(MeanLoss(model, padded=config.pack == "documents")))

    def _compiled_if_configured(self, module: nn.Module) -> nn.Module:
        automatic = self.device.type == "cuda" and not self.layout.sharded
        if self.config.compile == "on" or (self.config.compile == "auto" and automatic):
            module.compile()
        return module

    def take(self, step: int, rate: float) -> tuple[float, float]:
        """Take a step; return the mean loss before the update, and the gradients' norm before clipping.

        Args:
            step: its number, from 0.
            rate: learning rate.

        Raises:
            TrainingError: loss or norm is not finite (the weights are unchanged), memory ran out, or torch.compile or the
                optimizer failed. The message suggests a setting that may work.
        """
        try:
            return self._take(step, rate)
        except (MemoryError, RuntimeError) as error:
            if type(error).__module__.startswith(COMPILER_MODULES):
                reason = str(error).partition("\n")[0][:200]
                raise TrainingError(f"step {step + 1}: torch.compile failed ({reason}); try --compile off") from None
            if isinstance(error, RuntimeError) and lost_connection(error):
                raise ProcessError(f"step {step + 1}: {lost(error)}") from None
            if not out_of_memory(error):
                raise
        # Raised outside the except block, where the traceback would keep the step's tensors alive.
        raise TrainingError(f"step {step + 1}: out of memory with {self._sizes()}")

    def _sizes(self) -> str:
        """Return what takes memory, and a smaller setting, in words."""
        count, accumulation, shape = self.config.batch_size, self.config.grad_accumulation, self.model.config
        smaller = f"--batch-size {count // 2} --grad-accumulation {accumulation * 2}" if count > 1 else "a smaller --n-positions"
        return f"{count} sequences of {shape.n_positions} positions and {shape.n_parameters:,} parameters; try {smaller}"

    def _take(self, step: int, rate: float) -> tuple[float, float]:
        own = self._accumulate(step)
        values = torch.stack([*own, self._clip()]).tolist()  # the only transfer from a GPU, which waits for its work
        loss, norm = self._mean(values[:-1]), values[-1]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            found = f"loss {loss}, gradient norm {norm} at learning rate {rate:.3g}"
            raise TrainingError(f"step {step + 1}: {found}; the weights were not changed; {DIVERGENCE_ADVICE}")
        self._update(step, rate)
        return loss, norm

    def _mean(self, own: list[float]) -> float:
        """Return the mean loss from this process's shares of it. The sum is rounded once: it does not depend on the order."""
        shares = torch.zeros(self.config.grad_accumulation, dtype=torch.float64)
        for number, share in zip(self._numbers, own, strict=True):
            shares[number] = share
        return math.fsum(self.group.total(shares).tolist())

    @property
    def _numbers(self) -> range:
        """Numbers of this process's micro-batches."""
        return self.group.share(self.config.grad_accumulation)

    def _accumulate(self, step: int) -> list[Tensor]:
        """Add up the gradients of this process's micro-batches; return their shares of the mean loss."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            return [self._backward(step, number) for number in self._numbers]

    def _backward(self, step: int, number: int) -> Tensor:
        """Add the gradients of a micro-batch; return its share of the mean loss, a scalar."""
        count, last = self.config.grad_accumulation, number == self._numbers[-1]
        # SeedSequence ignores zeros at the end: the first micro-batch has the seed of (seed, step).
        seed = np.random.SeedSequence([self.config.seed, step, number]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed))  # for dropout
        windows = self.batches.batch(step * count + number)  # (B, T + 1)
        self.layout.average_next(self._mean_loss, wanted=last)
        with self.autocast():
            loss: Tensor = self._mean_loss(windows) / count
        # The gradients are averaged over the processes, but belong to shares of a sum.
        loss.backward(torch.full_like(loss, self.group.size))  # type: ignore[no-untyped-call]  # not annotated in torch
        self.batches.prefetch((step + 1) * count + self._numbers[0] if last else step * count + number + 1)
        return loss.detach()

    def autocast(self) -> torch.autocast:
        """Return the context in which the model computes in the training's dtype."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _clip(self) -> Tensor:
        """Clip the gradients' norm; return the norm before clipping, a scalar. It is the same in all processes."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.grad_clip, norm, foreach=True)
        return self.layout.whole(norm)

    def _update(self, step: int, rate: float) -> None:
        """Update the weights.

        Raises:
            TrainingError: the optimizer failed: its state does not match the weights, or a plugin has an error.
        """
        for group, ratio in zip(self.optimizer.param_groups, self._rate_ratios, strict=True):
            group["lr"] = rate * ratio
        try:
            self.optimizer.step()
            self.optimizer.zero_grad()
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            if out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise TrainingError(f"step {step + 1}: the optimizer {self.config.optimizer!r} failed ({reason})") from error


class MeanLoss(nn.Module):
    """The mean loss of windows, as a module. Compiled as one graph, which never stores float32 logits.

    Args:
        model: the model.
        padded: whether windows may have padding, which does not count.
    """

    def __init__(self, model: GPT2, *, padded: bool = False) -> None:
        super().__init__()
        self.model = model
        self.padded = padded

    def forward(self, windows: Tensor) -> Tensor:
        """Return the mean loss of windows (B, T + 1), a scalar."""
        losses = token_losses(self.model, windows)  # (B, T)
        return losses.sum() / (windows[:, 1:] != PADDING).sum() if self.padded else losses.mean()
