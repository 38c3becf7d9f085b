"""The contract of exporters, as a class of tests."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest
import torch

from gpt2demo import plugins
from gpt2demo.config import ModelConfig
from gpt2demo.errors import SettingError
from gpt2demo.export.export import export_model
from gpt2demo.interfaces import Exporter
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint, weights
from gpt2demo.testing.profiles import by_profile
from gpt2demo.tokenization.byte import ByteTokenizer

SHAPE = ModelConfig(vocab_size=256, n_positions=48, n_embd=64, n_head=4, n_layer=2)


class ExporterContract:
    """Tests of the contract of `gpt2demo.interfaces.Exporter`. Subclass it and set `exporter`.

    The exporter is called by the program's own `export_model`, which chooses the folder. The model has the byte tokenizer.

    Attributes:
        exporter: the exporter class to test.
    """

    exporter: ClassVar[type[Exporter]]

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """Save a checkpoint of a tiny model in a run folder."""
        return save_checkpoint(tmp_path / "runs" / "tiny")

    @pytest.fixture(autouse=True)
    def registered(self) -> Iterator[None]:
        """Register the class under its own name."""
        registry = plugins.registry()
        existing = registry.part

        def part(kind: str, name: str) -> Any:
            return self.exporter if name == self.exporter.__name__ else existing(kind, name)

        with mock.patch.object(registry, "part", part):
            yield

    def export(self, source: Path, output: Path, **options: Any) -> list[str]:
        """Export a checkpoint; return the reported lines."""
        lines: list[str] = []
        export_model(source, self.exporter.__name__, output, report=lines.append, **options)
        return lines

    def test_class_attributes_have_valid_values(self) -> None:
        """Lists and the web page show them without creating an exporter."""
        assert isinstance(self.exporter.summary, str), "summary is not a str"
        assert self.exporter.summary, "summary is empty"
        assert "\n" not in self.exporter.summary, "summary has more than one line"
        assert self.exporter.dtypes, "dtypes is empty"
        assert all(isinstance(dtype, str) for dtype in self.exporter.dtypes), "dtypes has something else than str"

    def test_options_are_keyword_only_with_a_default(self) -> None:
        """The program creates the exporter without options by default."""
        for option in inspect.signature(self.exporter).parameters.values():
            assert option.kind is inspect.Parameter.KEYWORD_ONLY, f"{option.name} is not keyword-only"
            assert option.default is not inspect.Parameter.empty, f"{option.name} has no default"

    def test_every_dtype_is_exported(self, source: Path, tmp_path: Path) -> None:
        """The folder has files, each reported line is a str, and the checkpoint is unchanged. Quick: the first dtype only."""
        for dtype in by_profile(tuple(self.exporter.dtypes), tuple(self.exporter.dtypes[:1])):
            before = contents(source)
            lines = self.export(source, tmp_path / "exports" / dtype, dtype=dtype)
            assert set(contents(tmp_path / "exports" / dtype)) - {"gpt2demo.json"}, f"{dtype}: wrote no file"
            assert all(isinstance(line, str) and "\n" not in line for line in lines), (
                f"{dtype}: reported more than one line at once"
            )
            assert contents(source) == before, f"{dtype}: changed the checkpoint"

    def test_nothing_is_written_elsewhere(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An export leaves no files beside its folder or in the current folder."""
        (tmp_path / "current").mkdir()
        monkeypatch.chdir(tmp_path / "current")
        before = set(contents(tmp_path))
        self.export(source, tmp_path / "exports" / "one")
        others = {name for name in contents(tmp_path).keys() - before if not name.startswith("exports/one/")}
        assert not others, f"wrote {', '.join(sorted(others))} outside its folder"

    def test_unknown_dtypes_and_options_are_refused(self, source: Path, tmp_path: Path) -> None:
        """The error names the value, and nothing is written."""
        for name in ("dtype", "unknown_option"):
            with pytest.raises(SettingError, match=name):
                self.export(source, tmp_path / "exports" / "one", **{name: "nothing"})
        assert not (tmp_path / "exports").exists(), "wrote files before it refused an option"


def save_checkpoint(run: Path) -> Path:
    """Save a checkpoint of a tiny model, with validation text. The random weights are large enough for distinct logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2(SHAPE)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    (run / "data").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({}))
    np.save(run / "data" / "validation.npy", np.random.default_rng(0).integers(0, 256, 500).astype(np.uint16))
    checkpoint.save_tokenizer(ByteTokenizer(), "byte", run / "tokenizer")
    optimizer = torch.optim.SGD(model.parameters())
    return weights.save_checkpoint(
        run / "checkpoints", model, run / "tokenizer", optimizer, {"step": 1, "validation_loss": None}
    ).path


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder with their contents."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
