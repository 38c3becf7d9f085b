"""Every hook, on one page. The docstring of a hook is its contract.

A plugin is a module that an entry point of the group `gpt2demo` names. It marks its functions with
`from gpt2demo import hookimpl`. Hooks that give something return a dict, name -> class, so that a plugin is tested by
calling a function. Names must be free: two owners of one name are refused, and a built-in cannot be shadowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2demo.interfaces import Dataset, Exporter, OptimizerFactory, Sampler, TabBuilder, Tokenizer

PROJECT = "gpt2demo"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def gpt2demo_tokenizers() -> dict[str, type[Tokenizer]]:
    """Tokenizers by name: classes that meet `gpt2demo.interfaces.Tokenizer`."""


@hookspec
def gpt2demo_samplers() -> dict[str, type[Sampler]]:
    """Samplers by name: subclasses of `gpt2demo.interfaces.Sampler`. Their fields become options and controls."""


@hookspec
def gpt2demo_datasets() -> dict[str, type[Dataset]]:
    """Example datasets by name: subclasses of `gpt2demo.interfaces.Dataset`."""


@hookspec
def gpt2demo_exporters() -> dict[str, type[Exporter]]:
    """Exporters by format name: classes that meet `gpt2demo.interfaces.Exporter`."""


@hookspec
def gpt2demo_optimizers() -> dict[str, OptimizerFactory]:
    """Optimizers by name: functions `(model, TrainConfig) -> torch.optim.Optimizer`."""


@hookspec
def gpt2demo_training_event(run: Path, event: Any) -> None:
    """See every event of the trainer, right after it happened.

    Args:
        run: the run folder.
        event: a `Step`, `Evaluation`, `Sample` or `Saved` of `gpt2demo.training.loop`. It must not be changed. What the hook
            raises is reported once and does not stop the training.
    """


@hookspec
def gpt2demo_tabs() -> dict[str, TabBuilder]:
    """Tabs of the web page by title: functions that fill a `gr.Tab` when called inside it, without arguments."""
