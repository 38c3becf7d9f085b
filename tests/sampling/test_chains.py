"""Sampler chains: specs, built-in names, and chains saved with a run or export."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import Cli, save_checkpoint

from gpt2demo.config import CHAINS, GenerateConfig
from gpt2demo.engines.exported import check_export
from gpt2demo.errors import CheckpointError, RunError, SettingError, UserError
from gpt2demo.export.export import export_model
from gpt2demo.generation.load import load
from gpt2demo.sampling.basic import TopK
from gpt2demo.sampling.chains import chains_file, create_chain, load_chains, save_chain


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = save_checkpoint(tmp_path / "tiny")
    (tmp_path / "tiny" / "run.json").write_text("{}")
    return path


def silent(line: str) -> None:
    """Discard a line of progress."""


def test_a_chain_is_created_from_specs() -> None:
    (item,) = create_chain(["top-k:k=7"])
    assert (item.name, item.sampler, item.spec) == ("top-k", TopK(k=7), "top-k:k=7")


def test_built_in_chains_are_valid() -> None:
    for specs in CHAINS.values():
        create_chain(specs)


def test_a_name_stands_for_its_samplers() -> None:
    config = GenerateConfig(temperature=0.3, samplers=("@standard", "min-p"))
    assert config.chain == ("temperature:value=0.3", *CHAINS["standard"], "min-p")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(SettingError, match="unknown sampler chain '@odd'; available: @default, @greedy"):
        _ = GenerateConfig(samplers=("@odd",)).chain


def test_a_saved_chain_generates_the_same_text_as_its_samplers(checkpoint: Path) -> None:
    save_chain(checkpoint, "mine", GenerateConfig(temperature=0.4, top_k=7))
    model = load(checkpoint, device="cpu")
    by_name, by_settings = (
        "".join(model.generate("Once", seed=1, max_new_tokens=20, **settings))
        for settings in ({"samplers": ["@mine"]}, {"temperature": 0.4, "top_k": 7})
    )
    assert by_name == by_settings


def test_chains_are_saved_with_the_run_for_all_its_checkpoints(checkpoint: Path) -> None:
    save_chain(checkpoint, "mine", GenerateConfig(temperature=0.4, top_k=7))
    assert (checkpoint.parent.parent / "chains.json").exists()
    assert load_chains(checkpoint) == CHAINS | {"mine": ("temperature:value=0.4", "top-k:k=7")}


def test_a_saved_chain_may_contain_another(checkpoint: Path) -> None:
    save_chain(checkpoint, "mine", GenerateConfig(temperature=0.4, top_k=7))
    save_chain(checkpoint, "more", GenerateConfig(samplers=("@mine", "min-p:threshold=0.1")))
    assert load_chains(checkpoint)["more"] == ("temperature:value=0.4", "top-k:k=7", "min-p:threshold=0.1")


@pytest.mark.parametrize(
    ("name", "sampler", "error", "message"),
    [
        ("wild", "top-k:k=3", SettingError, "chain 'wild': is a built-in chain"),
        ("../x", "top-k:k=3", RunError, r"'\.\./x'"),
        ("bad", "top-p:p=7", SettingError, "sampler 'top-p'"),
    ],
)
def test_an_invalid_chain_is_not_saved(checkpoint: Path, name: str, sampler: str, error: type[UserError], message: str) -> None:
    with pytest.raises(error, match=message):
        save_chain(checkpoint, name, GenerateConfig(samplers=(sampler,)))
    assert not chains_file(checkpoint).exists()


def test_a_damaged_file_is_reported(checkpoint: Path) -> None:
    chains_file(checkpoint).write_text('{"mine": [3]}')
    with pytest.raises(CheckpointError, match="is damaged"):
        load_chains(checkpoint)


def test_a_chain_is_saved_and_used_on_the_command_line(checkpoint: Path, invoke: Cli) -> None:
    command = ["generate", checkpoint, "--prompt", "Once", "--seed", 1, "--max-new-tokens", 9]
    saved = invoke(*command, "--temperature", 0.5, "--save-chain", "calm")
    used = invoke(*command, "--sampler", "@calm")
    assert saved.returncode == used.returncode == 0
    assert saved.stdout == used.stdout


def test_an_export_contains_the_samplers_of_a_saved_chain(checkpoint: Path, tmp_path: Path) -> None:
    save_chain(checkpoint, "mine", GenerateConfig(temperature=0.4, top_k=7))
    folder = export_model(checkpoint, output=tmp_path / "out", samplers=["@mine"], report=silent)
    assert [(item["name"], item["values"]) for item in check_export(folder).samplers or []] == [
        ("temperature", {"value": 0.4}),
        ("top-k", {"k": 7}),
    ]


@pytest.mark.parametrize(("sampler", "message"), [("nosuch", "nosuch"), ("top-k:k=0", "k='0'")])
def test_an_invalid_sampler_is_refused_before_an_export_begins(
    checkpoint: Path, tmp_path: Path, sampler: str, message: str
) -> None:
    lines: list[str] = []
    with pytest.raises(UserError, match=message):
        export_model(checkpoint, output=tmp_path / "out", samplers=[sampler], report=lines.append)
    assert not lines


def test_a_new_export_keeps_saved_chains(checkpoint: Path, tmp_path: Path) -> None:
    folder = export_model(checkpoint, "huggingface", tmp_path / "out", report=silent)
    save_chain(folder, "five", GenerateConfig(top_k=5))
    export_model(checkpoint, "huggingface", folder, report=silent)
    assert load_chains(folder)["five"] == ("top-k:k=5",)


@pytest.mark.parametrize("certificate", ["{}", "{"])
def test_of_an_export_without_a_list_of_its_files_only_saved_chains_are_kept(
    checkpoint: Path, tmp_path: Path, certificate: str
) -> None:
    """Exports of older versions have no list."""
    folder = export_model(checkpoint, "huggingface", tmp_path / "out", report=silent)
    save_chain(folder, "five", GenerateConfig(top_k=5))
    (folder / "old.txt").write_text("old", encoding="utf-8")
    (folder / "gpt2demo.json").write_text(certificate, encoding="utf-8")
    export_model(checkpoint, "huggingface", folder, report=silent)
    assert load_chains(folder)["five"] == ("top-k:k=5",)
    assert not (folder / "old.txt").exists()
