"""Generate parts of README.md and docs/ from the code.

The pages call these functions between cog marks; `cog -r -I tests README.md docs/*.md` renews them, and `test_docs.py` checks them.
Only built-in parts are listed, so that installed plugins change nothing.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from test_imports import imports, packages

import gpt2demo
from gpt2demo import config, errors, hookspecs
from gpt2demo.cli.options import ALIASES
from gpt2demo.config import limits
from gpt2demo.plugins import Registry, tokenizer_options

PACKAGE = Path(gpt2demo.__file__).parent
HELP = """
from typer.main import get_command
from gpt2demo.cli.commands import app

program = get_command(app)
context = program.make_context("gpt2demo", [], resilient_parsing=True, terminal_width=80)
print(context.get_help())


def show(commands, parent, prefix=""):
    for name, command in commands.items():
        inner = command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=80)
        print("\\f" + prefix + name + "\\n" + inner.get_help())
        show(getattr(command, "commands", {}), inner, prefix + name + " ")


show(program.commands, context)
"""


# ---------------------------------------------------------------------------------------------- the packages


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.splitlines()[0].rstrip(".").removeprefix("gpt2demo: ")


@cache
def dependencies() -> dict[str, set[str]]:
    """Return each package or module at the root with those that it imports."""
    files = packages()
    return {name: set().union(*map(imports, paths)) & (files.keys() - {name}) for name, paths in files.items()}


@cache
def level(name: str) -> int:
    """Return the length of the longest chain of imports below a package."""
    return 1 + max(map(level, dependencies()[name]), default=-1)


def is_package(name: str) -> bool:
    """Return whether a name at the root is a folder."""
    return (PACKAGE / name).is_dir()


def layers() -> str:
    """Draw the packages and modules at the root, each as low as its imports allow."""
    rows = []
    for number in range(max(map(level, dependencies())), -1, -1):
        names = sorted(name for name in dependencies() if level(name) == number)
        shown = sorted(f"{name}/" if is_package(name) else name for name in names)
        rows.append(f"{number}  {'  '.join(f'{name:<14}' for name in shown)}".rstrip())
    return fenced("\n".join(rows))


def dependency_table() -> str:
    """List the imports of each package."""
    chosen = sorted(filter(is_package, dependencies()), key=lambda name: (level(name), name))
    return table(
        ("package", "imports"),
        [(f"`{name}`", ", ".join(f"`{other}`" for other in sorted(dependencies()[name]))) for name in chosen],
    )


def package_map() -> str:
    """List the packages from the bottom up, each with the first line of its docstring."""
    chosen = sorted(filter(is_package, dependencies()), key=lambda name: (level(name), name))
    return table(
        ("package", "purpose"), [(f"[`{name}/`](gpt2demo/{name})", first_line(PACKAGE / name / "__init__.py")) for name in chosen]
    )


def tree() -> str:
    """List the files of the package, each with the first line of its docstring."""
    return fenced("\n".join(f"{name:<24} {phrase}".rstrip() for name, phrase in entries(PACKAGE)))


def entries(folder: Path, indent: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and purpose of each module, then of each package with its content."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.suffix == ".py" and (path.name != "__init__.py" or not indent):
            yield f"{indent}{path.name}", first_line(path)
        elif (path / "__init__.py").is_file():
            yield f"{indent}{path.name}/", first_line(path / "__init__.py")
            yield from entries(path, indent + "  ")


# ---------------------------------------------------------------------------------------------- the command line


def command_help() -> str:
    """Return the help text of the program and of every command, each under a heading."""
    environment = {**os.environ, "GPT2DEMO_NO_PLUGINS": "1", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True, env=environment)
    own, *commands = done.stdout.split("\f")
    parts = [f"### gpt2demo\n\n{help_block(own)}"]
    for command in commands:
        name, _, text = command.partition("\n")
        parts.append(f"### gpt2demo {name}\n\n{help_block(text)}")
    return "\n\n".join(parts)


def help_block(text: str) -> str:
    """Return a help text as a block of code without trailing spaces."""
    return fenced("\n".join(line.rstrip() for line in text.strip().splitlines()))


def original_settings() -> str:
    """List the original program's names of settings with their names here."""
    rows = [(f"`{old}`", f"`--{name.replace('_', '-')}`", f"`{name}`") for name, old in ALIASES.items()]
    return table(("original option", "option", "field of the settings"), rows)


# ---------------------------------------------------------------------------------------------- settings and parts


def presets() -> str:
    """List the presets with their shapes."""
    rows = []
    for name, preset in config.PRESETS.items():
        m = preset.model
        sizes = (f"{m.n_layer} × {m.n_embd}", m.n_head, m.n_positions, f"{m.n_parameters:,}")
        rows.append((f"`{name}`", preset.summary, *sizes, f"`{preset.tokenizer}`"))
    return table(("preset", "purpose", "layers × width", "heads", "context", "parameters", "tokenizer"), rows)


def samplers() -> str:
    """List the built-in samplers with their options."""
    found = built_in().in_order("samplers").items()
    return table(
        ("sampler", "effect", "options"), [(f"`{name}`", summary(cls), options(cls.model_fields)) for name, cls in found]
    )


def chains() -> str:
    """List the named sampler chains."""
    rows = [(f"`@{name}`", ", then ".join(f"`{spec}`" for spec in chain)) for name, chain in config.CHAINS.items()]
    return table(("chain", "samplers"), rows)


def tokenizers() -> str:
    """List the built-in tokenizers with their options."""
    found = built_in().in_order("tokenizers").items()
    rows = [(f"`{name}`", summary(cls), options(tokenizer_options(name).model_fields)) for name, cls in found]
    return table(("tokenizer", "ids", "options"), rows)


def datasets() -> str:
    """List the built-in datasets with their options."""
    found = built_in().in_order("datasets").items()
    return table(
        ("dataset", "content", "options"), [(f"`{name}`", cls.summary, options(cls.model_fields)) for name, cls in found]
    )


def exporters() -> str:
    """List the built-in export formats with their dtypes."""
    found = built_in().in_order("exporters").items()
    rows = [(f"`{name}`", cls.summary, ", ".join(f"`{dtype}`" for dtype in cls.dtypes)) for name, cls in found]
    return table(("format", "content", "`--dtype`, the first is the default"), rows)


def hooks() -> str:
    """List every hook with the first paragraph of its docstring."""
    rows = []
    for name, hook in vars(hookspecs).items():
        if name.startswith("gpt2demo_"):
            arguments = ", ".join(inspect.signature(hook).parameters)
            contract = (inspect.getdoc(hook) or "").split("\n\n")[0].replace("\n", " ")
            rows.append((f"`{name}({arguments})`", contract))
    return table(("hook", "contract"), rows)


def error_tree() -> str:
    """Draw the error classes, each with its docstring."""

    def lines(cls: type, indent: str = "") -> Iterator[str]:
        yield f"{indent + cls.__name__:<24} {summary(cls)}"
        for child in cls.__subclasses__():
            if child.__module__ == errors.__name__:
                yield from lines(child, indent + "  ")

    return fenced("\n".join(lines(errors.Error)))


@cache
def built_in() -> Registry:
    """Return the built-in parts alone."""
    return Registry()


def summary(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def options(fields: dict[str, Any]) -> str:
    """Return fields with default and range, such as `k=40`, 1 to 1,000,000."""
    return "; ".join(f"`{name}={field.default}`{numbers(field)}" for name, field in fields.items())


def numbers(field: Any) -> str:
    """Return the range of a field in words, or nothing."""
    bounds = limits(field)
    bounds = {key: int(value) if value == int(value) else value for key, value in bounds.items()}
    low = f"above {bounds['gt']:,}" if "gt" in bounds else f"{bounds['ge']:,}" if "ge" in bounds else ""
    high = f" to {bounds['le']:,}" if "le" in bounds else f" to below {bounds['lt']:,}" if "lt" in bounds else ""
    return f", {low}{high}" if high else f", at least {low}" if low else ""


# ---------------------------------------------------------------------------------------------- Markdown


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def fenced(text: str) -> str:
    """Return a text as a block of code."""
    return f"```text\n{text}\n```"
