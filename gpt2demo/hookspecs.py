"""All plugin hooks. The docstring of a hook is its contract.

A plugin is a module named by an entry point of the group `gpt2demo`. It marks its hook functions with
`from gpt2demo import hookimpl`. Most hooks return a dict, name -> class, so that a plugin is tested by calling a function.
Names must be unique: a name used by two plugins is refused, and built-in names cannot be replaced. A name consists of lower-case
letters, digits, `.`, `_` and `-`, so that it can be typed in `NAME:key=value`; titles of tabs are free.

A hook that does not exist is an error. To support several versions of gpt2demo, mark a hook that older ones do not have with
`hookimpl(optionalhook=True)`. A plugin that needs a newer version declares it: `dependencies = ["gpt2demo>=1.2"]`.

An exception, or a result of another type, is reported with the plugin, the part and the hook. Raise the exceptions in
`gpt2demo.errors` for mistakes of the user: they keep their message and exit code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2demo.interfaces import Dataset, Exporter, OptimizerFactory, Sampler, Schedule, TabBuilder, Tokenizer

PROJECT = "gpt2demo"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def gpt2demo_tokenizers() -> dict[str, type[Tokenizer]]:
    """Return tokenizers by name: classes that implement `gpt2demo.interfaces.Tokenizer`."""


@hookspec
def gpt2demo_samplers() -> dict[str, type[Sampler]]:
    """Return samplers by name: subclasses of `gpt2demo.interfaces.Sampler`. Their fields become options and UI controls."""


@hookspec
def gpt2demo_datasets() -> dict[str, type[Dataset]]:
    """Return example datasets by name: subclasses of `gpt2demo.interfaces.Dataset`."""


@hookspec
def gpt2demo_exporters() -> dict[str, type[Exporter]]:
    """Return exporters by format name: classes that implement `gpt2demo.interfaces.Exporter`."""


@hookspec
def gpt2demo_optimizers() -> dict[str, OptimizerFactory]:
    """Return optimizers by name: functions `(model, TrainConfig) -> torch.optim.Optimizer`."""


@hookspec
def gpt2demo_schedules() -> dict[str, Schedule]:
    """Return learning rate schedules by name: functions `(step, total_steps, TrainConfig) -> factor of the peak rate`."""


@hookspec
def gpt2demo_training_event(run: Path, event: Any) -> None:
    """Receive every training event, immediately after it occurs.

    An exception raised by the hook is reported once and disables it; training continues.

    Args:
        run: the run folder.
        event: one of the frozen dataclasses in `gpt2demo.events`: `Started`, `Step`, `Evaluation`, `Sample`, `Saved` or `Ended`.
    """


@hookspec
def gpt2demo_tabs() -> dict[str, TabBuilder]:
    """Return additional tabs of the web page by title: functions without arguments, called inside a `gr.Tab` to fill it."""
