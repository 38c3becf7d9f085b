"""The exceptions that gpt2demo raises.

    Error                      failure at run time; exit code 1
    ├── UserError              mistake that the caller can correct; exit code 2
    │   ├── SettingError       invalid value of a setting or option
    │   ├── DataError          unusable text or data file
    │   ├── TokenizerError     text that a tokenizer cannot encode, or invalid tokenizer file
    │   ├── RunError           missing, busy or unreadable run, checkpoint or export
    │   └── PluginError        missing or failed plugin, or conflicting names
    ├── CheckpointError        damaged saved files, or files that cannot be written
    ├── TrainingError          training cannot continue (loss not finite, out of memory)
    │   └── ProcessError       another process of the training has ended or does not answer
    ├── ExportError            exported model that differs from its source
    └── PluginFailure          a plugin raised another exception, or returned a value of the wrong type

Any other exception that escapes is a bug. The message is one line with what is wrong, the value, and what would work. The
command line prints it unchanged and the web page shows it as a toast.
"""

from __future__ import annotations


class Error(Exception):
    """Base class; raised directly for runtime failures that are not the user's."""

    exit_code = 1


class UserError(Error):
    """Base class of mistakes that the caller can correct."""

    exit_code = 2


class SettingError(UserError):
    """A setting or option has an invalid value."""


class DataError(UserError):
    """A text or data file cannot be used."""


class TokenizerError(UserError):
    """A tokenizer cannot encode a text, or a tokenizer file is invalid."""


class RunError(UserError):
    """A run, checkpoint or export is missing, in use or unreadable."""


class PluginError(UserError):
    """A plugin is missing, has failed, or uses a name that is taken."""


class CheckpointError(Error):
    """Saved files are damaged or cannot be written."""


class TrainingError(Error):
    """Training cannot continue."""


class ProcessError(TrainingError):
    """Another process of the training has ended or does not answer.

    Args:
        text: the message.
        exit_code: that of the other process, if it is known.
    """

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class ExportError(Error):
    """An exported model differs from its source."""


class PluginFailure(Error):  # noqa: N818  # a PluginError is a mistake that the user can correct
    """A plugin raised an exception that is not an `Error`, or returned a value that its hook does not allow."""


class Interrupted(KeyboardInterrupt):  # not an error, like KeyboardInterrupt
    """Ctrl-C ends the program. The class tells it apart from a KeyboardInterrupt of a plugin, which is a `PluginFailure`."""


class Terminated(SystemExit):  # not an error, like SystemExit
    """A signal ends the program. The class tells it apart from a plugin's call of `sys.exit`, which is a `PluginFailure`."""


def message(error: BaseException) -> str:
    """Return an exception's message in one line, even if its `__str__` raises."""
    try:
        return " ".join(str(error).split())
    except (Exception, SystemExit) as raised:
        return f"its message raises {type(raised).__name__}"


def summary(error: BaseException) -> str:
    """Return an exception's type and message in one line."""
    text = message(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
