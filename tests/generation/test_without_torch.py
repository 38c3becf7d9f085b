"""An export generates without torch, whose import would take longer than the rest of the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from gpt2demo.cli import app
app(sys.argv[1:], standalone_mode=False)
print(*sorted({"torch", "gradio", "transformers"} & set(sys.modules)), file=sys.stderr)
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own. Its stderr lists the large libraries that it has imported."""
    return subprocess.run([sys.executable, "-c", PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)


def test_greedy_text_of_an_export_is_the_same_and_needs_no_torch(tiny_checkpoint: Path, tiny_export: Path) -> None:
    options = ["--prompt", "The quick", "--max-new-tokens", 5, "--temperature", 0]
    exported = run("generate", tiny_export, *options)
    assert (exported.returncode, exported.stderr.strip()) == (0, "")
    assert exported.stdout == run("generate", tiny_checkpoint, "--engine", "torch", *options).stdout


def test_a_chain_that_is_not_in_the_graph_imports_torch(tiny_export: Path) -> None:
    """This shows that the test above can fail."""
    assert run("generate", tiny_export, "--max-new-tokens", 1, "--top-k", 3).stderr.strip() == "torch"
