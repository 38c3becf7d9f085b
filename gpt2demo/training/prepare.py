"""Settings and text -> a run folder that is ready to train: documents read, tokenizer trained, ids on disk, run.json written."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from gpt2demo import plugins
from gpt2demo.config import DataConfig, ModelConfig, Preset, TrainConfig
from gpt2demo.config import preset as find_preset
from gpt2demo.data.corpus import Corpus, load
from gpt2demo.data.sources import title
from gpt2demo.data.tokens import load_ids, prepare, train_tokenizer
from gpt2demo.data.windows import Windows
from gpt2demo.engines.hardware import torch_device
from gpt2demo.errors import DataError, SettingError
from gpt2demo.interfaces import Tokenizer
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint
from gpt2demo.runs.folder import Run, new_run, now
from gpt2demo.runs.importing import Start, find_start, write_start

DEFAULT_DATASET = "tales"
FILES = 10_000  # that run.json can name and still be read at once


def create_run(
    places: Sequence[str],
    preset: str,
    name: str | None,
    dataset: str | None,
    tokenizer: str | None,
    tokenizer_options: dict[str, str],
    settings: dict[str, Any],
    init_from: str | None = None,
) -> Run:
    """Make a run folder from text and settings; see `gpt2demo.train` for the arguments.

    Raises:
        UserError: something cannot be used. Nothing is left behind.
    """
    base = find_preset(preset)
    start = find_start(init_from) if init_from is not None else None
    if start:
        wanted = tokenizer or ", ".join(f"option {key}={value}" for key, value in tokenizer_options.items())
        base = starting_from(start, base, wanted, settings)
    reading = DataConfig.create(**{name: settings.pop(name) for name in [*settings] if name in DataConfig.model_fields})
    model, train = configs(base, settings)
    check_training(model, train)
    if places and dataset:
        raise SettingError(f"--dataset {dataset}: give either text files or an example dataset")
    dataset = dataset or (None if places else DEFAULT_DATASET)
    corpus = load(places, dataset, reading)
    if len(corpus.sources) > FILES:
        make_one = f"make one of them: `gpt2demo data {places[0]} --output all.jsonl`"
        raise DataError(f"{places[0]}: {len(corpus.sources):,} files are more than a run keeps account of; {make_one}")
    stem = dataset.partition(":")[0] if dataset else title(places[0])
    run = new_run(name, f"{stem}-{start.name if start else preset}")
    try:
        kind = tokenizer or base.tokenizer
        options = dict(base.tokenizer_options if kind == base.tokenizer else {}) | tokenizer_options
        asked = model.vocab_size if start or settings.get("vocab_size") is not None else None
        trained = start.tokenizer if start else make_tokenizer(kind, corpus.documents, options, asked)
        model = with_vocabulary(model, trained, asked)
        _fill(run, corpus.documents, trained, kind, model, train)
        if start:
            write_start(run, reshaped(start.model, model))
        info = _info(preset, model, train, kind, options, dataset) | _text(corpus, reading)
        run.write_info({**info, "init_from": start and start.origin})
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def starting_from(start: Start, base: Preset, tokenizer: str, settings: dict[str, Any]) -> Preset:
    """A preset with a model's shape and tokenizer in place of its own.

    Raises:
        SettingError: the settings ask for another tokenizer, another shape or a longer context.
    """
    if tokenizer:
        raise SettingError(f"tokenizer {tokenizer}: the model {start.name!r} has its own, {start.kind!r}; leave it out")
    shape = start.model.config
    for name in ("vocab_size", "n_embd", "n_head", "n_layer", "initializer_range"):
        if settings.get(name) is not None and str(settings[name]) != str(getattr(shape, name)):
            own = f"{name}={getattr(shape, name)}"
            raise SettingError(f"{name}={settings[name]}: the model {start.name!r} to start from has {own}; leave it out")
    asked = shape.with_changes(n_positions=settings.get("n_positions") or shape.n_positions).n_positions
    if asked > shape.n_positions:
        raise SettingError(
            f"n_positions={asked}: the model {start.name!r} to start from has {shape.n_positions}; give at most that"
        )
    return base.model_copy(update={"model": shape, "tokenizer": start.kind, "tokenizer_options": {}})


def reshaped(model: GPT2, config: ModelConfig) -> GPT2:
    """The same weights in a model with another dropout or a shorter context: the positions behind it are cut off."""
    with torch.device("meta"):
        result = GPT2(config)
    weights = model.state_dict()
    weights["wpe.weight"] = weights["wpe.weight"][: config.n_positions].clone()
    result.load_state_dict(weights, assign=True)
    return result


def check_training(model: ModelConfig, train: TrainConfig) -> None:
    """Make sure that a training of this kind can begin here.

    Raises:
        SettingError: more layers are to be frozen than there are, or this machine has no such device.
        PluginError: there is no such optimizer.
    """
    torch_device(train.device)
    plugins.registry().part("optimizers", train.optimizer)
    if train.freeze_layers > model.n_layer:
        raise SettingError(f"freeze_layers={train.freeze_layers}: the model has {model.n_layer} layers; give at most that")


def configs(base: Preset, settings: dict[str, Any]) -> tuple[ModelConfig, TrainConfig]:
    """A preset with some settings changed; giving steps takes the preset's epochs away, and the other way round.

    Raises:
        SettingError: there is no such setting, or its value cannot be.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    if unknown := settings.keys() - ModelConfig.model_fields.keys() - TrainConfig.model_fields.keys():
        raise SettingError(f"{sorted(unknown)[0]}: there is no such setting")
    model = base.model.with_changes(**{k: v for k, v in settings.items() if k in ModelConfig.model_fields})
    train = {k: v for k, v in settings.items() if k in TrainConfig.model_fields}
    if "steps" in train or "epochs" in train:
        train = {"steps": None, "epochs": None} | train
    return model, base.train.with_changes(**train)


def make_tokenizer(name: str, documents: Sequence[str], options: dict[str, str], vocab_size: int | None) -> Tokenizer:
    """A tokenizer trained on documents.

    Raises:
        SettingError: an option is unknown or has a value it cannot have.
    """
    known = plugins.tokenizer_options(name)
    if vocab_size is not None and "vocab_size" in known.model_fields:
        options = {**options, "vocab_size": str(vocab_size)}
    return train_tokenizer(name, documents, options)


def with_vocabulary(model: ModelConfig, tokenizer: Tokenizer, asked: int | None) -> ModelConfig:
    """The model's shape with the tokenizer's vocabulary, or a larger one that somebody asked for.

    Raises:
        SettingError: the tokenizer needs more.
    """
    if asked is not None and asked < tokenizer.vocab_size:
        raise SettingError(f"vocab_size={asked}: the tokenizer has {tokenizer.vocab_size} different tokens; give at least that")
    return model.with_changes(vocab_size=asked or tokenizer.vocab_size)


def _fill(run: Run, documents: Sequence[str], tokenizer: Tokenizer, name: str, model: ModelConfig, train: TrainConfig) -> None:
    """Write tokenizer and ids; make sure that both splits are long enough."""
    checkpoint.save_tokenizer(tokenizer, name, run.tokenizer)
    run.data.mkdir()
    prepare(documents, tokenizer, run.data, train.validation_fraction)
    for split in ("train", "validation"):
        Windows(load_ids(run.data, split), model.n_positions, train.seed, split)


def _info(
    preset: str,
    model: ModelConfig,
    train: TrainConfig,
    tokenizer: str,
    options: dict[str, str],
    dataset: str | None,
) -> dict[str, Any]:
    """The content of run.json but for the text."""
    owner = plugins.registry().owner("tokenizers", tokenizer)
    return {
        "created": now(),
        "preset": preset,
        "model": model.model_dump(),
        "train": train.model_dump(),
        "parameters": model.n_parameters,
        "tokenizer": {"name": tokenizer, "options": options, "distribution": owner.distribution, "version": owner.version},
        "dataset": dataset,
        "seed": train.seed,
        "threads": train.threads or torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("gpt2demo", "torch", "numpy")},
        },
    }


def _text(corpus: Corpus, reading: DataConfig) -> dict[str, Any]:
    """What run.json says of the text: its files, and how they were read and cleaned."""
    facts = corpus.as_dict()
    return {"data": facts.pop("sources"), "cleaning": {**reading.model_dump(exclude={"sha256"}), **facts}}
