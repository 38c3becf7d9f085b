"""`gpt2demo bench generate`: processes, results and ratios. Times are not tested."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2demo.bench import generate as bench
from gpt2demo.bench import protocol, worker
from gpt2demo.bench.generate import Generator, bench_generate
from gpt2demo.bench.protocol import Runner
from gpt2demo.config import BenchGenerateConfig, GenerateConfig, preset
from gpt2demo.errors import RunError, SettingError

NAMES = ["torch fp32", "torch fp32 + samplers", "onnx fp32", "onnx fp32 + samplers", "transformers fp32"]
SETTINGS = {"shape": "nano", "dtypes": ("fp32",), "prompt_tokens": 4, "new_tokens": 5, "peers": ("transformers",)}


def test_the_engines_generate_the_same_greedy_ids(tiny_checkpoint: Path, tiny_export: Path) -> None:
    config = GenerateConfig.create(max_new_tokens=5, temperature=0)
    engines = [worker.open_engine("torch", tiny_checkpoint), worker.open_engine("onnx", tiny_export)]
    (ids, *_), (onnx_ids, *_) = (worker.generate(engine, config, [[1, 2, 3], [4, 5, 6]]) for engine in engines)
    assert ids == onnx_ids
    assert [len(row) for row in ids] == [5, 5]


def test_a_process_returns_a_result_for_each_request(tiny_export: Path) -> None:
    runner = Runner("onnx fp32", [sys.executable, "-m", "gpt2demo.bench.worker", "onnx", str(tiny_export), "{}"])
    with protocol.started(runner) as request:
        first, second = (request({"prompts": [[1, 2, 3]], "count": count}) for count in (2, 4))
    assert first["ids"][0] == second["ids"][0][:2]
    assert len(second["ids"][0]) == 4
    assert second["first"] <= second["seconds"]
    assert second["megabytes"] > 10


def test_a_program_that_fails_is_reported_with_its_last_error_line() -> None:
    broken = Runner("llama.cpp q8_0", [sys.executable, "-c", "raise SystemExit('no such file')"])
    with pytest.raises(RunError, match=r"bench: llama\.cpp q8_0 failed: no such file"), protocol.started(broken):
        pass


def test_each_program_runs_once_per_round_after_a_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[str] = []

    @contextmanager
    def started(runner: Runner) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
        def request(work: dict[str, Any]) -> dict[str, Any]:
            requests.append(runner.name)
            return {"ids": [[0] * work["count"]], "first": 0.1, "seconds": 0.5, "megabytes": 100.0}

        yield request

    monkeypatch.setattr(protocol, "started", started)
    monkeypatch.setattr(protocol, "PAUSE", 0)
    lines: list[str] = []
    rows = bench_generate(BenchGenerateConfig.create(**SETTINGS, rounds=2), tmp_path, lines.append)
    assert [row["name"] for row in rows] == NAMES
    assert requests == ["memory", *NAMES] * 3
    assert lines[-3:] == ["warming up", "round 1 of 2", "round 2 of 2"]


@pytest.mark.slow
def test_all_programs_generate_the_same_greedy_ids(tmp_path: Path) -> None:
    rows = {
        row["name"]: row for row in bench_generate(BenchGenerateConfig.create(**SETTINGS, rounds=1), tmp_path, lambda line: None)
    }
    assert list(rows) == NAMES
    assert all(rows[name]["same_ids"] for name in ("torch fp32", "onnx fp32"))
    assert all(row["slowest"] <= row["tokens_per_second"] <= row["fastest"] and row["megabytes"] > 10 for row in rows.values())
    assert rows["transformers fp32"]["times_transformers_fp32"] == 1.0


def results(*seconds_per_step: float) -> list[dict[str, object]]:
    return [{"ids": [[1, 2, 3]], "first": 1.0, "seconds": 1.0 + 2 * step, "megabytes": 5.0} for step in seconds_per_step]


def test_ratios_are_taken_within_a_round() -> None:
    """The second round is twice as slow for all programs, which does not change the ratios."""
    memory = Generator("memory", [], results=[{"seconds": speed} for speed in (8e9, 4e9, 8e9)])
    fast = Generator("ours", [], bytes=1_000_000_000, results=results(0.25, 0.5, 0.25))
    slow = Generator("transformers fp32", [], bytes=1_000_000_000, results=results(0.5, 1.0, 0.5))
    ours, theirs = bench.rows([memory, fast, slow])
    assert (ours["times_transformers_fp32"], theirs["times_transformers_fp32"]) == (2.0, 1.0)
    assert (ours["tokens_per_second"], ours["slowest"], ours["fastest"]) == (4, 2, 4)
    assert (ours["samplers_cost_percent"], theirs["samplers_cost_percent"]) == (None, None)
    assert ours["of_memory_bandwidth"] == 0.5  # reading a gigabyte at 8 GB/s takes an eighth of a second; the step took a quarter


def test_samplers_are_compared_with_the_same_engine_without_them() -> None:
    memory = Generator("memory", [], results=[{"seconds": 8e9}] * 3)
    plain = Generator("onnx fp32", [], results=results(0.25, 0.5, 0.25))
    sampled = Generator("onnx fp32 + samplers", [], results=results(0.5, 0.625, 0.3125))
    assert bench.rows([memory, plain, sampled])[1]["samplers_cost_percent"] == 25.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peers": ("ollama",)}, "peers='ollama': unknown program; available: transformers, genai, llama.cpp"),
        ({"prompt_tokens": 120, "new_tokens": 20}, "its context of 128 is shorter than 120 [+] 20 tokens"),
        ({"shape": "tiny"}, "unknown preset 'tiny'"),
        ({"peers": ("transformers=/none/python",)}, "/none/python does not exist"),
        ({"peers": ("genai", "genai=python")}, "peers=genai, genai: list each once"),
        ({"dtypes": ("fp32", "fp32")}, "dtypes=fp32, fp32: list each once"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=message):
        bench_generate(BenchGenerateConfig.create(**{"shape": "nano", "dtypes": (), **changes}), tmp_path, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_on_a_gpu_torch_also_runs_without_graphs_and_transformers_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "torch_device", torch.device)
    config = BenchGenerateConfig.create(shape="nano", device="cuda", peers=("transformers", "genai"))
    runners = {runner.name: runner for runner in bench.prepare(preset("nano").model, config, tmp_path, lambda line: None)}
    own = ["torch fp16", "torch fp16 + samplers", "torch fp16 eager", "onnx fp16", "onnx fp16 + samplers"]
    assert list(runners) == ["memory", *own, "transformers fp16", "transformers fp16 compiled", "genai fp16"]
    options = [json.loads(runners[name].command[-1]) for name in own]
    assert all(option["device"] == "cuda" for option in options)
    assert [option.get("eager", False) for option in options] == [False, False, True, False, False]
    assert runners["transformers fp16 compiled"].command[-3:] == ["cuda", "fp16", "static"]
    assert runners["transformers fp16 compiled"].largest_batch == 1
    assert runners["torch fp16"].bytes == 2 * preset("nano").model.n_parameters
    assert runners["transformers fp16"].bytes == pytest.approx(runners["torch fp16"].bytes, rel=1e-3), "a file with a header"


def test_a_dtype_that_does_not_run_on_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "torch_device", torch.device)
    with pytest.raises(SettingError, match="dtypes=int8: on an NVIDIA GPU use fp16"):
        bench_generate(BenchGenerateConfig.create(shape="nano", device="cuda", dtypes=("int8",)), tmp_path, lambda line: None)


def test_a_grid_goes_on_without_a_program_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def started(runner: Runner) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
        def request(work: dict[str, Any]) -> dict[str, Any]:
            if runner.name == "onnx fp32" and len(work["prompts"]) == 2:
                raise RunError("bench: onnx fp32 failed: no memory")
            return {"ids": [[0] * work["count"]] * len(work["prompts"]), "first": 0.1, "seconds": 0.5, "megabytes": 100.0}

        yield request

    monkeypatch.setattr(protocol, "started", started)
    monkeypatch.setattr(protocol, "PAUSE", 0)
    config = BenchGenerateConfig.create(**{**SETTINGS, "peers": ()}, rounds=1)
    rows = list(bench.bench_grid(config, [(1, 4), (2, 8)], tmp_path, lambda line: None))
    points = [(row["name"], row.get("batch_size"), row.get("prompt_tokens")) for row in rows]
    assert points == [
        *((name, 1, 4) for name in NAMES[:4]),
        *((name, 2, 8) for name in NAMES[:4] if name != "onnx fp32"),
        ("onnx fp32", None, None),
    ]
    assert rows[-1]["error"] == "bench: onnx fp32 failed: no memory"
