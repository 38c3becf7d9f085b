"""Sampler chains: created from specs, and saved by name in the `chains.json` of a run or export.

A chain is the ordered list of samplers that run before each draw. Users write it as specs, `NAME:key=value,…`; `--sampler @NAME`
stands for the samplers of a named chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gpt2demo import plugins
from gpt2demo.config import CHAINS, GenerateConfig, expand_chains, parse_spec
from gpt2demo.errors import CheckpointError, SettingError
from gpt2demo.interfaces import Sampler
from gpt2demo.runs.folder import Run, check_name
from gpt2demo.storage import read_json, write_json

FILE = "chains.json"


class NamedSampler(NamedTuple):
    """A sampler of a chain.

    Attributes:
        name: the registered name.
        sampler: the sampler with its options.
        spec: the name and the options as the user wrote them, `NAME:key=value,…`.
    """

    name: str
    sampler: Sampler
    spec: str


Chain = Sequence[NamedSampler]


def create_chain(specs: Sequence[str]) -> Chain:
    """Return the samplers for specs, in order.

    Raises:
        PluginError: a sampler is unknown.
        SettingError: an option is unknown or has an invalid value.
    """
    return [NamedSampler(parse_spec(spec)[0], plugins.create_sampler(spec), spec) for spec in specs]


def chains_file(model: Path) -> Path:
    """Return the path of a model's saved chains: in the run's folder for a checkpoint, else in the model's own folder."""
    run = Run.of_checkpoint(model)
    return (run.path if run else model) / FILE


def load_chains(model: Path) -> dict[str, tuple[str, ...]]:
    """Return all named chains of a model, name -> specs: the built-in ones and those saved with it.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = chains_file(model)
    saved = read_json(file) if file.exists() else {}
    if not all(isinstance(specs, list) and all(isinstance(spec, str) for spec in specs) for specs in saved.values()):
        raise CheckpointError(f"{file}: is damaged; expected names with lists of samplers")
    return CHAINS | {name: tuple(specs) for name, specs in saved.items()}


def save_chain(model: Path, name: str, config: GenerateConfig) -> None:
    """Save the chain of these settings with a model.

    Raises:
        UserError: the name is invalid or that of a built-in chain, or the chain is invalid.
        CheckpointError: the file is damaged or cannot be written.
    """
    if check_name(name) in CHAINS:
        raise SettingError(f"chain {name!r}: is a built-in chain; choose another name")
    specs = resolve_chains(config, model).chain
    create_chain(specs)
    saved = {key: list(value) for key, value in load_chains(model).items() if key not in CHAINS}
    write_json(chains_file(model), saved | {name: list(specs)})


def resolve_chains(config: GenerateConfig, model: Path) -> GenerateConfig:
    """Return settings in which each `@NAME` is replaced by the samplers of the model's chain of that name."""
    if not any(spec.startswith("@") for spec in config.samplers):
        return config
    return config.with_changes(samplers=expand_chains(config.samplers, load_chains(model)))
