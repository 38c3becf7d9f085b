"""The built-in example datasets, registered through the same hook as any plugin's."""

from __future__ import annotations

from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Dataset


@hookimpl
def gpt2demo_datasets() -> dict[str, type[Dataset]]:
    """The built-in example datasets by name."""
    from gpt2demo.data.tales import Tales

    return {"tales": Tales}
