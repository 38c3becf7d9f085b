"""Imports point strictly downward in the house, and never in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2demo

PACKAGE = Path(gpt2demo.__file__).parent
LEVELS: list[set[str]] = [
    {"errors", "interfaces", "hookspecs"},
    {"config", "storage", "hardware", "documents", "progress", "streaming"},
    {"tokenizers", "samplers", "datasets", "optimizers", "sources"},
    {"plugins", "model", "run", "schedule", "drawing"},
    {"chains", "checkpoint", "data", "events", "explaining"},
    {"weights", "batch"},
    {"engines", "importing", "corpus"},
    {"prepare"},
    {"generate"},
    {"evaluate"},
    {"trainer", "export", "testing"},
    {"bench", "jobs", "options", "terminal", "verification"},
    {"failures", "printing", "ui"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}


def rooms() -> dict[str, list[Path]]:
    """Room -> its files: a module of the package, or a folder with all that is in it."""
    files: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "__init__.py":
            files.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return files


def imports(path: Path) -> set[str]:
    """The rooms that a file imports when it runs; what stands under TYPE_CHECKING is only read by type checkers."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gpt2demo":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gpt2demo.")}
        pending += ast.iter_child_nodes(node)
    return found


def test_every_room_has_its_level() -> None:
    assert set(rooms()) == set(LEVEL)


@pytest.mark.parametrize("room", sorted(rooms()))
def test_imports_point_downward(room: str) -> None:
    for path in rooms()[room]:
        for target in imports(path) & set(LEVEL) - {room}:
            assert LEVEL[target] < LEVEL[room] or (LEVEL[target] == LEVEL[room] == 0), (
                f"{path.name} imports {target}, which is not below"
            )


def test_no_room_is_larger_than_a_head_can_hold() -> None:
    sizes = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")
    }
    assert {name: size for name, size in sizes.items() if size > 400} == {}


@pytest.mark.parametrize("module", ["gpt2demo", "gpt2demo.cli", "gpt2demo.config", "gpt2demo.plugins", "gpt2demo.jobs"])
def test_light_rooms_import_neither_torch_nor_gradio(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'gradio', 'transformers', 'onnxruntime'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_pinned() -> None:
    errors = {"CheckpointError", "DataError", "Error", "ExportError", "PluginError", "RunError", "SettingError"}
    errors |= {"TokenizerError", "TrainingError", "UserError"}
    configs = {"DataConfig", "GenerateConfig", "ModelConfig", "TrainConfig"}
    assert set(gpt2demo.__all__) == {"train", "load", "tokenizers", "samplers", "hookimpl"} | errors | configs
    assert all(getattr(gpt2demo, name) is not None for name in gpt2demo.__all__)
