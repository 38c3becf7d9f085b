"""`run.py` in an export folder, and generation from an export without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2demo.engines.exported import check_export
from gpt2demo.generation.load import load


def test_run_py_imports_neither_torch_nor_gpt2demo(tiny_export: Path) -> None:
    program = f"""
import runpy, sys
sys.argv = ["run.py", "Once upon", "--seed", "1", "--temperature.value", "0.5"]
runpy.run_path({str(tiny_export / "run.py")!r}, run_name="__main__")
assert not {{"torch", "gpt2demo", "gradio", "transformers"}} & set(sys.modules)
"""
    done = [subprocess.run([sys.executable, "-c", program], capture_output=True, check=False) for _ in range(2)]
    assert done[0].returncode == 0, done[0].stderr.decode()
    assert done[0].stdout.startswith(b"Once upon")
    assert len(done[0].stdout) > 100  # past the context length of 48
    assert done[0].stdout == done[1].stdout


@pytest.mark.parametrize("words", [["--top-p", "0.9"], ["--seed", "x"], ["--top-p.p", "high"], ["one", "two"]])
def test_run_py_refuses_unknown_options_and_values(tiny_export: Path, words: list[str]) -> None:
    done = subprocess.run([sys.executable, str(tiny_export / "run.py"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("run.py: error: ")


def test_run_py_lists_its_options(tiny_export: Path) -> None:
    done = subprocess.run([sys.executable, str(tiny_export / "run.py"), "--help"], capture_output=True, text=True, check=True)
    assert "--top-p.p X" in done.stdout
    assert "default: 0.95" in done.stdout


def test_the_exported_chain_generates_the_same_text_without_torch(tiny_export: Path, tiny_checkpoint: Path) -> None:
    """With other values of the options than at the export."""
    assert check_export(tiny_export).samplers
    options = ["--prompt", "Once", "--seed", "1", "--top-p", "0.8", "--temperature", "0.9", "--json"]
    program = f"""
import sys
from gpt2demo.cli import main
sys.argv = ["gpt2demo", "--no-plugins", "generate", {str(tiny_export)!r}, *{options!r}]
try:
    main()
except SystemExit as exit:
    assert not exit.code
assert not {{"torch", "gradio", "transformers", "onnx"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = "".join(load(tiny_checkpoint, device="cpu").generate("Once", seed=1, temperature=0.9, top_p=0.8))
    assert json.loads(done.stdout)["text"] == expected
