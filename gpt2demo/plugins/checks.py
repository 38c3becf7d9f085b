"""Checks of a plugin while it is loaded: required version, hooks, names and kinds of its parts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint, version
from inspect import isfunction, signature
from types import ModuleType
from typing import Any

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gpt2demo import hookspecs
from gpt2demo.errors import PluginError
from gpt2demo.hookspecs import PROJECT
from gpt2demo.interfaces import Dataset, Sampler
from gpt2demo.plugins.guard import type_name

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_"))
METHODS = {"tokenizers": ("train", "encode", "decode", "save", "load"), "exporters": ("export",)}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def check_requirements(point: EntryPoint) -> None:
    """Check that a plugin's distribution supports this version of gpt2demo.

    Raises:
        PluginError: it requires another version.
    """
    own = version(PROJECT)
    for requirement in map(Requirement, (point.dist and point.dist.requires) or ()):
        applies = canonicalize_name(requirement.name) == PROJECT and (not requirement.marker or requirement.marker.evaluate())
        if applies and not requirement.specifier.contains(own, prereleases=True):
            raise PluginError(f"requires {PROJECT}{requirement.specifier}, this is {own}; install a version that fits")


def check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Check that a registered plugin implements only existing hooks, and marks those that it has.

    Raises:
        PluginError: a hook does not exist and is not marked as optional, or a function with a hook's name is not marked.
    """
    implemented = {caller.name: caller for caller in manager.get_hookcallers(plugin) or ()}
    for name, caller in implemented.items():
        optional = all(one.optionalhook for one in caller.get_hookimpls() if one.plugin is plugin)
        if not caller.has_spec() and not optional:
            raise PluginError(f"unknown hook {name!r}{_suggestion(name, HOOKS)}")
    for name in HOOKS:
        if isinstance(plugin, ModuleType) and name not in implemented and isfunction(vars(plugin).get(name)):
            raise PluginError(f"{name}() has no @hookimpl; add it, with `from {PROJECT} import hookimpl`")


def _suggestion(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean …" for the most similar name, or the list of names."""
    similar = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {similar[0]}?" if similar else f"; available: {', '.join(names)}"


def check_part(kind: str, name: str, value: Any) -> None:
    """Check the name and the kind of a part.

    Raises:
        PluginError: the name cannot be typed on the command line, or the value is not a part of this kind.
    """
    part = f"{kind[:-1]} {name!r}"
    if kind != "tabs" and not _NAME.fullmatch(name):
        raise PluginError(f"{part}: invalid name; use lower-case letters, digits, '.', '_' and '-', the first a letter or digit")
    if kind in ("tabs", "optimizers", "schedules"):
        if not callable(value):
            raise PluginError(f"{part}: is {type_name(value)}, not a function")
        return
    if not isinstance(value, type):
        raise PluginError(f"{part}: is {type_name(value)}, not a class")
    base = {"samplers": Sampler, "datasets": Dataset}.get(kind)
    if base and not issubclass(value, base):
        raise PluginError(f"{part}: {value.__name__} is not a subclass of gpt2demo.interfaces.{base.__name__}")
    for method in METHODS.get(kind, ()):
        if not callable(getattr(value, method, None)):
            raise PluginError(f"{part}: {value.__name__} has no method {method}()")
    _check_attributes(kind, part, value)


def _check_attributes(kind: str, part: str, value: Any) -> None:
    """Check the class attributes that lists and controls read."""
    if kind in ("datasets", "exporters") and not isinstance(getattr(value, "summary", None), str):
        raise PluginError(f"{part}: {value.__name__}.summary is not a str")
    if kind == "samplers" and not isinstance(value.traceable, bool):
        raise PluginError(f"{part}: {value.__name__}.traceable is not a bool")
    if kind == "exporters":
        dtypes = getattr(value, "dtypes", None)
        if not isinstance(dtypes, tuple | list) or not dtypes or not all(isinstance(dtype, str) for dtype in dtypes):
            raise PluginError(f"{part}: {value.__name__}.dtypes is not a tuple with at least one str")
        signature(value)
