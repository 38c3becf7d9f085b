"""The bench: contestants in processes of their own, in turns, and ratios within each round. No times are asserted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gpt2demo.bench import generate as bench
from gpt2demo.bench.generate import Contestant, bench_generate
from gpt2demo.config import BenchConfig
from gpt2demo.errors import RunError, SettingError


def test_everybody_writes_the_same_greedy_text(tmp_path: Path) -> None:
    """A whole small measurement, transformers with it: engines, exports, samplers, in turns."""
    config = BenchConfig.create(shape="nano", dtypes=("fp32",), prompt_tokens=4, new_tokens=5, rounds=2, peers=("transformers",))
    lines: list[str] = []
    rows = {row["name"]: row for row in bench_generate(config, tmp_path, lines.append)}
    assert list(rows) == ["torch fp32", "torch fp32 + samplers", "onnx fp32", "onnx fp32 + samplers", "transformers fp32"]
    assert all(rows[name]["same_ids"] for name in ("torch fp32", "onnx fp32"))
    assert rows["transformers fp32"]["times_transformers_fp32"] == 1.0
    assert all(row["slowest"] <= row["tokens_per_second"] <= row["fastest"] and row["megabytes"] > 10 for row in rows.values())
    assert lines[-3:] == ["warming up", "round 1 of 2", "round 2 of 2"]


def answers(*seconds_per_step: float) -> list[dict[str, object]]:
    return [{"ids": [[1, 2, 3]], "first": 1.0, "seconds": 1.0 + 2 * step, "megabytes": 5.0} for step in seconds_per_step]


def test_ratios_are_taken_within_a_round() -> None:
    """The second round was twice as slow for everybody: that changes no ratio."""
    memory = Contestant("memory", [], answers=[{"seconds": speed} for speed in (8e9, 4e9, 8e9)])
    fast = Contestant("ours", [], bytes=1_000_000_000, answers=answers(0.25, 0.5, 0.25))
    slow = Contestant("transformers fp32", [], bytes=1_000_000_000, answers=answers(0.5, 1.0, 0.5))
    ours, theirs = bench.rows([memory, fast, slow])
    assert (ours["times_transformers_fp32"], theirs["times_transformers_fp32"]) == (2.0, 1.0)
    assert (ours["tokens_per_second"], ours["slowest"], ours["fastest"]) == (4, 2, 4)
    assert (ours["samplers_cost_percent"], theirs["samplers_cost_percent"]) == (None, None)
    assert ours["of_memory_bandwidth"] == 0.5  # a gigabyte at 8 GB/s takes an eighth of a second; it took a quarter


def test_samplers_are_compared_with_the_same_engine_without_them() -> None:
    memory = Contestant("memory", [], answers=[{"seconds": 8e9}] * 3)
    plain = Contestant("onnx fp32", [], answers=answers(0.25, 0.5, 0.25))
    sampled = Contestant("onnx fp32 + samplers", [], answers=answers(0.5, 0.625, 0.3125))
    assert bench.rows([memory, plain, sampled])[1]["samplers_cost_percent"] == 25.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peers": ("ollama",)}, "peers='ollama': there is no such peer; there are transformers, genai, llama.cpp"),
        ({"prompt_tokens": 120, "new_tokens": 20}, "its context of 128 is shorter than 120 [+] 20 tokens"),
        ({"shape": "small"}, "preset='small'"),
        ({"peers": ("transformers=/none/python",)}, "/none/python is no program"),
        ({"peers": ("genai", "genai=python")}, "peers=genai, genai: give each once"),
        ({"dtypes": ("fp32", "fp32")}, "dtypes=fp32, fp32: give each once"),
    ],
)
def test_what_cannot_be_measured_is_one_line(changes: dict[str, object], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=complaint):
        bench_generate(BenchConfig.create(**{"shape": "nano", "dtypes": (), **changes}), tmp_path, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_contestant_that_dies_is_named() -> None:
    broken = Contestant("llama.cpp q8_0", [sys.executable, "-c", "raise SystemExit('no such file')"])
    with pytest.raises(RunError, match=r"bench: llama\.cpp q8_0 failed: no such file"), bench.started(broken):
        pass
