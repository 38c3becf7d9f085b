"""Sampler chains that are saved with a model, in `chains.json` of its run or export: `--sampler @NAME` means one of them."""

from __future__ import annotations

from pathlib import Path

from gpt2demo import plugins
from gpt2demo.config import CHAINS, GenerateConfig, expand_chains
from gpt2demo.errors import CheckpointError, SettingError
from gpt2demo.runs.folder import Run, check_name
from gpt2demo.storage import read_json, write_json

FILE = "chains.json"


def chains_file(model: Path) -> Path:
    """Where the chains of a checkpoint's run, or of another model's folder, are."""
    run = Run.of_checkpoint(model)
    return (run.path if run else model) / FILE


def load_chains(model: Path) -> dict[str, tuple[str, ...]]:
    """All named chains that a model knows: those that everybody has, and its own.

    Raises:
        CheckpointError: its file is damaged.
    """
    file = chains_file(model)
    own = read_json(file) if file.exists() else {}
    if not all(isinstance(chain, list) and all(isinstance(spec, str) for spec in chain) for chain in own.values()):
        raise CheckpointError(f"{file}: is damaged; expected names with lists of samplers")
    return CHAINS | {name: tuple(chain) for name, chain in own.items()}


def keep_chain(model: Path, name: str, config: GenerateConfig) -> None:
    """Save the chain of some settings with a model under a name.

    Raises:
        UserError: the name cannot be used or is everybody's, a sampler is unknown or has a wrong option.
        CheckpointError: the disk refused.
    """
    if check_name(name) in CHAINS:
        raise SettingError(f"chain {name!r}: everybody has a chain of this name; choose another")
    chain = list(with_own_chains(config, model).chain)
    for spec in chain:
        plugins.create_sampler(spec)
    own = {key: list(value) for key, value in load_chains(model).items() if key not in CHAINS}
    write_json(chains_file(model), own | {name: chain})


def with_own_chains(config: GenerateConfig, model: Path) -> GenerateConfig:
    """Settings in which the names of a model's own chains are replaced by the samplers."""
    if not any(spec.startswith("@") for spec in config.samplers):
        return config
    return config.with_changes(samplers=expand_chains(config.samplers, load_chains(model)))
