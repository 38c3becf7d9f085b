"""The ONNX engine: batches, threads, sessions, GPUs, and no torch."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import some_ids

from gpt2demo.engines import onnx as onnx_engine
from gpt2demo.engines import session
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.errors import SettingError

CHAIN = [("temperature", {"value": 0.7}), ("top-p", {"p": 0.9})]
"""The samplers in `tiny_export`, with other options."""


# ---------------------------------------------------------------------------------------------- batches


def test_several_ids_after_a_cached_batch_have_the_logits_of_one_pass(tiny_export: Path) -> None:
    """onnxruntime's attention reads several ids after a cache only for a single row."""
    engine = OnnxEngine(tiny_export, "cpu")
    ids = some_ids(3, 9)
    whole = engine.logits(ids)
    engine.feed(ids[:, :4])
    np.testing.assert_allclose(engine.read(ids[:, 4:7]), whole[:, 4:7], atol=1e-5)
    np.testing.assert_allclose(engine.feed(ids[:, 7:]), whole[:, -1], atol=1e-5)


def read_rows(engine: OnnxEngine, rows: list[np.ndarray], cuts: list[int]) -> list[np.ndarray]:
    """Read rows together, padded on the left, in pieces that end at the cuts; return each row's logits (T, V)."""
    width = max(map(len, rows))
    padding = np.array([width - len(row) for row in rows])
    ids = np.stack([np.pad(row, (width - len(row), 0)) for row in rows])
    engine.reset()
    pieces = [engine.read(ids[:, start:end], padding) for start, end in itertools.pairwise([0, *cuts, width])]
    return [logits[pad:] for logits, pad in zip(np.concatenate(pieces, axis=1), padding, strict=True)]


def test_padding_on_the_left_changes_nothing(tiny_export: Path) -> None:
    engine = OnnxEngine(tiny_export, "cpu")
    rows = [some_ids(20), some_ids(7, seed=1), some_ids(1, seed=2)]
    together = read_rows(engine, rows, [5, 19])
    for row, logits in zip(rows, together, strict=True):
        np.testing.assert_allclose(logits, read_rows(engine, [row], [])[0], atol=1e-4)
        assert np.isfinite(logits).all()


def test_a_batch_of_another_size_needs_a_reset(tiny_export: Path) -> None:
    engine = OnnxEngine(tiny_export, "cpu")
    engine.feed(some_ids(2, 4))
    with pytest.raises(SettingError, match="3 rows: the cache holds 2"):
        engine.feed(some_ids(3, 1))


# ---------------------------------------------------------------------------------------------- sessions and threads


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the graphs that are opened, without measuring the number of threads."""
    names: list[str] = []
    open_session = onnx_engine.open_session
    monkeypatch.setattr(onnx_engine, "PROBE_LIMIT", 0)
    monkeypatch.setattr(onnx_engine, "open_session", lambda file, *rest: (names.append(file.name), open_session(file, *rest))[1])
    return names


def sampling_engine(export: Path) -> OnnxEngine:
    engine = OnnxEngine(export, "cpu")
    engine.set_options(CHAIN)
    return engine


def test_sampling_opens_only_generate_onnx(tiny_export: Path, opened: list[str]) -> None:
    """Each session has a copy of the weights. This includes a batch whose rows continue one id at a time."""
    engine = OnnxEngine(tiny_export, "cpu")
    assert (opened, engine.provider) == ([], "CPUExecutionProvider")
    engine.set_options(CHAIN)
    ids = some_ids(3, 9)
    engine.draw(ids[:, :4], [0.5] * 3, ids[:, :4], 4)
    continued = engine.draw(ids[:, 4:], [0.2, 0.5, 0.8], ids, 4).copy()
    assert opened == ["generate.onnx"]
    whole = sampling_engine(tiny_export)
    assert continued.tolist() == whole.draw(ids, [0.2, 0.5, 0.8], ids, 4).tolist()


def test_logits_open_only_model_onnx(tiny_export: Path, opened: list[str]) -> None:
    engine = OnnxEngine(tiny_export, "cpu")
    engine.feed(some_ids(1, 5))
    engine.feed(some_ids(1, 1))
    assert opened == ["model.onnx"]


def test_a_graph_that_is_opened_later_uses_the_same_cache(tiny_export: Path, opened: list[str]) -> None:
    ids = some_ids(1, 12)
    expected = OnnxEngine(tiny_export, "cpu").feed(ids)
    engine = sampling_engine(tiny_export)
    engine.draw(ids[:, :8], [0.5], ids[:, :8], 8)
    np.testing.assert_allclose(engine.feed(ids[:, 8:]), expected, atol=1e-5)
    engine = OnnxEngine(tiny_export, "cpu")
    engine.feed(ids[:, :8])
    engine.set_options(CHAIN)
    assert engine.draw(ids[:, 8:], [0.3], ids, 8) == sampling_engine(tiny_export).draw(ids, [0.3], ids, 8)


def test_a_small_model_uses_the_fastest_number_of_threads(tiny_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {8: 3.0, 4: 1.0, 2: 2.0, 1: 4.0}
    measured: list[int] = []

    def measure(engine: OnnxEngine) -> float:
        engine.feed(some_ids(1, 3))
        measured.append(engine.threads)
        return seconds[engine.threads]

    monkeypatch.setattr(OnnxEngine, "_seconds_per_step", measure)
    monkeypatch.setattr(onnx_engine, "cpu_threads", lambda: 8)
    engine = OnnxEngine(tiny_export, "cpu")
    assert measured == [8, 4, 2, 1]
    assert (engine.threads, engine.length) == (4, 0)
    assert engine.feed(some_ids(1, 9)).shape == (1, 256)


def test_the_engine_runs_without_torch(tiny_export: Path) -> None:
    program = f"""
import sys
from pathlib import Path
import numpy as np
from gpt2demo.engines.exported import is_export
from gpt2demo.engines.onnx import OnnxEngine
assert is_export(Path({str(tiny_export)!r}))
print(OnnxEngine(Path({str(tiny_export)!r})).feed(np.array([[1, 2, 3]])).shape)
assert "torch" not in sys.modules and "onnx" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(1, 256)\n", "")


# ---------------------------------------------------------------------------------------------- GPUs


def test_an_unavailable_device_is_an_error_and_auto_uses_the_cpu(tiny_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match=r"device='cuda': this export is fp32.*--dtype fp16"):
        OnnxEngine(tiny_export, "cuda")
    monkeypatch.setattr(session, "_missing_for_cuda", lambda dtype: "the NVIDIA driver is missing")
    with pytest.raises(SettingError, match="device='cuda': the NVIDIA driver is missing; or use --device cpu"):
        OnnxEngine(tiny_export, "cuda")
    assert OnnxEngine(tiny_export, "auto").provider == "CPUExecutionProvider"
    with pytest.raises(SettingError, match="device='mps': onnxruntime computes on cpu or cuda"):
        OnnxEngine(tiny_export, "mps")
