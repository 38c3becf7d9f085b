"""Sampler chains with a name: everybody's, and a run's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from samples import save_checkpoint

from gpt2demo.cli.commands import app
from gpt2demo.config import CHAINS, GenerateConfig
from gpt2demo.engines.exported import check_export
from gpt2demo.errors import CheckpointError, RunError, SettingError, UserError
from gpt2demo.export.export import export_model
from gpt2demo.generation.load import load
from gpt2demo.plugins import create_sampler
from gpt2demo.sampling import saved


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = save_checkpoint(tmp_path / "tiny")
    (tmp_path / "tiny" / "run.json").write_text("{}")
    return path


def test_a_name_stands_for_its_samplers() -> None:
    config = GenerateConfig(temperature=0.3, samplers=("@standard", "min-p"))
    assert config.chain == ("temperature:value=0.3", *CHAINS["standard"], "min-p")
    assert all(create_sampler(spec) for chain in CHAINS.values() for spec in chain)
    with pytest.raises(SettingError, match="sampler '@odd': there is no such chain; there are @default, @greedy"):
        _ = GenerateConfig(samplers=("@odd",)).chain


def test_a_run_keeps_chains_of_its_own(checkpoint: Path) -> None:
    saved.keep_chain(checkpoint, "mine", GenerateConfig(temperature=0.4, top_k=7))
    saved.keep_chain(checkpoint, "mine-too", GenerateConfig(samplers=("@mine", "min-p:threshold=0.1")))
    known = saved.load_chains(checkpoint)
    assert known["mine-too"] == ("temperature:value=0.4", "top-k:k=7", "min-p:threshold=0.1")
    assert known.keys() >= CHAINS.keys()
    model = load(checkpoint, device="cpu")
    by_name, spelled = (
        "".join(model.generate("Once", seed=1, max_new_tokens=20, **settings))
        for settings in ({"samplers": ["@mine"]}, {"temperature": 0.4, "top_k": 7})
    )
    assert by_name == spelled
    assert (checkpoint.parent.parent / "saved.json").exists()  # with the run: the next checkpoint has it, too


def test_what_cannot_be_kept_is_refused(checkpoint: Path) -> None:
    with pytest.raises(SettingError, match="chain 'wild': everybody has a chain of this name"):
        saved.keep_chain(checkpoint, "wild", GenerateConfig(top_k=3))
    with pytest.raises(RunError, match=r"name '\.\./x'"):
        saved.keep_chain(checkpoint, "../x", GenerateConfig(top_k=3))
    with pytest.raises(SettingError, match="sampler 'top-p'"):
        saved.keep_chain(checkpoint, "bad", GenerateConfig(samplers=("top-p:p=7",)))
    saved.chains_file(checkpoint).write_text('{"mine": [3]}')
    with pytest.raises(CheckpointError, match="is damaged"):
        saved.load_chains(checkpoint)


def test_from_the_terminal(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["generate", str(checkpoint), "--prompt", "Once", "--seed", "1", "--max-new-tokens", "9"]
    texts = []
    for options in (["--temperature", "0.5", "--save-chain", "calm"], ["--sampler", "@calm"]):
        app([*common, *options], standalone_mode=False)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_an_export_has_the_samplers_of_a_named_chain_inside(checkpoint: Path, tmp_path: Path) -> None:
    saved.keep_chain(checkpoint, "mine", GenerateConfig(temperature=0.4, top_k=7))
    folder = export_model(checkpoint, output=tmp_path / "out", samplers=["@mine"], report=lambda line: None)
    assert [(step["name"], step["values"]) for step in check_export(folder).chain or []] == [
        ("temperature", {"value": 0.4}),
        ("top-k", {"k": 7}),
    ]


def test_a_new_export_keeps_the_chains_of_the_old_one(checkpoint: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = export_model(checkpoint, output=tmp_path / "out", report=lines.append)
    assert not any("replacing" in line for line in lines)
    saved.keep_chain(folder, "five", GenerateConfig(top_k=5))
    export_model(checkpoint, output=folder, report=lines.append)
    assert lines[-1] == f"replacing the export that is in {folder}"
    assert "five" in saved.load_chains(folder)


def test_a_new_export_keeps_what_somebody_put_beside_the_old_one(checkpoint: Path, tmp_path: Path) -> None:
    folder = export_model(checkpoint, output=tmp_path / "out", report=silent)
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.md").write_text("mine", encoding="utf-8")
    written = json.loads((folder / "gpt2demo.json").read_text())["written"]
    assert {"model.onnx", "gpt2demo.json", "tokenizer/plugin.json"} <= set(written)
    for _ in range(2):
        export_model(checkpoint, output=folder, report=silent)
        assert (folder / "notes" / "mine.md").read_text(encoding="utf-8") == "mine"
        assert json.loads((folder / "gpt2demo.json").read_text())["written"] == written


@pytest.mark.parametrize("mark", ["{}", "{"])
def test_of_an_older_programs_export_saved_chains_are_kept(checkpoint: Path, tmp_path: Path, mark: str) -> None:
    """It does not say which files are its own."""
    folder = export_model(checkpoint, output=tmp_path / "out", report=silent)
    saved.keep_chain(folder, "five", GenerateConfig(top_k=5))
    (folder / "old.onnx").write_text("old", encoding="utf-8")
    (folder / "gpt2demo.json").write_text(mark, encoding="utf-8")
    export_model(checkpoint, output=folder, report=silent)
    assert "five" in saved.load_chains(folder)
    assert not (folder / "old.onnx").exists()


def silent(line: str) -> None:
    """A report that nobody reads."""


def test_a_wrong_sampler_is_refused_before_an_export_begins(checkpoint: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    for wrong in ("nosuch", "top-k:k=0"):
        with pytest.raises(UserError, match="nosuch|k='0'"):
            export_model(checkpoint, output=tmp_path / "out", samplers=[wrong], report=lines.append)
    assert not lines
