"""The training loop: a generator of events, which callers show, record and pass to plugins.

`step.py` does the arithmetic of a step. All randomness in it (the batches, the dropout masks) is a function of (seed, step). A
resumed run therefore continues bit for bit from weights, optimizer state and step, even if code outside draws random numbers.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt2demo import plugins
from gpt2demo.config import GenerateConfig, ModelConfig, TrainConfig
from gpt2demo.data.tokens import load_sizes
from gpt2demo.data.windows import open_windows
from gpt2demo.engines.hardware import keep_freed_memory, peak_flops, peak_memory, torch_device, training_dtype
from gpt2demo.engines.torch import TorchEngine
from gpt2demo.errors import CheckpointError, RunError, TrainingError
from gpt2demo.generation.generate import Model
from gpt2demo.layers import dropout_masks
from gpt2demo.memory import memory_advice, require_memory
from gpt2demo.metrics import PADDING, bits_per_byte, perplexity, token_losses
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint, weights
from gpt2demo.runs.checkpoint import Checkpoint
from gpt2demo.runs.folder import Run, State, Status, now
from gpt2demo.training.batches import Batches
from gpt2demo.training.events import Ended, Evaluation, Event, Sample, Saved, Started, Step, StopRequest, record
from gpt2demo.training.milestones import default_milestones, milestone_steps
from gpt2demo.training.optimizers import freeze
from gpt2demo.training.parallel import layout
from gpt2demo.training.patience import Patience
from gpt2demo.training.processes import Group
from gpt2demo.training.schedule import learning_rate_of, total_steps
from gpt2demo.training.settings import check_processes
from gpt2demo.training.step import DIVERGENCE_ADVICE, OptimizerStep

NOT_SAVED = -1  # a step before the first
MISSING = {"dropout": "torch"}  # values of the environment that older checkpoints do not record
PACE_DECAY = 0.95  # of the moving average of seconds per step


class Training:
    """The training of a run: data, model and optimizer, set up from the run folder, and the loop over its steps.

    Args:
        run: a prepared run folder.
        info: the content of its run.json.
        group: the processes of the training. All of them run the loop and yield the same events; the leader alone writes.

    Raises:
        SettingError: the processes cannot share the micro-batches of a step, or this machine has too few GPUs.
        RunError: tokenizer, model and checkpoint do not match.
        CheckpointError: the run has checkpoints, but all are damaged.
    """

    def __init__(self, run: Run, info: dict[str, Any], group: Group) -> None:
        self.run = run
        self.group = group
        self.model_config = ModelConfig.create(**info["model"])
        self.config = TrainConfig.create(**info["train"])
        check_processes(self.config, group.size)
        self._learning_rate = learning_rate_of(info)
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        keep_freed_memory()
        self.device = group.device(torch_device(self.config.device))
        self.dtype = training_dtype(self.config.dtype, self.device)
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.fp32_precision = "tf32" if self.config.tf32 else "ieee"
        self.tokenizer, _ = checkpoint.load_tokenizer(run.tokenizer)
        if self.tokenizer.vocab_size > self.model_config.vocab_size:
            both = f"the tokenizer has {self.tokenizer.vocab_size} ids, the model {self.model_config.vocab_size}"
            raise RunError(f"{run.path}: {both}; they do not match")
        self.sizes = load_sizes(run.data)
        self.train_batches, self.validation_batches = self._batches("train"), self._batches("validation")
        self.total_steps = total_steps(self.config, self.train_batches.windows.per_epoch)
        milestones = self.config.milestones
        count = default_milestones(self.model_config.n_parameters) if milestones is None else milestones
        self._milestones = milestone_steps(count, self.total_steps)
        self.step = 0
        self.status: Status = "running"
        self.validation_loss: float | None = None
        self.patience = Patience(self.config.patience)
        self._stop_reason: str | None = None
        self._saved_step = NOT_SAVED
        advice = "try a smaller --n-embd, --n-layer or --vocab-size"
        with memory_advice(f"building a model of {self.model_config.n_parameters:,} parameters", advice):
            require_memory(4 * self.model_config.n_parameters)
            self.layout = layout(group, self.device, shard=self.config.shard)
            self.model = self.layout.place(self._new_model()).train()
            self.optimizer = plugins.create_optimizer(self.config.optimizer, self.model, self.config)
            self.optimizer_step = OptimizerStep(
                self.model, self.optimizer, self.train_batches, self.config, self.dtype, self.layout
            )
            self._restore()
        self._pace: float | None = None  # moving average of seconds per step
        self._peak = peak_flops(self.device, self.dtype)  # of one device

    @property
    def complete(self) -> bool:
        """True if no steps are left."""
        return self.step >= self.total_steps

    def _batches(self, split: str) -> Batches:
        windows = open_windows(self.run.data, split, self.model_config, self.config)
        return Batches(windows, self.config.batch_size, self.model_config.vocab_size, self.device, self.run.data)

    def _new_model(self) -> GPT2:
        """Return the model with its initial weights, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            model = GPT2(self.model_config)
        freeze(model, self.config.freeze_layers)
        model.checkpoint_activations = self.config.checkpoint_activations
        return model

    def _newest(self) -> Checkpoint | None:
        """Return the newest valid checkpoint if there is one, after removing what a killed process has left."""

        def find() -> dict[str, Any] | None:
            for folder in (self.run.checkpoints, self.run.milestones):
                checkpoint.clean(folder)
            if not any(self.run.checkpoints.glob("step-*")):
                return None
            found = checkpoint.newest(self.run.checkpoints)
            return {"step": found.step, "validation_loss": found.validation_loss}

        if (found := self.group.lead(find)) is None:
            return None
        return Checkpoint(self.run.checkpoints / checkpoint.folder_name(found["step"]), **found)

    def _restore(self) -> None:
        """Load the newest checkpoint if there is one, and drop the records of later steps."""
        saved = self._newest()
        if saved is None:
            self.run.drop_records_after(NOT_SAVED)
            return
        loaded = weights.load_model(saved.path)
        self._check_shape(loaded.config, saved.path)
        self.layout.load_weights(self.model, loaded.state_dict())
        self.step = self._saved_step = saved.step
        if saved.step == 0:  # initial weights, without optimizer state
            self.run.drop_records_after(NOT_SAVED)
            return
        progress, state = weights.load_trainer(saved.path)
        try:
            self.layout.load_optimizer(self.optimizer, state)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{saved.path}/trainer.json: does not match the optimizer ({reason})") from None
        self.validation_loss = saved.validation_loss
        self.patience = Patience(self.config.patience, **progress.get("patience", {}))
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
            if (before := progress.get(name, MISSING.get(name))) != value:
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
            "dropout": dropout_masks(self.model_config.dropout, self.device),
        }

    @property
    def _dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def state(self, status: Status, error: str | None = None) -> State:
        """Return the content of state.json."""
        return State.own(status, self.step, self.total_steps, error)

    # ------------------------------------------------------------------------------------------ the loop

    def events(self, stop: StopRequest) -> Iterator[Event]:
        """Train to the end and yield the events, after recording each in the run folder and passing it to plugins."""
        for event in self._loop(stop):
            if self.group.leader:
                record(self.run, event)
                for complaint in plugins.registry().training_event(self.run.path, event):
                    warnings.warn(complaint, stacklevel=2)
            yield event

    def _loop(self, stop: StopRequest) -> Iterator[Event]:
        yield self._started()
        self._keep_milestone()
        if self.step == 0 or self.validation_loss is None:  # new, or interrupted between a step and its evaluation
            yield from self._evaluation_if_due()
        while self.step < self.total_steps:
            if self.patience.exhausted:
                self.status, self._stop_reason = "stopped", self.patience.restart()
                self._saved_step = NOT_SAVED  # a checkpoint of this step does not store the restart yet
                break
            if requested := self.group.vote("stopped" if self.run.stop_file.exists() else stop()):
                self.status = requested
                break
            yield self._step()
            yield from self._evaluation_if_due()
            self._keep_milestone()
            if self._due(self.config.save_every) and not self.patience.exhausted:
                yield self.save_now()
        else:
            self.status = "finished"
        if self.step != self._saved_step:
            yield self.save_now()
        yield Ended(self.status, self.step, self._stop_reason)

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
            processes=self.group.size,
        )

    def _step(self) -> Step:
        started = time.perf_counter()
        rate = self._learning_rate(self.step, self.total_steps, self.config)
        loss, grad_norm = self.optimizer_step.take(self.step, rate)
        self.step += 1
        self.validation_loss = None  # of this step; `_evaluate` sets it
        return self._step_event(loss, rate, grad_norm, time.perf_counter() - started)

    def _step_event(self, loss: float, rate: float, grad_norm: float, seconds: float) -> Step:
        tokens = self.config.batch_size * self.config.grad_accumulation * self.model_config.n_positions
        self._pace = seconds if self._pace is None else PACE_DECAY * self._pace + (1 - PACE_DECAY) * seconds
        flops = self.model_config.flops_per_token * tokens / seconds
        return Step(
            step=self.step,
            total_steps=self.total_steps,
            loss=loss,
            learning_rate=rate,
            grad_norm=grad_norm,
            tokens_per_second=tokens / seconds,
            seconds_left=self._pace * (self.total_steps - self.step),
            flops_per_second=flops,
            utilization=flops / (self._peak * self.group.size) if self._peak else None,
            memory=peak_memory(self.device),
        )

    # ------------------------------------------------------------------------------------------ evaluations and checkpoints

    @torch.no_grad()  # inference_mode does not work with sharded weights
    def _evaluate(self) -> Evaluation:
        """Measure the mean losses of both splits without dropout, over the same windows each time.

        Raises:
            TrainingError: a loss is NaN or infinite.
        """
        self.model.eval()
        train, validation = self._mean_loss(self.train_batches), self._mean_loss(self.validation_batches)
        self.model.train()
        if not math.isfinite(train + validation):
            values = f"training loss {train}, validation loss {validation}"
            raise TrainingError(f"step {self.step}: {values}; no checkpoint was written; {DIVERGENCE_ADVICE}")
        self.validation_loss = validation
        self.patience.observe(self.step, validation)
        size = self.sizes["validation"]
        bits = bits_per_byte(validation, size.tokens, size.bytes)
        return Evaluation(self.step, train, validation, perplexity(validation), bits)

    def _mean_loss(self, batches: Batches) -> float:
        """Return the mean loss of evenly spaced windows. Each process measures every n-th batch.

        All measure the same number of batches, the last one twice if necessary: with sharded weights, all take part in each.
        """
        chosen = batches.evenly_spaced(self.config.eval_batches)
        losses = [torch.zeros(len(batch), batch.shape[1] - 1, dtype=torch.float64) for batch in chosen]
        for first in range(0, len(chosen), self.group.size):
            number = min(first + self.group.rank, len(chosen) - 1)
            with self.optimizer_step.autocast():  # the model itself: a compiled one is compiled again for each batch size
                measured = token_losses(self.model, chosen[number])
            if number == first + self.group.rank:
                losses[number] = measured.double().cpu()
        tokens = sum(int((batch[:, 1:] != PADDING).sum()) for batch in chosen)
        return float(self.group.total(torch.cat(losses)).sum()) / tokens

    def _sample(self) -> Sample:
        """Sample a text, with the same seed each time so that samples are comparable."""
        model = Model(TorchEngine(self.model), self.tokenizer, self.run.name, self.run.path)
        config = GenerateConfig(max_new_tokens=self.config.sample_tokens, seed=self.config.seed)
        return Sample(self.step, "", "".join(model.generate("", config)))

    def save_if_new(self) -> None:
        """Write a checkpoint unless this step has one."""
        if self.step != self._saved_step:
            self.save_now()

    def save_without_others(self) -> None:
        """Write a checkpoint unless this step has one, when other processes have ended or do not answer."""
        if not self.group.leader or self.layout.sharded:
            return
        self.group = Group()
        # A GPU may be waiting for the other processes; in a stream of its own, the weights are copied nevertheless.
        with torch.cuda.stream(torch.cuda.Stream() if self.device.type == "cuda" else None):  # type: ignore[no-untyped-call]
            self.save_if_new()

    def _keep_milestone(self) -> None:
        """Write the weights of this step if it is a milestone."""
        if self.step not in self._milestones:
            return
        model, _ = self.layout.to_save(self.model, self.optimizer)
        progress = {"step": self.step, "validation_loss": None, "time": now()}

        def save() -> None:
            weights.save_checkpoint(self.run.milestones, model, self.run.tokenizer, None, progress)

        self.group.lead(save)

    def save_now(self) -> Saved:
        """Write a checkpoint, then prune old ones."""
        model, optimizer = self.layout.to_save(self.model, self.optimizer)

        def save() -> str:
            progress: dict[str, Any] = {"step": self.step, "validation_loss": self.validation_loss}
            progress |= {"patience": self.patience.as_dict(), "time": now(), **self._environment()}
            saved = weights.save_checkpoint(self.run.checkpoints, model, self.run.tokenizer, optimizer, progress)
            self.run.write_state(self.state("running"))
            checkpoint.prune(self.run.checkpoints, self.config.keep)
            return str(saved.path)

        path = Path(self.group.lead(save))
        self._saved_step = self.step
        return Saved(self.step, path, self.validation_loss)
