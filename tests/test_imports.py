"""Packages import only packages below them, are light to import, and export what they document."""

from __future__ import annotations

import ast
import itertools
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gpt2demo

PACKAGE = Path(gpt2demo.__file__).parent
ROOT = PACKAGE.parent
ORDER: list[str] = [
    "errors layers metrics progress",
    "config hookspecs interfaces memory storage",
    "model plugins terminal tokenization",
    "data runs",
    "engines sampling",
    "generation",
    "evaluation export training",
    "inspection",
    "api bench events testing ui",
    "cli",
    "__main__",
]
"""The packages and root modules, from the bottom up. Those on one line do not import each other."""
LEVEL = {name: number for number, line in enumerate(ORDER) for name in line.split()}
INITS = sorted(PACKAGE.rglob("__init__.py"))


def packages() -> dict[str, list[Path]]:
    """Return the files of each package and root module by name."""
    files: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "__init__.py":
            files.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return files


def imports(path: Path) -> set[str]:
    """Return the packages that a file imports at run time. Imports under TYPE_CHECKING are left out."""
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


def exported(path: Path) -> set[str]:
    """Return the names in the `__all__` of a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def run(code: str) -> str:
    """Run code in a new process and return its output."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


# ---------------------------------------------------------------------------------------------- structure


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


@pytest.mark.parametrize("init", INITS, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_every_package_has_a_docstring_and_exports_no_name_of_a_submodule(init: Path) -> None:
    assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
    submodules = {path.stem for path in init.parent.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert exported(init) & submodules == set(), "such a name is the module or the object, depending on the order of imports"


# ---------------------------------------------------------------------------------------------- importing


@pytest.mark.parametrize(
    "module",
    ["gpt2demo", "gpt2demo.cli.commands", "gpt2demo.config", "gpt2demo.events", "gpt2demo.plugins", "gpt2demo.training.jobs"],
)
def test_light_modules_import_neither_torch_nor_gradio(module: str) -> None:
    heavy = {"torch", "gradio", "transformers", "onnxruntime"}
    assert run(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_modules_and_plugin_lists_can_be_used_in_any_order(order: tuple[int, ...]) -> None:
    statements = [
        "import gpt2demo.tokenization.byte as b; b.ByteTokenizer()",
        "assert 'byte' in gpt2demo.tokenizers()",
        "assert 'top-k' in gpt2demo.samplers()",
    ]
    run("import gpt2demo\n" + "\n".join(statements[index] for index in order))


# ---------------------------------------------------------------------------------------------- public names and the wheel


def test_the_public_names_are_pinned() -> None:
    errors = {"CheckpointError", "DataError", "Error", "ExportError", "PluginError", "PluginFailure", "RunError", "SettingError"}
    errors |= {"TokenizerError", "TrainingError", "UserError"}
    configs = {"DataConfig", "GenerateConfig", "ModelConfig", "TrainConfig"}
    functions = {"train", "load", "evaluate", "list_runs", "tokenizers", "samplers"}
    assert set(gpt2demo.__all__) == functions | {"Run", "hookimpl"} | errors | configs
    assert all(getattr(gpt2demo, name) is not None for name in gpt2demo.__all__)
    assert run("import gpt2demo; print(gpt2demo.events.Step.__name__)") == "Step"
    assert not set(gpt2demo.__all__) & packages().keys(), "such a name is the package or the object, depending on the imports"


def test_the_type_marker_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [PACKAGE.name]
    marker = PACKAGE / "py.typed"
    assert marker.is_file()
    if shutil.which("git") and (ROOT / ".git").exists():  # hatchling leaves out what git ignores
        ignored = subprocess.run(["git", "check-ignore", "-q", str(marker)], cwd=ROOT, check=False)
        assert ignored.returncode == 1
