"""The commands `install` and `uninstall` pass packages and options on to pip."""

from __future__ import annotations

import subprocess
import sys

import pytest
from samples import Cli


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["install", "gpt2demo-x"], ["install", "gpt2demo-x"]),
        (["install", "-e", "./mine"], ["install", "-e", "./mine"]),
        (
            ["install", "-U", "--index-url", "file:///x", "one", "two"],
            ["install", "-U", "--index-url", "file:///x", "one", "two"],
        ),
        (["install", "--no-deps", "-r", "list.txt"], ["install", "--no-deps", "-r", "list.txt"]),
        (["uninstall", "-y", "gpt2demo-x"], ["uninstall", "--yes", "-y", "gpt2demo-x"]),
        (["uninstall", "gpt2demo-x"], ["uninstall", "--yes", "gpt2demo-x"]),
    ],
    ids=" ".join,
)
def test_words_are_passed_to_pip_in_order(
    invoke: Cli, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[str]
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "call", lambda command: called.append(command) or 3)
    assert invoke(*words).returncode == 3
    assert called == [[sys.executable, "-m", "pip", *expected]]
