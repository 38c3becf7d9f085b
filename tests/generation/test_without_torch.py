"""An exported model writes without torch: the import alone would take longer than all the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from samples import SMALL

import gpt2demo
from gpt2demo.export.export import export_model

PROGRAM = """
import sys
from gpt2demo.cli import app
app(sys.argv[1:], standalone_mode=False)
print(*sorted({"torch", "gradio", "transformers"} & set(sys.modules)), file=sys.stderr)
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command; stdout is its own, stderr tells which heavy libraries it imported."""
    return subprocess.run([sys.executable, "-c", PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture
def exported(text_file: Path) -> Path:
    list(gpt2demo.train(text_file, run="small", **{**SMALL, "steps": 2, "sample_tokens": 0}))
    return export_model("small", report=lambda line: None)


def test_greedy_text_of_an_export_needs_no_torch_and_is_the_same(exported: Path) -> None:
    words = ["--prompt", "The quick", "--max-new-tokens", 5, "--temperature", 0]
    done = run("generate", exported, *words)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert done.stdout == run("generate", "small", "--engine", "torch", *words).stdout


def test_samplers_are_torch_code_and_bring_it_along(exported: Path) -> None:
    """The test above can fail: the same program, with a chain that runs, imports torch."""
    assert run("generate", exported, "--max-new-tokens", 1, "--top-k", 3).stderr.strip() == "torch"
