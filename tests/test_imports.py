"""Imports point strictly downward from package to package, and never in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2demo

PACKAGE = Path(gpt2demo.__file__).parent
ORDER: list[str] = [
    "errors layers metrics progress",
    "config hookspecs interfaces storage",
    "model plugins terminal tokenization",
    "data runs",
    "engines sampling",
    "generation",
    "evaluation export testing training",
    "bench events ui",
    "cli",
    "__main__",
]
"""The packages and the modules at the root, from the bottom up. Those of one line do not import each other."""
LEVEL = {name: number for number, line in enumerate(ORDER) for name in line.split()}


def packages() -> dict[str, list[Path]]:
    """Name of a package, or of a module at the root -> its files."""
    files: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "__init__.py":
            files.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return files


def imports(path: Path) -> set[str]:
    """The packages that a file imports when it runs; what is under TYPE_CHECKING is only read by type checkers."""
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


def test_every_package_is_in_the_order() -> None:
    assert set(packages()) == set(LEVEL)


@pytest.mark.parametrize("package", sorted(packages()))
def test_imports_point_downward(package: str) -> None:
    for path in packages()[package]:
        for target in imports(path) & set(LEVEL) - {package}:
            assert LEVEL[target] < LEVEL[package], f"{path.name} imports {target}, which is not below"


def test_no_module_has_more_than_500_lines() -> None:
    sizes = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")
    }
    assert {name: size for name, size in sizes.items() if size > 500} == {}


@pytest.mark.parametrize(
    "module", ["gpt2demo", "gpt2demo.cli.commands", "gpt2demo.config", "gpt2demo.plugins", "gpt2demo.training.jobs"]
)
def test_light_packages_import_neither_torch_nor_gradio(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'gradio', 'transformers', 'onnxruntime'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_pinned() -> None:
    errors = {"CheckpointError", "DataError", "Error", "ExportError", "PluginError", "RunError", "SettingError"}
    errors |= {"TokenizerError", "TrainingError", "UserError"}
    configs = {"DataConfig", "GenerateConfig", "ModelConfig", "TrainConfig"}
    assert set(gpt2demo.__all__) == {"train", "load", "tokenizers", "samplers", "hookimpl"} | errors | configs
    assert all(getattr(gpt2demo, name) is not None for name in gpt2demo.__all__)
