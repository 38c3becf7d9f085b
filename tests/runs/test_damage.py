"""Damaged and malicious files are detected before they are used, and reported in one line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from battery import Trials
from saver import Saver

import gpt2demo
from gpt2demo.errors import CheckpointError, RunError
from gpt2demo.runs import checkpoint, weights
from gpt2demo.runs.find import PICKLES


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint, to be copied and damaged."""
    saver = Saver(tmp_path_factory.mktemp("run"), 16)
    saver.save(2)
    return saver.folder / "step-00000002"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def content(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Damage one file of a checkpoint."""
    files = sorted(content(path))
    file = rng.choice(files)
    raw = bytearray(file.read_bytes())
    if kind == "bit flip":
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        file.write_bytes(raw)
    elif kind == "truncation":
        file.write_bytes(raw[: rng.randrange(len(raw))])
    elif kind == "swap":
        other = rng.choice([f for f in files if f != file and f.read_bytes() != bytes(raw)])
        file.write_bytes(other.read_bytes())
        other.write_bytes(raw)
    elif kind == "missing":
        file.unlink()
    else:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        name = rng.choice(list(manifest["files"]))
        wrong: list[Any] = [None, 1, {}, {"bytes": -1, "sha256": "x"}, {**manifest["files"][name], "sha256": "0" * 64}]
        manifest["files"][name] = rng.choice(wrong)
        (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "full"), [("bit flip", 500), ("truncation", 200), ("swap", 50), ("missing", 20), ("manifest", 20)]
)
@pytest.mark.parametrize("form", ["short", pytest.param("full", marks=pytest.mark.slow)])
def test_any_damage_is_detected(whole: Path, tmp_path: Path, trial: Trials, kind: str, full: int, form: str) -> None:
    rng, original = random.Random(kind), list(content(whole).values())
    for number in range(full if form == "full" else 20):
        with trial(number):
            path = shutil.copytree(whole, tmp_path / str(number) / whole.name)
            damage(path, kind, rng)
            damaged = content(path)
            if list(damaged.values()) == original:
                continue
            try:
                checkpoint.verify(path)
            except CheckpointError as error:
                assert "\n" not in str(error)
            else:  # a bit flip in the manifest may change only white space or the case of a digit
                changed = [file.name for (file, raw), before in zip(damaged.items(), original, strict=True) if raw != before]
                assert changed == ["manifest.json"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n_embd": 10**9}, "n_embd"),
        ({"n_layer": -1}, "n_layer"),
        ({"n_head": 3}, "not divisible"),
        ({"n_layer": 2}, "missing"),
        ({"n_embd": 64}, "has shape"),
        ({"n_positions": "many"}, "n_positions"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(copy: Path, change: dict[str, object], complaint: str) -> None:
    """Shapes are compared before memory is allocated: a width of 10^9 must not exhaust it."""
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=complaint):
        weights.load_model(copy)


def test_an_unsupported_checkpoint_format_is_named(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format": 9}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="format 9, this program reads 1"):
        checkpoint.verify(copy)


@pytest.mark.parametrize("suffix", PICKLES)
def test_a_pickle_is_refused_by_name_and_never_loaded(tmp_path: Path, suffix: str) -> None:
    canary, pickle = tmp_path / "canary", tmp_path / f"model{suffix}"
    pickle.write_bytes(b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    with pytest.raises(RunError, match=rf"model\{suffix}: is a pickle.*save_pretrained"):
        gpt2demo.load(pickle)
    assert not canary.exists()
