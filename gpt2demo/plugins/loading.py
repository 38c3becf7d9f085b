"""The registry: load, check and list plugins, and find the parts that they provide.

Built-in parts are registered through the same hooks: `BUILTINS` are plugins that ship with the package. Every entry point is
imported when a part is first requested, and in isolation: if one fails, the cause is recorded and the others still load.
`--help` and `--version` import no plugin.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points, version
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from gpt2demo import hookspecs
from gpt2demo.errors import PluginError, message, summary
from gpt2demo.hookspecs import PROJECT
from gpt2demo.plugins.checks import check_hooks, check_part, check_requirements
from gpt2demo.plugins.guard import ends_program

if TYPE_CHECKING:
    from pathlib import Path

BUILTINS = (
    "gpt2demo.tokenization",
    "gpt2demo.sampling",
    "gpt2demo.data",
    "gpt2demo.training.optimizers",
    "gpt2demo.training.schedule",
    "gpt2demo.export",
)
NO_PLUGINS = "GPT2DEMO_NO_PLUGINS"
SLOW_SECONDS = 1.0
KINDS = ("tokenizers", "samplers", "datasets", "exporters", "optimizers", "schedules", "tabs")


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
        seconds: the time to import it if that is longer than `SLOW_SECONDS`, or None.
    """

    distribution: str
    version: str
    module: str
    hooks: dict[str, list[str]] = field(default_factory=dict)
    status: Literal["loaded", "failed"] = "loaded"
    error: str | None = None
    seconds: float | None = None

    def fail(self, cause: BaseException | str) -> None:
        """Mark the plugin as failed and record the first cause, in one line."""
        text = cause if isinstance(cause, str) else message(cause) if isinstance(cause, PluginError) else summary(cause)
        self.status = "failed"
        self.error = self.error or text[:300]

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
        self._claims: dict[str, dict[str, list[Plugin]]] = {kind: {} for kind in KINDS}
        self._refused: dict[tuple[str, str], str] = {}
        self._silenced: set[str] = set()
        for module in BUILTINS:
            self._load(Plugin(PROJECT, version(PROJECT), module), partial(importlib.import_module, module))
        for point in sorted(points, key=lambda point: (_distribution(point)[0], point.name)):
            self._load(Plugin(*_distribution(point), point.value), partial(_import, point))

    def _load(self, plugin: Plugin, load: Callable[[], Any]) -> None:
        """Import and register one plugin, and add its parts. Any failure is recorded in the plugin."""
        self.plugins.append(plugin)
        name = f"{plugin.title} ({plugin.module})"
        start = time.perf_counter()
        try:
            self._manager.register(load(), name)
            check_hooks(self._manager, self._manager.get_plugin(name))
            provided = {kind: self._call_hook(name, kind) for kind in KINDS}
        except BaseException as cause:  # importing a plugin may even raise SystemExit
            if ends_program(cause):
                raise
            plugin.fail(cause)
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            return
        finally:
            seconds = time.perf_counter() - start
            plugin.seconds = round(seconds, 1) if seconds > SLOW_SECONDS else None
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
                if type(result) is not dict or not all(type(key) is str and key for key in result):
                    raise PluginError(f"{PROJECT}_{kind}() returned {type(result).__name__}, not a dict with names as keys")
                parts.update(result)
        return parts

    def _add(self, plugin: Plugin, kind: str, name: str, value: Any) -> None:
        """Add a part if it is valid. If its name is taken, a built-in part is kept, and of two plugins' parts neither is used."""
        plugin.hooks[f"{PROJECT}_{kind}"].append(name)
        try:
            check_part(kind, name, value)
        except BaseException as cause:  # a metaclass may raise anything
            if ends_program(cause):
                raise
            plugin.fail(cause)
            self._refused.setdefault((kind, name), f"{plugin.title} failed: {plugin.error}")
            return
        claims = self._claims[kind].setdefault(name, [])
        claims.append(plugin)
        if len(claims) == 1:
            self._parts[kind][name] = (plugin, value)
        elif claims[0].distribution == PROJECT:
            plugin.fail(f"{kind} {name!r}: the name of a built-in part; choose another name")
        else:
            self._refuse_all(kind, name, claims)

    def _refuse_all(self, kind: str, name: str, claims: list[Plugin]) -> None:
        """Remove a part that several plugins provide, and mark them all as failed."""
        self._parts[kind].pop(name, None)
        self._refused[kind, name] = f"provided by both {' and '.join(one.title for one in claims)}; uninstall one of them"
        for plugin in claims:
            others = " and ".join(one.title for one in claims if one is not plugin)
            plugin.fail(f"{kind} {name!r}: also provided by {others}")

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
        if refused := self._refused.get((kind, name)):
            raise PluginError(f"{one} {name!r}: {refused}")
        failed = [plugin for plugin in self.plugins if plugin.error]
        failed.sort(key=lambda plugin: not _provides(plugin, name))
        hint = "; ".join(f"{plugin.title} failed: {plugin.error}" for plugin in failed)
        if failed and _provides(failed[0], name):
            raise PluginError(f"unknown {one} {name!r}: {hint}; available: {', '.join(self.parts(kind))}")
        raise PluginError(f"unknown {one} {name!r}; available: {', '.join(self.parts(kind))}{f' ({hint})' if hint else ''}")

    def owner(self, kind: str, name: str) -> Plugin:
        """Return the plugin that provides a part. Raises a PluginError as `part` does."""
        self.part(kind, name)
        return self._parts[kind][name][0]

    def find_owner(self, kind: str, name: str) -> Plugin | None:
        """Return the plugin that provides a part, or None if the part is not registered."""
        return self._parts[kind].get(name, (None,))[0]

    def training_event(self, run: Path, event: Any) -> list[str]:
        """Pass a training event to every plugin that implements the hook.

        Returns:
            One line for each plugin that raised. A plugin that raised is not called again.
        """
        hook = self._manager.hook.gpt2demo_training_event
        failures = []
        for implementation in hook.get_hookimpls():
            if implementation.plugin_name in self._silenced:
                continue
            try:
                arguments = {"run": run, "event": event}
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except BaseException as cause:  # a hook may call sys.exit
                if ends_program(cause):
                    raise
                self._silenced.add(implementation.plugin_name)
                plugin = next(p for p in self.plugins if f"{p.title} ({p.module})" == implementation.plugin_name)
                plugin.fail(cause)
                failures.append(
                    f"plugin {plugin.title} failed and is disabled: gpt2demo_training_event() raised {summary(cause)}"
                )
        return failures


def _import(point: EntryPoint) -> Any:
    """Check a plugin's requirements and import it."""
    check_requirements(point)
    return point.load()


def _provides(plugin: Plugin, name: str) -> bool:
    """Return whether a plugin probably provides a name, according to the name of its distribution or module."""
    wanted = name.lower().replace("_", "-")
    return len(wanted) > 1 and any(wanted in title.lower().replace("_", "-") for title in (plugin.distribution, plugin.module))


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
