"""The README tells the truth: its generated parts are fresh, its Python runs, its commands parse."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from samples import SMALL

import gpt2demo
from gpt2demo.cli.commands import app
from gpt2demo.config import PRESETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_generated_parts_are_fresh() -> None:
    command = [sys.executable, "-m", "cogapp", "--check", "-I", str(ROOT / "tests"), "README.md"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, f"run `cog -r -I tests README.md`\n{done.stdout}{done.stderr}"


def test_the_python_example_runs(tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = [block for block in blocks("python") if "gpt2demo.train" in block]
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text(text_file.read_text(encoding="utf-8"), encoding="utf-8")
    nano = PRESETS["nano"]
    quick = nano.model_copy(update={"model": nano.model.with_changes(n_layer=1, n_embd=16, n_head=2)})
    quick = quick.model_copy(update={"train": quick.train.with_changes(steps=SMALL["steps"], eval_batches=1)})
    monkeypatch.setitem(PRESETS, "nano", quick)
    with redirect_stdout(io.StringIO()) as output:
        exec(compile(example, "README.md", "exec"), {})  # the reader's own typing, as it stands there
    assert "Ended(status='finished'" in output.getvalue()
    assert "top-p" in output.getvalue()


def test_the_plugin_example_is_a_sampler() -> None:
    import torch

    from gpt2demo.interfaces import SamplingContext

    (example,) = [block for block in blocks("python") if "hookimpl" in block]
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example, "README.md", "exec"), names)
    (sampler,) = names["gpt2demo_samplers"]().values()  # type: ignore[operator]
    logits = torch.tensor([[5.0, 4.0, 0.0]])
    kept = sampler(threshold=0.1)(logits, SamplingContext(torch.zeros(1, 1, dtype=torch.int64), 1)).isfinite()
    assert kept.tolist() == [[True, True, False]]


def test_the_shell_examples_name_commands_and_options_that_exist() -> None:
    from typer.main import get_command

    program = get_command(app)
    lines = [part for block in blocks("sh") for line in block.splitlines() for part in line.split("#")[0].split(";")]
    used = [shlex.split(line) for line in lines if line.strip().startswith("gpt2demo")]
    assert len(used) > 8
    for _, command, *words in used:
        known = {name for parameter in program.commands[command].params for name in parameter.opts}  # type: ignore[attr-defined]
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, command


def test_the_installation_commands_are_those_of_ci() -> None:
    install, test = blocks("sh")[:2]
    assert "-m gpt2demo" in install
    assert test.strip().endswith("pytest")
    assert ".ci/run" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'version = "{gpt2demo.__version__}"' in pyproject
    assert f"## {gpt2demo.__version__}" in changelog


@pytest.mark.parametrize(
    "path", ["LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/screenshot.png", "constraints.txt", "exports/README.md"]
)
def test_what_the_readme_names_is_there(path: str) -> None:
    assert (ROOT / path).stat().st_size > 100
