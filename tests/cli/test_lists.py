"""The commands that list: runs, plugins and data, as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from samples import Cli

from gpt2demo.runs.folder import Run


def test_lists_are_json_on_request(invoke: Cli, run_copy: Run) -> None:
    (run,) = json.loads(invoke("runs", "--json").stdout)
    assert (run["name"], run["status"], run["step"]) == ("mine", "finished", 12)
    plugins = json.loads(invoke("plugins", "--json").stdout)
    assert all(set(plugin) == {"distribution", "version", "module", "hooks", "status", "error", "seconds"} for plugin in plugins)
    assert "tales" in [dataset["name"] for dataset in json.loads(invoke("data", "--json").stdout)]


def test_runs_are_listed_as_a_table(invoke: Cli, run_copy: Run) -> None:
    header, row = invoke("runs").stdout.splitlines()
    assert header.split()[:3] == ["name", "status", "step"]
    assert row.split()[:3] == ["mine", "finished", "12"]


def test_an_unreadable_run_does_not_affect_the_list(invoke: Cli, run_copy: Run) -> None:
    damaged = run_copy.path.parent / "damaged"
    damaged.mkdir()
    (damaged / "run.json").write_text("{", encoding="utf-8")
    lines = invoke("runs").stdout.splitlines()
    assert lines[0].split()[:3] == ["name", "status", "step"]
    assert {line.split()[0] for line in lines[1:]} >= {"mine", "damaged"}


def test_an_empty_list_is_a_message(invoke: Cli) -> None:
    done = invoke("runs")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "no entries\n"


def test_global_options_are_accepted_before_and_after_the_command(invoke: Cli, run_copy: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert json.loads(invoke("runs", "--json", "--runs-dir", elsewhere).stdout) == []
    assert json.loads(invoke("--runs-dir", elsewhere, "runs", "--json").stdout) == []


def test_an_example_dataset_can_be_printed(invoke: Cli) -> None:
    assert invoke("data", "tales:stories=3,seed=5").stdout.count("\n") == 3
    assert len(json.loads(invoke("data", "tales:stories=3,seed=5", "--json").stdout)) == 3


@pytest.mark.parametrize("name", ["[red]x.txt", "[@click=a]x.txt", ":smile:.txt", "\x1b[2J.txt", "a\nb.txt"])
def test_names_are_listed_exactly_as_they_are_without_control_characters(invoke: Cli, run_copy: Run, name: str) -> None:
    run_copy.write_info({**run_copy.info(), "data": [{"path": name}]})
    shown = name.replace("\x1b", "\N{REPLACEMENT CHARACTER}").replace("\n", " ")
    assert shown in invoke("runs").stdout
    (run,) = json.loads(invoke("runs", "--json").stdout)
    assert run["data"] == name


@pytest.mark.parametrize("name", ["[/b]", "[red]x[/red]", ":smile:", "\x1b[2J"])
def test_messages_quote_names_exactly_as_they_are_without_control_characters(invoke: Cli, name: str) -> None:
    done = invoke("generate", name)
    assert name.replace("\x1b", "\\x1b") in done.stderr
    assert "\x1b" not in done.stderr
