"""Every error that gpt2demo raises on purpose.

    Error                      a run-time failure: one line, exit code 1
    ├── UserError              the caller can mend it: exit code 2
    │   ├── SettingError       an option has a value it cannot have
    │   ├── DataError          a text or a data file cannot be used
    │   ├── TokenizerError     a text that a tokenizer cannot express, or a broken tokenizer file
    │   ├── RunError           a run, checkpoint or export that is not there, is in use or cannot be read
    │   └── PluginError        a plugin that is missing, broken, or claims a name that is taken
    ├── CheckpointError        saved files are damaged or could not be written
    ├── TrainingError          training cannot go on (a loss that is not finite, memory that ran out)
    └── ExportError            an exported model is not the model it was made from

A user's mistake is one of these; anything else that escapes is a bug of ours. The message is one line that names what is
wrong, its value, and what would work: the command line prints it as it is, the web page shows it in a toast.
"""

from __future__ import annotations


class Error(Exception):
    """Base of all: a failure at run time that is nobody's typing mistake."""

    exit_code = 1


class UserError(Error):
    """Something that the caller can mend."""

    exit_code = 2


class SettingError(UserError):
    """An option has a value it cannot have."""


class DataError(UserError):
    """A text or a data file cannot be used."""


class TokenizerError(UserError):
    """A text that the tokenizer cannot express, or a tokenizer file that cannot be read."""


class RunError(UserError):
    """A run, checkpoint or export that is not there, is in use or cannot be read."""


class PluginError(UserError):
    """A plugin is missing, broken, or claims a name that is taken."""


class CheckpointError(Error):
    """Saved files are damaged or could not be written."""


class TrainingError(Error):
    """Training cannot go on."""


class ExportError(Error):
    """An exported model is not the model it was made from."""
