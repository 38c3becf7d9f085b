"""Guard around calls into plugins: a failure names the plugin, the part and the hook."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import TYPE_CHECKING

from gpt2demo.errors import Error, Interrupted, PluginFailure, Terminated, message, summary
from gpt2demo.hookspecs import PROJECT
from gpt2demo.memory import ADVICE, out_of_memory

if TYPE_CHECKING:
    from gpt2demo.plugins.loading import Plugin


class WrongResultError(Exception):
    """A plugin returned a value that its contract does not allow. Raised and converted inside a guard."""


class Guard:
    """Context manager around calls of one method of a part.

    An exception raised inside is reported as a `PluginFailure` with distribution, version, part, hook, type and message; the
    original is its cause. An `Error` keeps its class, and the plugin is added to its message. A failure of a built-in part is
    left unchanged. A guard has no state and costs a tenth of a microsecond, so that it can be kept and used for every token.

    Args:
        kind: the part's kind, such as `samplers`.
        name: the part's name.
        call: the method, for the message.
    """

    __slots__ = ("_call", "_kind", "_name")

    def __init__(self, kind: str, name: str, call: str) -> None:
        self._kind = kind
        self._name = name
        self._call = call

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, cls: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Convert an exception."""
        if error is not None and not ends_program(error):
            self._convert(error)

    def _convert(self, error: BaseException) -> None:
        """Raise a PluginFailure for an exception, or return after adding the plugin to an `Error`."""
        plugin = _owner(self._kind, self._name)
        part = f"{self._kind[:-1]} {self._name!r}"
        if isinstance(error, Error):
            text = message(error)
            if plugin and part not in text and plugin.title not in text:
                error.args = (f"{text} ({part} of {plugin.title})",)
        elif isinstance(error, WrongResultError):
            raise PluginFailure(f"{_source(part, self._kind, plugin)}: {self._call}() {error}") from None
        elif plugin:
            advice = f": out of memory; {ADVICE}" if out_of_memory(error) else ""
            reason = f"{self._call}() raised {summary(error)}{advice}"
            raise PluginFailure(f"{_source(part, self._kind, plugin)}: {reason}") from error


def ends_program(error: BaseException) -> bool:
    """Return whether an exception is not a plugin's failure, but ends the program or a loop wherever it is raised.

    A KeyboardInterrupt is Ctrl-C only with Python's signal handler: the one of gpt2demo raises `Interrupted`.
    """
    if type(error) is KeyboardInterrupt:
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, Interrupted | GeneratorExit | Terminated)


def _owner(kind: str, name: str) -> Plugin | None:
    """Return the plugin that provides a part; None for a built-in part, and for one that is not registered."""
    from gpt2demo.plugins.loading import registry

    plugin = registry().find_owner(kind, name)
    return plugin if plugin and plugin.distribution != PROJECT else None


def _source(part: str, kind: str, plugin: Plugin | None) -> str:
    """Return a part with its plugin and hook."""
    return f"{part} ({plugin.title}, hook {PROJECT}_{kind})" if plugin else part


def check_result(valid: bool, value: object, promised: str) -> None:
    """Check a value that a plugin returned. Call it inside a guard.

    Args:
        valid: whether the value is as promised.
        value: the value.
        promised: description of a valid value.

    Raises:
        WrongResultError: the value is not valid.
    """
    if not valid:
        raise WrongResultError(f"returned {type_name(value)}, not {promised}")


def type_name(value: object) -> str:
    """Return a value's type for a message: `None`, `str`, `numpy.ndarray`."""
    cls = type(value)
    return "None" if value is None else cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"
