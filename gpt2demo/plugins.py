"""The plugin registry: load, validate and list plugins, and return the parts that they provide.

Built-in parts are registered through the same hooks: `BUILTINS` are plugins that ship with the package. Every entry point is
imported when a part is first requested, and in isolation: if one fails, the cause is recorded and the others still load.
`--help` and `--version` import no plugin.

Plugins are trusted code: they run with all permissions of the program.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points, version
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import pluggy
from pydantic import BaseModel, ConfigDict, create_model

from gpt2demo import hookspecs
from gpt2demo.config import parse_spec, validate
from gpt2demo.errors import PluginError
from gpt2demo.hookspecs import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2demo.interfaces import Dataset, Exporter, OptimizerFactory, Sampler, TabBuilder, Tokenizer

BUILTINS = (
    "gpt2demo.tokenization",
    "gpt2demo.sampling",
    "gpt2demo.data",
    "gpt2demo.training.optimizers",
    "gpt2demo.export",
)
NO_PLUGINS = "GPT2DEMO_NO_PLUGINS"
KINDS = ("tokenizers", "samplers", "datasets", "exporters", "optimizers", "tabs")


@dataclass
class Plugin:
    """One entry point and its status.

    Attributes:
        distribution: name of the installed distribution; `gpt2demo` for built-in plugins.
        version: version of the distribution.
        module: the entry point's module.
        hooks: hook name -> names of the parts it provides; empty for a hook that returns nothing.
        status: `loaded`, or `failed` if any part could not be used.
        error: the cause of the failure in one line, or None.
    """

    distribution: str
    version: str
    module: str
    hooks: dict[str, list[str]] = field(default_factory=dict)
    status: Literal["loaded", "failed"] = "loaded"
    error: str | None = None

    def fail(self, cause: BaseException | str) -> None:
        """Mark the plugin as failed and record the first cause, in one line."""
        text = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        self.status = "failed"
        self.error = self.error or " ".join(text.split())[:300]

    @property
    def title(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.distribution} {self.version}"


class Registry:
    """The plugins of a process, and their parts by kind and name.

    Args:
        points: entry points to load after the built-in modules.
    """

    def __init__(self, points: Iterable[EntryPoint] = ()) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self._parts: dict[str, dict[str, tuple[Plugin, Any]]] = {kind: {} for kind in KINDS}
        self._conflicts: dict[tuple[str, str], str] = {}
        for module in BUILTINS:
            self._load(Plugin(PROJECT, version(PROJECT), module), partial(importlib.import_module, module))
        for point in sorted(points, key=lambda point: (_distribution(point)[0], point.name)):
            self._load(Plugin(*_distribution(point), point.value), point.load)

    def _load(self, plugin: Plugin, load: Callable[[], Any]) -> None:
        """Import and register one plugin, and add its parts. Any failure is recorded in the plugin."""
        self.plugins.append(plugin)
        name = f"{plugin.title} ({plugin.module})"
        try:
            self._manager.register(load(), name)
            self._manager.check_pending()  # otherwise a misspelled hook would be ignored silently
            provided = {kind: self._call_hook(name, kind) for kind in KINDS}
        except KeyboardInterrupt:
            raise
        except BaseException as cause:  # importing a plugin may even raise SystemExit
            plugin.fail(cause)
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            return
        for hook in self._manager.get_hookcallers(self._manager.get_plugin(name)) or []:
            plugin.hooks[hook.name] = []
        for kind, parts in provided.items():
            for part, value in parts.items():
                self._add(plugin, kind, part, value)

    def _call_hook(self, name: str, kind: str) -> dict[str, Any]:
        """Call a plugin's hook and return the parts by name.

        Raises:
            PluginError: the result is not a dict with names as keys.
        """
        hook = getattr(self._manager.hook, f"{PROJECT}_{kind}")
        parts: dict[str, Any] = {}
        for implementation in hook.get_hookimpls():
            if implementation.plugin_name == name:
                result = implementation.function()
                if not isinstance(result, dict) or not all(isinstance(key, str) and key for key in result):
                    raise PluginError(f"{PROJECT}_{kind}() returned {type(result).__name__}, not a dict with names as keys")
                parts.update(result)
        return parts

    def _add(self, plugin: Plugin, kind: str, name: str, value: Any) -> None:
        """Add a part. If its name is taken, a built-in part is kept, and of two plugins' parts neither is used."""
        plugin.hooks[f"{PROJECT}_{kind}"].append(name)
        owner = self._parts[kind].get(name, (None,))[0]
        if owner is None and (kind, name) not in self._conflicts:
            self._parts[kind][name] = (plugin, value)
        elif owner is not None and owner.distribution == PROJECT:
            plugin.fail(f"{kind} {name!r}: the name of a built-in part; choose another name")
        else:
            owners = self._conflicts.get((kind, name)) or (owner.title if owner else "")
            self._conflicts[kind, name] = f"{owners} and {plugin.title}"
            self._parts[kind].pop(name, None)
            plugin.fail(f"{kind} {name!r}: also provided by {owners}")

    def parts(self, kind: str) -> dict[str, Any]:
        """Return the parts of a kind, name -> value, sorted by name."""
        return {name: value for name, (_, value) in sorted(self._parts[kind].items())}

    def in_order(self, kind: str) -> dict[str, Any]:
        """Return the parts of a kind, name -> value: built-in parts in their registered order, then plugins by distribution."""
        return {name: value for name, (_, value) in self._parts[kind].items()}

    def part(self, kind: str, name: str) -> Any:
        """Return a part by kind and name.

        Raises:
            PluginError: the name is unknown; the message lists the available names and the failed plugins.
        """
        if name in self._parts[kind]:
            return self._parts[kind][name][1]
        one = kind[:-1]
        if conflict := self._conflicts.get((kind, name)):
            raise PluginError(f"{one} {name!r}: provided by both {conflict}; uninstall one of them")
        failed = "; ".join(f"{plugin.title} failed: {plugin.error}" for plugin in self.plugins if plugin.error)
        hint = f" ({failed})" if failed else ""
        raise PluginError(f"unknown {one} {name!r}; available: {', '.join(self.parts(kind))}{hint}")

    def owner(self, kind: str, name: str) -> Plugin:
        """Return the plugin that provides an existing part."""
        return self._parts[kind][name][0]

    def training_event(self, run: Path, event: Any) -> list[str]:
        """Pass a training event to every plugin that implements the hook.

        Returns:
            One line for each plugin that raised. A plugin that raised is not called again.
        """
        hook = self._manager.hook.gpt2demo_training_event
        failures = []
        for implementation in hook.get_hookimpls():
            plugin = next(p for p in self.plugins if f"{p.title} ({p.module})" == implementation.plugin_name)
            if plugin.status == "failed":
                continue
            try:
                arguments = {"run": run, "event": event}
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except Exception as cause:
                plugin.fail(cause)
                failures.append(f"plugin {plugin.title} failed and is disabled: {plugin.error}")
        return failures


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Return name and version of an entry point's distribution."""
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "0")


def installed() -> list[EntryPoint]:
    """Return the entry points of installed plugins without importing them; none with `--no-plugins`."""
    return [] if os.environ.get(NO_PLUGINS) else list(entry_points(group=PROJECT))


@cache
def registry() -> Registry:
    """Return the plugins of this process, loaded on the first call."""
    return Registry(installed())


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


def tabs() -> dict[str, TabBuilder]:
    """Return the additional tabs of the web page, title -> builder."""
    return registry().parts("tabs")


def create_sampler(spec: str) -> Sampler:
    """Return a sampler for `NAME:key=value,key=value`.

    Raises:
        PluginError: the name is unknown.
        SettingError: an option is unknown or has an invalid value.
    """
    name, options = parse_spec(spec)
    cls: type[Sampler] = registry().part("samplers", name)
    return validate(cls, options, strings=True, what=f"sampler {name!r}: ")


def create_dataset(spec: str) -> Dataset:
    """Return an example dataset for `NAME:key=value,key=value`. Raises the same errors as `create_sampler`."""
    name, options = parse_spec(spec)
    cls: type[Dataset] = registry().part("datasets", name)
    return validate(cls, options, strings=True, what=f"dataset {name!r}: ")


def tokenizer_options(name: str) -> type[BaseModel]:
    """Return a tokenizer's options as a pydantic class made from the keyword-only parameters of `train`."""
    cls = registry().part("tokenizers", name)
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
    values = validate(tokenizer_options(name), options, strings=True, what=f"tokenizer {name!r}: ")
    trained: Tokenizer = registry().part("tokenizers", name).train(texts, **values.model_dump())
    return trained
