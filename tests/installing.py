"""Install plugins into a folder, like pip does."""

from __future__ import annotations

from importlib.metadata import EntryPoint, distributions
from pathlib import Path

SAMPLER = """
from gpt2demo import hookimpl
from gpt2demo.interfaces import Sampler

class {cls}(Sampler):
    def __call__(self, logits, context):
        return logits

@hookimpl
def gpt2demo_samplers():
    return {{"{name}": {cls}}}
"""


def install(folder: Path, name: str, code: str, requires: str = "gpt2demo") -> Path:
    """Install a plugin into a folder: a module and the metadata of its distribution."""
    folder.mkdir(exist_ok=True)
    module = f"gpt2demo_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-1.5.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: gpt2demo-{name}\nVersion: 1.5\nRequires-Dist: {requires}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[gpt2demo]\n{name} = {module}\n", encoding="utf-8")
    return folder


def points(folder: Path) -> list[EntryPoint]:
    """Return the entry points of the plugins in a folder."""
    return [point for found in distributions(path=[str(folder)]) for point in found.entry_points if point.group == "gpt2demo"]
