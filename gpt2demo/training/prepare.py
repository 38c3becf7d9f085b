"""Prepare a run: plan it from the settings, then read the text, train the tokenizer, and write ids and run.json."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gpt2demo import plugins
from gpt2demo.config import AUTO, DataConfig, ModelConfig, Preset, TrainConfig
from gpt2demo.config import preset as find_preset
from gpt2demo.data.sources import title
from gpt2demo.data.windows import open_windows
from gpt2demo.errors import SettingError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint
from gpt2demo.runs.folder import Run, new_run, now, refuse_taken
from gpt2demo.runs.importing import Start, find_start, write_start
from gpt2demo.runs.weights import meta_model, with_weights
from gpt2demo.training.fit import largest_batch
from gpt2demo.training.schedule import with_warmup
from gpt2demo.training.settings import check_processes, check_training, configs
from gpt2demo.training.stores import prepare_text
from gpt2demo.training.text import TextPlan

DEFAULT_DATASET = "tales"


@dataclass(frozen=True)
class Plan:
    """Everything that is decided about a new run before its text is read.

    Attributes:
        preset: its name.
        model: the shape, with the preset's vocabulary size.
        train: training settings.
        reading: how to read and clean the text.
        paths: files, folders, globs and URLs; empty with a dataset.
        dataset: an example dataset, or None with paths.
        tokenizer, tokenizer_options: the tokenizer's name and options.
        vocab_size: requested vocabulary size, or None for the tokenizer's.
        start: model to start from, or None for random weights and a new tokenizer.
        auto_batch_size: whether to measure which batches fit into memory.
        processes: number of processes that will train.
    """

    preset: str
    model: ModelConfig
    train: TrainConfig
    reading: DataConfig
    paths: tuple[str, ...]
    dataset: str | None
    tokenizer: str
    tokenizer_options: dict[str, str]
    vocab_size: int | None
    start: Start | None
    auto_batch_size: bool
    processes: int

    @property
    def stem(self) -> str:
        """Base of the run's name if the user chose none."""
        text = self.dataset.partition(":")[0] if self.dataset else title(self.paths[0])
        return f"{text}-{self.start.name if self.start else self.preset}"


# ---------------------------------------------------------------------------------------------- planning


def prepare_run(
    data: str | Path | Sequence[str | Path] = (),
    *,
    preset: str = "nano",
    run: str | None = None,
    dataset: str | None = None,
    tokenizer: str | None = None,
    tokenizer_options: dict[str, str] | None = None,
    init_from: str | None = None,
    processes: int = 1,
    **settings: Any,
) -> Run:
    """Create a run folder that is ready to train. See `gpt2demo.train` for the arguments.

    `processes` is the number of processes that a launcher has started.

    Raises:
        UserError: a setting, the data or the name is invalid. Nothing is left behind.
    """
    refuse_taken(run)
    plan = plan_run(
        data,
        preset=preset,
        dataset=dataset,
        tokenizer=tokenizer,
        tokenizer_options=tokenizer_options,
        init_from=init_from,
        processes=processes,
        **settings,
    )
    return create_run(plan, run)


def plan_run(
    data: str | Path | Sequence[str | Path] = (),
    *,
    preset: str = "nano",
    dataset: str | None = None,
    tokenizer: str | None = None,
    tokenizer_options: dict[str, str] | None = None,
    init_from: str | None = None,
    processes: int = 1,
    **settings: Any,
) -> Plan:
    """Return the plan of a run. The arguments are those of `prepare_run`.

    Raises:
        UserError: a setting is invalid.
    """
    paths = [data] if isinstance(data, str | Path) else data
    base = find_preset(preset)
    start = find_start(init_from) if init_from is not None else None
    options = tokenizer_options or {}
    if start:
        check_tokenizer(start, tokenizer, options)
        base = starting_from(start, base, settings)
    reading = {name: value for name, value in settings.items() if name in DataConfig.model_fields}
    model, train = configs(base, {name: value for name, value in settings.items() if name not in reading})
    check_training(model, train)
    processes = max(processes, train.nproc)
    check_processes(train, processes)
    if (auto := settings.get("batch_size") == AUTO) and train.shard:
        raise SettingError("batch_size='auto': the memory of a model in parts (shard) is not measured; set a number")
    name = tokenizer or base.tokenizer
    return Plan(
        preset=preset,
        model=model,
        train=train,
        reading=DataConfig.create(**reading),
        paths=tuple(map(str, paths)),
        dataset=choose_dataset(paths, dataset),
        tokenizer=name,
        tokenizer_options={**(base.tokenizer_options if name == base.tokenizer else {}), **options},
        vocab_size=model.vocab_size if start or settings.get("vocab_size") is not None else None,
        start=start,
        auto_batch_size=auto,
        processes=processes,
    )


def choose_dataset(paths: Sequence[str | Path], dataset: str | None) -> str | None:
    """Return the dataset to use: the requested one, or the default if there are no files.

    Raises:
        SettingError: there are both files and a dataset.
    """
    if paths and dataset:
        raise SettingError(f"--dataset {dataset}: pass either text files or an example dataset")
    return dataset or (None if paths else DEFAULT_DATASET)


def check_tokenizer(start: Start, tokenizer: str | None, options: dict[str, str]) -> None:
    """Raise a SettingError if a tokenizer or an option of one is requested: the model to start from has its own."""
    if requested := tokenizer or ", ".join(f"option {key}={value}" for key, value in options.items()):
        raise SettingError(f"tokenizer {requested}: the model {start.name!r} has its own, {start.tokenizer_name!r}; omit it")


def starting_from(start: Start, base: Preset, settings: dict[str, Any]) -> Preset:
    """Return a preset with a model's shape and tokenizer in place of its own.

    Raises:
        SettingError: the settings request another shape or a longer context.
    """
    shape = start.model.config
    for name in ("vocab_size", "n_embd", "n_head", "n_layer", "initializer_range"):
        if settings.get(name) is not None and str(settings[name]) != str(getattr(shape, name)):
            own = f"{name}={getattr(shape, name)}"
            raise SettingError(f"{name}={settings[name]}: the model {start.name!r} to start from has {own}; omit it")
    requested = shape.with_changes(n_positions=settings.get("n_positions") or shape.n_positions).n_positions
    if requested > shape.n_positions:
        raise SettingError(
            f"n_positions={requested}: the model {start.name!r} to start from has {shape.n_positions}; use at most that"
        )
    return base.model_copy(update={"model": shape, "tokenizer": start.tokenizer_name, "tokenizer_options": {}})


# ---------------------------------------------------------------------------------------------- creating


def create_run(plan: Plan, name: str | None) -> Run:
    """Create the run folder of a plan.

    Args:
        plan: the run.
        name: the run's name, or None to derive an unused one from the plan.

    Raises:
        UserError: the text or the name is invalid. Nothing is left behind.
    """
    with new_run(name, plan.stem) as run:
        run.write_info(fill_run(plan, run))
    return run


def fill_run(plan: Plan, run: Run) -> dict[str, Any]:
    """Write the files of a new run except run.json, and return the content of that.

    Raises:
        UserError: the text is invalid, or not even one sequence fits into memory.
    """
    text = prepare_text(text_plan(plan), run)
    tokenizer, _ = checkpoint.load_tokenizer(run.tokenizer)
    model = plan.model.with_changes(vocab_size=vocabulary(plan, tokenizer))
    check_length(run, model, plan.train)
    windows = open_windows(run.data, "train", model, plan.train)
    train = with_warmup(plan.train, windows.per_epoch)
    memory: dict[str, Any] = {}
    if plan.auto_batch_size:
        train, memory = largest_batch(model, train, plan.processes)
    if plan.start:
        write_start(run, reshaped(plan.start.model, model))
    return _info(replace(plan, train=train), model) | {"memory": memory} | text


def text_plan(plan: Plan) -> TextPlan:
    """Return what determines the ids of the run."""
    options = plan.tokenizer_options
    if not plan.start and plan.vocab_size is not None and takes_size(plan.tokenizer):
        options = {**options, "vocab_size": str(plan.vocab_size)}
    trained = plan.start.tokenizer if plan.start else None
    return TextPlan(plan.paths, plan.dataset, plan.reading, plan.tokenizer, options, trained, plan.train.validation_fraction)


def takes_size(tokenizer: str) -> bool:
    """Return whether a tokenizer has the option `vocab_size`."""
    return "vocab_size" in plugins.tokenizer_options(tokenizer).model_fields


def vocabulary(plan: Plan, tokenizer: Tokenizer) -> int:
    """Return the model's vocabulary size: the tokenizer's, or a larger requested one.

    Raises:
        SettingError: the requested size is smaller than the tokenizer's.
    """
    if plan.vocab_size is not None and plan.vocab_size < tokenizer.vocab_size:
        raise SettingError(
            f"vocab_size={plan.vocab_size}: the tokenizer has {tokenizer.vocab_size} different tokens; use at least that"
        )
    return plan.vocab_size or tokenizer.vocab_size


def check_length(run: Run, model: ModelConfig, train: TrainConfig) -> None:
    """Check that both splits are long enough.

    Raises:
        DataError: a split is shorter than the context.
    """
    for split in ("train", "validation"):
        open_windows(run.data, split, model, train)


def reshaped(model: GPT2, config: ModelConfig) -> GPT2:
    """Return a model with the same weights and another dropout or a shorter context."""
    weights = model.state_dict()
    weights["wpe.weight"] = weights["wpe.weight"][: config.n_positions].clone()
    return with_weights(meta_model(config), weights, "the model to start from")


def _info(plan: Plan, model: ModelConfig) -> dict[str, Any]:
    """Return the content of run.json, without the text."""
    return {
        "created": now(),
        "preset": plan.preset,
        "model": model.model_dump(),
        "train": plan.train.model_dump(),
        "parameters": model.n_parameters,
        "tokenizer": _part("tokenizers", plan.tokenizer) | {"options": plan.tokenizer_options},
        "schedule": _part("schedules", plan.train.schedule),
        "dataset": plan.dataset,
        "seed": plan.train.seed,
        "threads": plan.train.threads or torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("gpt2demo", "torch", "numpy")},
        },
        "init_from": plan.start.origin if plan.start else None,
    }


def _part(kind: str, name: str) -> dict[str, str]:
    """Return a part of run.json about a plugin's part: what has to be installed to continue the run."""
    owner = plugins.registry().owner(kind, name)
    return {"name": name, "distribution": owner.distribution, "version": owner.version}
