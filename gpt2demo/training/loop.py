"""The training loop: a generator of events, which callers show, record and pass to plugins.

All randomness in a step (the batch, the dropout masks) is a function of (seed, step). A resumed run therefore continues bit for
bit from weights, optimizer state and step, even if code outside the loop draws from torch's generators.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig, ModelConfig, TrainConfig
from gpt2demo.data.tokens import load_ids, load_sizes
from gpt2demo.data.windows import Windows
from gpt2demo.engines.hardware import keep_freed_memory, torch_device, training_dtype
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import CheckpointError, DataError, RunError, TrainingError
from gpt2demo.generation.generate import Model
from gpt2demo.memory import memory_advice, out_of_memory
from gpt2demo.metrics import bits_per_byte, perplexity, token_losses
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint, weights
from gpt2demo.runs.folder import Run, State, Status, now
from gpt2demo.training.events import Ended, Evaluation, Event, Sample, Saved, Started, Step, StopRequest, record
from gpt2demo.training.optimizers import freeze
from gpt2demo.training.schedule import learning_rate, total_steps

COMPILER_MODULES = ("torch._dynamo", "torch._inductor")  # where torch.compile's exceptions are defined
DIVERGENCE_ADVICE = "try a smaller --learning-rate, more --warmup-steps or --dtype fp32"
NOT_SAVED = -1  # a step before the first
PACE_DECAY = 0.95  # of the moving average of seconds per step


class Training:
    """The training of a run: data, model and optimizer, set up from the run folder, and the loop over its steps.

    Args:
        run: a prepared run folder.
        info: the content of its run.json.

    Raises:
        RunError: tokenizer, model and checkpoint do not match.
        CheckpointError: the run has checkpoints, but all are damaged.
    """

    def __init__(self, run: Run, info: dict[str, Any]) -> None:
        self.run = run
        self.model_config = ModelConfig.create(**info["model"])
        self.config = TrainConfig.create(**info["train"])
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        keep_freed_memory()
        self.device = torch_device(self.config.device)
        self.dtype = training_dtype(self.config.dtype, self.device)
        self.tokenizer, _ = checkpoint.load_tokenizer(run.tokenizer)
        if self.tokenizer.vocab_size > self.model_config.vocab_size:
            both = f"the tokenizer has {self.tokenizer.vocab_size} ids, the model {self.model_config.vocab_size}"
            raise RunError(f"{run.path}: {both}; they do not match")
        self.sizes = load_sizes(run.data)
        self.train_windows, self.validation_windows = self._windows("train"), self._windows("validation")
        self.total_steps = total_steps(self.config, self.train_windows.per_epoch)
        self.step = 0
        self.status: Status = "running"
        self.validation_loss: float | None = None
        self._saved_step = NOT_SAVED
        advice = "try a smaller --n-embd, --n-layer or --vocab-size"
        with memory_advice(f"building a model of {self.model_config.n_parameters:,} parameters", advice):
            self._check_memory()
            self.model = self._new_model().to(self.device).train()
            freeze(self.model, self.config.freeze_layers)
            self.optimizer = plugins.create_optimizer(self.config.optimizer, self.model, self.config)
            # An optimizer may give groups of parameters rates of their own: their ratio to the configured one is kept.
            self._rate_ratios = [group["lr"] / self.config.learning_rate for group in self.optimizer.param_groups]
            self._restore()
        self._forward = self._compiled_if_configured()
        self._pace: float | None = None  # moving average of seconds per step

    @property
    def complete(self) -> bool:
        """True if no steps are left."""
        return self.step >= self.total_steps

    def _windows(self, split: str) -> Windows:
        return Windows(load_ids(self.run.data, split), self.model_config.n_positions, self.config.seed, split)

    def _check_memory(self) -> None:
        """Raise a MemoryError if not even the weights fit: the system would kill the process while they are initialized."""
        if 4 * self.model_config.n_parameters > psutil.virtual_memory().total + psutil.swap_memory().total:
            raise MemoryError

    def _new_model(self) -> GPT2:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return GPT2(self.model_config)

    def _restore(self) -> None:
        """Load the newest checkpoint if there is one, and drop the records of later steps."""
        checkpoint.clean(self.run.checkpoints)
        if not any(self.run.checkpoints.glob("step-*")):
            self.run.drop_records_after(NOT_SAVED)
            return
        saved = checkpoint.newest(self.run.checkpoints)
        loaded = weights.load_model(saved.path)
        self._check_shape(loaded.config, saved.path)
        self.model.load_state_dict(loaded.state_dict())
        self.step = self._saved_step = saved.step
        if saved.step == 0:  # initial weights, without optimizer state
            self.run.drop_records_after(NOT_SAVED)
            return
        progress, state = weights.load_trainer(saved.path)
        try:
            self.optimizer.load_state_dict(state)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{saved.path}/trainer.json: does not match the optimizer ({reason})") from None
        self.validation_loss = saved.validation_loss
        self._warn_of_changes(progress)
        self.run.drop_records_after(self.step)

    def _check_shape(self, saved: ModelConfig, path: Path) -> None:
        """Check that run.json and a checkpoint describe the same model."""
        for name in ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer"):
            if (found := getattr(saved, name)) != (expected := getattr(self.model_config, name)):
                raise RunError(f"{self.run.path}/run.json: has {name}={expected}, but the weights in {path} have {found}")

    def _warn_of_changes(self, progress: dict[str, Any]) -> None:
        """Warn about differences from the checkpoint's environment, which prevent a bit-exact continuation."""
        for name, value in self._environment().items():
            if (before := progress.get(name)) != value:
                change = f"{name} changed from {str(before)[:40]} to {value}"
                warnings.warn(f"{change}: the run continues, but not bit for bit", stacklevel=2)

    def _environment(self) -> dict[str, Any]:
        """Return what a bit-exact continuation depends on besides the files."""
        return {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "threads": torch.get_num_threads(),
            "device": self.device.type,
            "dtype": self._dtype_name,
        }

    @property
    def _dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def _compiled_if_configured(self) -> Callable[..., Tensor]:
        wanted = self.config.compile == "on" or (self.config.compile == "auto" and self.device.type == "cuda")
        return torch.compile(self.model) if wanted else self.model

    def state(self, status: Status, error: str | None = None) -> State:
        """Return the content of state.json."""
        return State.own(status, self.step, self.total_steps, error)

    # ------------------------------------------------------------------------------------------ the loop

    def events(self, stop: StopRequest) -> Iterator[Event]:
        """Train to the end and yield the events, after recording each in the run folder and passing it to plugins."""
        for event in self._loop(stop):
            record(self.run, event)
            for complaint in plugins.registry().training_event(self.run.path, event):
                warnings.warn(complaint, stacklevel=2)
            yield event

    def _loop(self, stop: StopRequest) -> Iterator[Event]:
        yield self._started()
        if self.step == 0 or self.validation_loss is None:  # new, or interrupted between a step and its evaluation
            yield from self._evaluation_if_due()
        while self.step < self.total_steps:
            if requested := "stopped" if self.run.stop_file.exists() else stop():
                self.status = requested
                break
            yield self._step()
            yield from self._evaluation_if_due()
            if self._due(self.config.save_every):
                yield self.save_now()
        else:
            self.status = "finished"
        if self.step != self._saved_step:
            yield self.save_now()
        yield Ended(self.status, self.step)

    def _evaluation_if_due(self) -> Iterator[Event]:
        if self._due(self.config.eval_every):
            yield self._evaluate()
            if self.config.sample_tokens and self.step:
                yield self._sample()

    def _due(self, every: int | None) -> bool:
        """Return whether an action with this interval is due after the current step. The last step is always due.

        Without an interval, that of evaluations is used, and without that, a tenth of the run.
        """
        every = every or self.config.eval_every or max(1, self.total_steps // 10)
        return self.step % every == 0 or self.step == self.total_steps

    def _started(self) -> Started:
        tokens = {name: size.tokens for name, size in self.sizes.items()}
        return Started(
            run=self.run.name,
            step=self.step,
            total_steps=self.total_steps,
            parameters=self.model_config.n_parameters,
            tokens=tokens,
            device=self.device.type,
            dtype=self._dtype_name,
        )

    def _step(self) -> Step:
        """Take an optimizer step, and explain its failures.

        Raises:
            TrainingError: memory ran out, or torch.compile failed; the message suggests a setting that may work.
        """
        try:
            return self._advance()
        except (MemoryError, RuntimeError) as error:
            if type(error).__module__.startswith(COMPILER_MODULES):
                reason = str(error).partition("\n")[0][:200]
                raise TrainingError(f"step {self.step + 1}: torch.compile failed ({reason}); try --compile off") from None
            if not out_of_memory(error):
                raise
        # Raised outside the except block, where the traceback would keep the step's tensors alive.
        count, accumulation, shape = self.config.batch_size, self.config.grad_accumulation, self.model_config
        smaller = f"--batch-size {count // 2} --grad-accumulation {accumulation * 2}" if count > 1 else "a smaller --n-positions"
        raise TrainingError(
            f"step {self.step + 1}: out of memory with {count} sequences of {shape.n_positions} positions and "
            f"{shape.n_parameters:,} parameters; try {smaller}"
        )

    def _advance(self) -> Step:
        """Take an optimizer step over `grad_accumulation` batches."""
        started = time.perf_counter()
        rate = learning_rate(self.step, self.total_steps, self.config)
        for group, ratio in zip(self.optimizer.param_groups, self._rate_ratios, strict=True):
            group["lr"] = rate * ratio
        seed = np.random.SeedSequence([self.config.seed, self.step]).generate_state(1, np.uint64)[0]
        loss = 0.0
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(seed))  # for dropout
            for micro_batch in range(self.config.grad_accumulation):
                loss += self._backward(micro_batch)
        grad_norm = self._clip()
        self._check_finite(loss, grad_norm, rate)
        self._update()
        self.step += 1
        self.validation_loss = None  # of this step; `_evaluate` sets it
        return self._step_event(loss, rate, grad_norm, time.perf_counter() - started)

    def _update(self) -> None:
        """Update the weights.

        Raises:
            TrainingError: the optimizer failed: its state does not match the weights, or a plugin has an error.
        """
        try:
            self.optimizer.step()
            self.optimizer.zero_grad()
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            if out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise TrainingError(f"step {self.step + 1}: the optimizer {self.config.optimizer!r} failed ({reason})") from error

    def _backward(self, micro_batch: int) -> float:
        """Accumulate the gradients of one batch of the current step; return its share of the mean loss."""
        B = self.config.batch_size
        first = (self.step * self.config.grad_accumulation + micro_batch) * B
        windows = self._on_device(self.train_windows.batch(first, B))  # (B, T + 1)
        with self._autocast():
            loss = token_losses(self._forward, windows).mean() / self.config.grad_accumulation
        loss.backward()  # type: ignore[no-untyped-call]  # not annotated in torch
        return float(loss.detach())

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _on_device(self, ids: npt.NDArray[np.int64]) -> Tensor:
        """Return ids as a tensor. Check first that they are in the vocabulary: an invalid one can crash a GPU.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        if (highest := int(ids.max())) >= self.model_config.vocab_size:
            beyond = f"id {highest} is beyond the vocabulary of {self.model_config.vocab_size}"
            raise DataError(f"{self.run.data}: {beyond}; the files are damaged, train a new run")
        return torch.from_numpy(ids).to(self.device)

    def _clip(self) -> float:
        """Clip the gradients' norm; return the norm before clipping."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.grad_clip, norm, foreach=True)
        return float(norm)

    def _check_finite(self, loss: float, grad_norm: float, rate: float) -> None:
        """Raise a TrainingError before an update that would make the weights NaN or infinite."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            values = f"loss {loss}, gradient norm {grad_norm} at learning rate {rate:.3g}"
            raise TrainingError(f"step {self.step + 1}: {values}; the weights were not changed; {DIVERGENCE_ADVICE}")

    def _step_event(self, loss: float, rate: float, grad_norm: float, seconds: float) -> Step:
        tokens = self.config.batch_size * self.config.grad_accumulation * self.model_config.n_positions
        self._pace = seconds if self._pace is None else PACE_DECAY * self._pace + (1 - PACE_DECAY) * seconds
        return Step(
            step=self.step,
            total_steps=self.total_steps,
            loss=loss,
            learning_rate=rate,
            grad_norm=grad_norm,
            tokens_per_second=tokens / seconds,
            seconds_left=self._pace * (self.total_steps - self.step),
        )

    # ------------------------------------------------------------------------------------------ evaluations and checkpoints

    @torch.inference_mode()
    def _evaluate(self) -> Evaluation:
        """Measure the mean losses of both splits without dropout, over the same windows each time.

        Raises:
            TrainingError: a loss is NaN or infinite.
        """
        self.model.eval()
        train, validation = (self._mean_loss(windows) for windows in (self.train_windows, self.validation_windows))
        self.model.train()
        if not math.isfinite(train + validation):
            values = f"training loss {train}, validation loss {validation}"
            raise TrainingError(f"step {self.step}: {values}; no checkpoint was written; {DIVERGENCE_ADVICE}")
        self.validation_loss = validation
        size = self.sizes["validation"]
        bits = bits_per_byte(validation, size.tokens, size.bytes)
        return Evaluation(self.step, train, validation, perplexity(validation), bits)

    def _mean_loss(self, windows: Windows) -> float:
        chosen = self._on_device(windows.evenly_spaced(self.config.eval_batches * self.config.batch_size))
        with self._autocast():  # the model itself: the compiled one would be compiled again for other batch sizes
            losses = [token_losses(self.model, batch) for batch in torch.split(chosen, self.config.batch_size)]
        return float(torch.cat(losses).double().mean())

    def _sample(self) -> Sample:
        """Sample a text, with the same seed each time so that samples are comparable."""
        model = Model(TorchEngine(self.model), self.tokenizer, self.run.name, self.run.path)
        config = GenerateConfig(max_new_tokens=self.config.sample_tokens, seed=self.config.seed)
        return Sample(self.step, "", "".join(model.generate("", config)))

    def save_if_new(self) -> None:
        """Write a checkpoint unless this step has one."""
        if self.step != self._saved_step:
            self.save_now()

    def save_now(self) -> Saved:
        """Write a checkpoint, then prune old ones."""
        progress = {"step": self.step, "validation_loss": self.validation_loss, "time": now(), **self._environment()}
        saved = weights.save_checkpoint(self.run.checkpoints, self.model, self.run.tokenizer, self.optimizer, progress)
        self._saved_step = self.step
        self.run.write_state(self.state("running"))
        checkpoint.prune(self.run.checkpoints, self.config.keep)
        return Saved(self.step, saved.path, saved.validation_loss)
