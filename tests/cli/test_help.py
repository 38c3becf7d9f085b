"""`--help` is complete and fast: it imports neither torch nor any plugin."""

from __future__ import annotations

import subprocess
import sys

import pytest
from samples import Cli
from typer.main import get_command

from gpt2demo.cli import app

GROUP = get_command(app).commands  # type: ignore[attr-defined]
COMMANDS = GROUP | {f"bench {name}": command for name, command in GROUP["bench"].commands.items()}


def test_help_and_version_import_nothing_heavy_and_no_plugin() -> None:
    code = (
        "import sys\nfrom gpt2demo.cli.commands import app\n"
        "for words in (['--help'], ['--version'], ['generate', '--help'], ['train', '--help']):\n"
        "    app(words, standalone_mode=False)\n"
        "heavy = {'torch', 'gradio', 'onnxruntime', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        "plugins = {name for name in sys.modules if name.startswith('gpt2demo_')}\n"
        "assert not heavy | plugins, heavy | plugins"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "top-k" in done.stdout


def test_the_program_has_the_documented_commands() -> None:
    documented = "ui train resume chat generate eval inspect export import runs plugins data bench install uninstall"
    assert COMMANDS.keys() >= set(documented.split())


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_has_help(invoke: Cli, command: str) -> None:
    done = invoke(*command.split(), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: gpt2demo {command} ")
    assert COMMANDS[command].help
    assert [parameter.name for parameter in COMMANDS[command].params if not getattr(parameter, "help", None)] == []
