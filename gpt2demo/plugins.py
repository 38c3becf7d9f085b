"""Finds plugins, guards them, lists them, and hands out what they give.

The built-in parts come through the same hooks: `BUILTINS` are plugins that happen to ship with the package. Every entry point
is imported alone and inside a guard, at the first time that somebody asks for a plugin's part; one that fails is remembered
with its cause, and everything else goes on. Nothing is imported for `--help` and `--version`.

Plugins are trusted code: they run with all the rights of the program.
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
GIVING_HOOKS = ("tokenizers", "samplers", "datasets", "exporters", "optimizers", "tabs")


@dataclass
class Plugin:
    """One entry point and what became of it.

    Attributes:
        distribution: the installed package, `gpt2demo` for built-in ones.
        version: its version.
        module: what the entry point names.
        hooks: hook name -> the names it gives there; empty for a hook that gives nothing.
        status: `loaded`, or `failed` when something of it could not be used.
        error: the cause in one line, or None.
    """

    distribution: str
    version: str
    module: str
    hooks: dict[str, list[str]] = field(default_factory=dict)
    status: Literal["loaded", "failed"] = "loaded"
    error: str | None = None

    def fail(self, cause: BaseException | str) -> None:
        """Remember the first cause, in one line."""
        text = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        self.status = "failed"
        self.error = self.error or " ".join(text.split())[:300]

    @property
    def title(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}"


class Registry:
    """All plugins of one process, and their parts by kind and name.

    Args:
        points: the entry points to load after the built-in modules.
    """

    def __init__(self, points: Iterable[EntryPoint] = ()) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self._parts: dict[str, dict[str, tuple[Plugin, Any]]] = {kind: {} for kind in GIVING_HOOKS}
        self._clashes: dict[tuple[str, str], str] = {}
        for module in BUILTINS:
            self._load(Plugin(PROJECT, version(PROJECT), module), partial(importlib.import_module, module))
        for point in sorted(points, key=lambda point: (_distribution(point)[0], point.name)):
            self._load(Plugin(*_distribution(point), point.value), point.load)

    def _load(self, plugin: Plugin, load: Callable[[], Any]) -> None:
        """Import, register and question one plugin; whatever goes wrong stays its own."""
        self.plugins.append(plugin)
        name = f"{plugin.title} ({plugin.module})"
        try:
            self._manager.register(load(), name)
            self._manager.check_pending()  # without it a misspelt hook is ignored without a word
            given = {kind: self._ask(name, kind) for kind in GIVING_HOOKS}
        except KeyboardInterrupt:
            raise
        except BaseException as cause:  # a plugin may even raise SystemExit while it is imported
            plugin.fail(cause)
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            return
        for hook in self._manager.get_hookcallers(self._manager.get_plugin(name)) or []:
            plugin.hooks[hook.name] = []
        for kind, parts in given.items():
            for part, value in parts.items():
                self._add(plugin, kind, part, value)

    def _ask(self, name: str, kind: str) -> dict[str, Any]:
        """Call one hook of one plugin.

        Raises:
            PluginError: the answer is not a dict of names.
        """
        hook = getattr(self._manager.hook, f"{PROJECT}_{kind}")
        parts: dict[str, Any] = {}
        for implementation in hook.get_hookimpls():
            if implementation.plugin_name == name:
                answer = implementation.function()
                if not isinstance(answer, dict) or not all(isinstance(key, str) and key for key in answer):
                    raise PluginError(f"{PROJECT}_{kind}() gave {type(answer).__name__}, not a dict with names")
                parts.update(answer)
        return parts

    def _add(self, plugin: Plugin, kind: str, name: str, value: Any) -> None:
        """Take a part, unless its name is taken: then a built-in stays, and of two plugins neither is used."""
        plugin.hooks[f"{PROJECT}_{kind}"].append(name)
        owner = self._parts[kind].get(name, (None,))[0]
        if owner is None and (kind, name) not in self._clashes:
            self._parts[kind][name] = (plugin, value)
        elif owner is not None and owner.distribution == PROJECT:
            plugin.fail(f"{kind} {name!r}: a built-in has this name and cannot be replaced")
        else:
            owners = self._clashes.get((kind, name)) or f"{owner.title if owner else ''}"
            self._clashes[kind, name] = f"{owners} and {plugin.title}"
            self._parts[kind].pop(name, None)
            plugin.fail(f"{kind} {name!r}: also given by {owners}")

    def parts(self, kind: str) -> dict[str, Any]:
        """Everything of one kind, name -> value, by name."""
        return {name: value for name, (_, value) in sorted(self._parts[kind].items())}

    def in_order(self, kind: str) -> dict[str, Any]:
        """Everything of one kind, name -> value: the built-in parts in their own order, then the plugins' by distribution."""
        return {name: value for name, (_, value) in self._parts[kind].items()}

    def part(self, kind: str, name: str) -> Any:
        """One part.

        Raises:
            PluginError: there is none of that name; says which there are, and which plugins failed.
        """
        if name in self._parts[kind]:
            return self._parts[kind][name][1]
        one = kind[:-1]
        if clash := self._clashes.get((kind, name)):
            raise PluginError(f"{one} {name!r}: {clash} both give it; uninstall one of them")
        failed = "; ".join(f"{plugin.title} failed: {plugin.error}" for plugin in self.plugins if plugin.error)
        hint = f" ({failed})" if failed else ""
        raise PluginError(f"{one} {name!r}: there is none; there are {', '.join(self.parts(kind))}{hint}")

    def owner(self, kind: str, name: str) -> Plugin:
        """Who gives a part that there is."""
        return self._parts[kind][name][0]

    def training_event(self, run: Path, event: Any) -> list[str]:
        """Tell every plugin of a training event.

        Returns:
            One line for each plugin that raised; it is not called again.
        """
        hook = self._manager.hook.gpt2demo_training_event
        complaints = []
        for implementation in hook.get_hookimpls():
            plugin = next(p for p in self.plugins if f"{p.title} ({p.module})" == implementation.plugin_name)
            if plugin.status == "failed":
                continue
            try:
                given = {"run": run, "event": event}
                implementation.function(*(given[name] for name in implementation.argnames))
            except Exception as cause:
                plugin.fail(cause)
                complaints.append(f"plugin {plugin.title} failed and is switched off: {plugin.error}")
        return complaints


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the package that an entry point comes from."""
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "0")


def installed() -> list[EntryPoint]:
    """The entry points of installed plugins, read without importing any; none under `--no-plugins`."""
    return [] if os.environ.get(NO_PLUGINS) else list(entry_points(group=PROJECT))


@cache
def registry() -> Registry:
    """This process's plugins, loaded at the first call."""
    return Registry(installed())


def tokenizers() -> dict[str, type[Tokenizer]]:
    """All tokenizers, name -> class."""
    return registry().parts("tokenizers")


def samplers() -> dict[str, type[Sampler]]:
    """All samplers, name -> class, in the order in which transformers runs them, then those of plugins."""
    return registry().in_order("samplers")


def datasets() -> dict[str, type[Dataset]]:
    """All example datasets, name -> class."""
    return registry().parts("datasets")


def exporters() -> dict[str, type[Exporter]]:
    """All exporters, format -> class."""
    return registry().parts("exporters")


def optimizers() -> dict[str, OptimizerFactory]:
    """All optimizers, name -> factory."""
    return registry().parts("optimizers")


def tabs() -> dict[str, TabBuilder]:
    """All further tabs of the web page, title -> builder."""
    return registry().parts("tabs")


def create_sampler(spec: str) -> Sampler:
    """A sampler from `NAME:key=value,key=value`.

    Raises:
        PluginError: there is no such sampler.
        SettingError: an option is unknown or out of range.
    """
    name, options = parse_spec(spec)
    cls: type[Sampler] = registry().part("samplers", name)
    return validate(cls, options, strings=True, what=f"sampler {name!r}: ")


def create_dataset(spec: str) -> Dataset:
    """An example dataset from `NAME:key=value,key=value`. Raises as `create_sampler` does."""
    name, options = parse_spec(spec)
    cls: type[Dataset] = registry().part("datasets", name)
    return validate(cls, options, strings=True, what=f"dataset {name!r}: ")


def tokenizer_options(name: str) -> type[BaseModel]:
    """The options of a tokenizer, read from the keyword-only parameters of its `train`: names, types, defaults."""
    cls = registry().part("tokenizers", name)
    hints = get_type_hints(cls.train, include_extras=True)  # with the ranges and help that `Annotated` carries
    parameters = [p for p in signature(cls.train).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    fields: dict[str, Any] = {p.name: (hints.get(p.name, str), p.default) for p in parameters}
    return create_model(f"{name} options", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)


def train_tokenizer(name: str, texts: Iterable[str], options: dict[str, str]) -> Tokenizer:
    """A tokenizer trained on texts, with options as text.

    Raises:
        PluginError: there is no such tokenizer.
        SettingError: an option is unknown or has a value it cannot have.
    """
    values = validate(tokenizer_options(name), options, strings=True, what=f"tokenizer {name!r}: ")
    trained: Tokenizer = registry().part("tokenizers", name).train(texts, **values.model_dump())
    return trained
