"""The built-in samplers, registered through the same hook as any plugin's, and the draw that follows them."""

from __future__ import annotations

from gpt2demo.hookspecs import hookimpl
from gpt2demo.interfaces import Sampler


@hookimpl
def gpt2demo_samplers() -> dict[str, type[Sampler]]:
    """The built-in samplers by name."""
    from gpt2demo.samplers.basic import Temperature, TopK, TopP

    return {"temperature": Temperature, "top-k": TopK, "top-p": TopP}
