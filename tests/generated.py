"""The parts of README.md that are generated from the code; `cog -r README.md` renews them, a test holds them.

Not a test: README.md calls these functions between its cog marks.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import gpt2demo
from gpt2demo import hookspecs
from gpt2demo.cli.options import ALIASES
from gpt2demo.config import PRESETS

PACKAGE = Path(gpt2demo.__file__).parent
COMMANDS = ("", "train", "resume", "chat", "generate", "eval", "data", "export")


def first_line(path: Path) -> str:
    """What a file says of itself."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.splitlines()[0].rstrip(".").removeprefix("gpt2demo: ")


def tree() -> str:
    """The package's files, each with the first line of its docstring; a folder speaks through its `__init__.py`."""
    rows = []
    for path in sorted(PACKAGE.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.suffix == ".py":
            rows.append((path.name, first_line(path)))
        elif (path / "__init__.py").is_file():
            rows.append((f"{path.name}/", first_line(path / "__init__.py")))
            inner = sorted(file for file in path.glob("*.py") if file.name != "__init__.py")
            rows += [(f"  {file.name}", first_line(file)) for file in inner]
    return fenced("\n".join(f"{name:<20}{phrase}" for name, phrase in rows))


def help_texts() -> str:
    """What `--help` says, of the program and of its main commands; of built-in parts alone."""
    environment = {**os.environ, "COLUMNS": "110", "GPT2DEMO_NO_PLUGINS": "1", "NO_COLOR": "1", "TERM": "dumb"}
    parts = []
    for command in COMMANDS:
        words = [sys.executable, "-m", "gpt2demo", *filter(None, [command]), "--help"]
        text = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
        title = f"gpt2demo {command}".strip()
        body = "\n".join(line.rstrip() for line in text.replace("python -m gpt2demo", "gpt2demo").strip().splitlines())
        parts.append(f"<details><summary><code>{title} --help</code></summary>\n\n{fenced(body)}\n</details>\n")
    return "\n".join(parts)


def hooks() -> str:
    """Every hook with its contract."""
    rows = ["| hook | contract |", "|---|---|"]
    for name, hook in vars(hookspecs).items():
        if name.startswith("gpt2demo_"):
            arguments = ", ".join(inspect.signature(hook).parameters)
            contract = (inspect.getdoc(hook) or "").split("\n\n")[0].replace("\n", " ")
            rows.append(f"| `{name}({arguments})` | {contract} |")
    return "\n".join(rows)


def presets() -> str:
    """The presets and their shapes."""
    rows = ["| preset | what for | layers × width | heads | context | parameters | tokenizer |", "|---|---|---|---|---|---|---|"]
    for name, preset in PRESETS.items():
        m = preset.model
        shape = f"{m.n_layer} × {m.n_embd} | {m.n_head} | {m.n_positions} | {m.n_parameters:,}"
        rows.append(f"| `{name}` | {preset.summary} | {shape} | `{preset.tokenizer}` |")
    return "\n".join(rows)


def original_settings() -> str:
    """The original program's names of settings, and ours."""
    rows = ["| original | here |", "|---|---|"]
    rows += [f"| `{old}` | `--{ours.replace('_', '-')}` |" for ours, old in ALIASES.items()]
    return "\n".join(rows)


def fenced(text: str) -> str:
    """A text as a block of code."""
    return f"```text\n{text}\n```"
