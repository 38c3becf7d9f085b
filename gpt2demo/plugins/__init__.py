"""Plugins: find, load and check them, return the parts that they provide, and guard the calls into them.

Built-in parts are registered through the same hooks. Plugins are trusted code: they run with all permissions of the program.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from gpt2demo.config import parse_spec, validate
from gpt2demo.hookspecs import PROJECT
from gpt2demo.plugins.guard import Guard, WrongResultError, check_result, ends_program, type_name
from gpt2demo.plugins.loading import BUILTINS, KINDS, NO_PLUGINS, Plugin, Registry, installed, registry
from gpt2demo.plugins.wrappers import guarded_optimizer, guarded_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from gpt2demo.config import TrainConfig
    from gpt2demo.interfaces import Dataset, Exporter, OptimizerFactory, Sampler, Schedule, TabBuilder, Tokenizer

__all__ = [
    "BUILTINS",
    "KINDS",
    "NO_PLUGINS",
    "Guard",
    "Plugin",
    "Registry",
    "WrongResultError",
    "check_result",
    "create_dataset",
    "create_optimizer",
    "create_sampler",
    "datasets",
    "documents",
    "ends_program",
    "exporters",
    "installed",
    "load_tokenizer",
    "optimizers",
    "registry",
    "samplers",
    "schedule_factor",
    "schedules",
    "tabs",
    "tokenizer_options",
    "tokenizers",
    "train_tokenizer",
    "type_name",
]


def tokenizers() -> dict[str, type[Tokenizer]]:
    """Return all tokenizers, name -> class."""
    return registry().parts("tokenizers")


def samplers() -> dict[str, type[Sampler]]:
    """Return all samplers, name -> class: built-in ones in the order in which transformers applies them, then plugins."""
    return registry().in_order("samplers")


def datasets() -> dict[str, type[Dataset]]:
    """Return all example datasets, name -> class."""
    return registry().parts("datasets")


def exporters() -> dict[str, type[Exporter]]:
    """Return all exporters, format -> class."""
    return registry().parts("exporters")


def optimizers() -> dict[str, OptimizerFactory]:
    """Return all optimizers, name -> factory."""
    return registry().parts("optimizers")


def schedules() -> dict[str, Schedule]:
    """Return all learning rate schedules, name -> function."""
    return registry().parts("schedules")


def tabs() -> dict[str, TabBuilder]:
    """Return the additional tabs of the web page, title -> builder."""
    return registry().parts("tabs")


# ---------------------------------------------------------------------------------------------- samplers and datasets


def create_sampler(spec: str) -> Sampler:
    """Return a sampler for `NAME:key=value,key=value`.

    Raises:
        PluginError: the name is unknown.
        SettingError: an option is unknown or has an invalid value.
    """
    name, options = parse_spec(spec)
    cls: type[Sampler] = registry().part("samplers", name)
    with Guard("samplers", name, "__init__"):
        return validate(cls, options, strings=True, what=f"sampler {name!r}: ")


def create_dataset(spec: str) -> Dataset:
    """Return an example dataset for `NAME:key=value,key=value`. Raises the same errors as `create_sampler`."""
    name, options = parse_spec(spec)
    cls: type[Dataset] = registry().part("datasets", name)
    with Guard("datasets", name, "__init__"):
        return validate(cls, options, strings=True, what=f"dataset {name!r}: ")


def documents(spec: str) -> Iterator[str]:
    """Yield the documents of an example dataset. Raises the same errors as `create_sampler`, and:

    Raises:
        PluginFailure: the dataset raised an exception, or yielded something that is not a text.
    """
    dataset, name = create_dataset(spec), parse_spec(spec)[0]
    with Guard("datasets", name, "documents"):
        returned = dataset.documents()
        check_result(not isinstance(returned, str) and hasattr(returned, "__iter__"), returned, "an iterator of str")
        for number, text in enumerate(returned, start=1):
            if type(text) is not str:
                raise WrongResultError(f"yielded {type_name(text)} as document {number}, not str")
            if not _is_unicode(text):
                raise WrongResultError(f"yielded a lone surrogate in document {number}, which UTF-8 cannot store")
            yield text


def _is_unicode(text: str) -> bool:
    """Return whether UTF-8 can store a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------------------------------------- tokenizers


def tokenizer_options(name: str) -> type[BaseModel]:
    """Return a tokenizer's options as a pydantic class made from the keyword-only parameters of `train`."""
    cls = registry().part("tokenizers", name)
    with Guard("tokenizers", name, "train"):
        hints = get_type_hints(cls.train, include_extras=True)  # including the ranges and help texts in `Annotated`
        parameters = [p for p in signature(cls.train).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
        fields: dict[str, Any] = {p.name: (hints.get(p.name, str), p.default) for p in parameters}
        return create_model(f"{name} options", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)


def train_tokenizer(name: str, texts: Iterable[str], options: dict[str, str]) -> Tokenizer:
    """Train a tokenizer on texts.

    Args:
        name: the tokenizer's name.
        texts: the training texts.
        options: option name -> value as a string.

    Raises:
        PluginError: the name is unknown.
        SettingError: an option is unknown or has an invalid value.
    """
    cls = registry().part("tokenizers", name)
    values = validate(tokenizer_options(name), options, strings=True, what=f"tokenizer {name!r}: ")
    with Guard("tokenizers", name, "train"):
        trained: Tokenizer = cls.train(texts, **values.model_dump())
    return trained if _is_built_in("tokenizers", name) else guarded_tokenizer(name, "train", trained)


def load_tokenizer(name: str, folder: Path) -> Tokenizer:
    """Load a tokenizer from a folder.

    Raises:
        PluginError: the name is unknown.
        TokenizerError: the files are missing or damaged.
    """
    cls = registry().part("tokenizers", name)
    with Guard("tokenizers", name, "load"):
        loaded: Tokenizer = cls.load(folder)
    return loaded if _is_built_in("tokenizers", name) else guarded_tokenizer(name, "load", loaded)


# ---------------------------------------------------------------------------------------------- optimizers and schedules


def create_optimizer(name: str, model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return an optimizer for a model.

    Raises:
        PluginError: the name is unknown.
        PluginFailure: the plugin raised an exception, or returned something else.
    """
    factory: OptimizerFactory = registry().part("optimizers", name)
    with Guard("optimizers", name, "the factory"):
        optimizer = factory(model, config)
    return optimizer if _is_built_in("optimizers", name) else guarded_optimizer(name, optimizer)


def schedule_factor(name: str, step: int, total_steps: int, config: TrainConfig) -> float:
    """Return a schedule's factor of the peak learning rate.

    Args:
        name: the schedule's name.
        step: counted from 0.
        total_steps: length of the run.
        config: its settings.

    Raises:
        PluginError: the name is unknown.
        PluginFailure: the plugin raised an exception, or returned something else than a finite number of at least 0.
    """
    schedule: Schedule = registry().part("schedules", name)
    with Guard("schedules", name, "__call__"):
        factor = schedule(step, total_steps, config)
        check_result(isinstance(factor, int | float) and not isinstance(factor, bool), factor, "a float")
        if not 0 <= factor < math.inf:
            raise WrongResultError(f"returned {factor} for step {step} of {total_steps}, not a finite factor of at least 0")
    return float(factor)


def _is_built_in(kind: str, name: str) -> bool:
    """Return whether a part is built in, or replaced in a test."""
    owner = registry().find_owner(kind, name)
    return owner is None or owner.distribution == PROJECT
