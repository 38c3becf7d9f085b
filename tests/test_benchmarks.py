"""The kit for a GPU (`benchmarks/`): parts that fail or hang do not stop the others, and wheels are split and joined."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

PARTS = """
import json, subprocess, sys, time
from pathlib import Path
name, file, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
file.write_text(json.dumps({"rows": [{"name": name, "gpu": options["gpu"], "note": "a | b", "tokens": 12345}]}))
print("output of", name, flush=True)
if name == "hangs":
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
    time.sleep(60)
if name == "skips":
    file.write_text(json.dumps({"reason": "one GPU"}))
    sys.exit(77)
sys.exit(3 if name == "fails" else 0)
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import `benchmarks/gpu.py` and `benchmarks/wheels.py`, which are scripts."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu
    import wheels

    yield SimpleNamespace(gpu=gpu, wheels=wheels)
    for name in ("gpu", "wheels"):
        del sys.modules[name]


@pytest.fixture
def kit(modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A kit whose parts are small programs."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "parts.py").write_text(PARTS)
    monkeypatch.setattr(modules.gpu, "ROOT", tmp_path)
    monkeypatch.setattr(
        modules.gpu,
        "PARTS",
        {
            **{name: modules.gpu.Part("", 30) for name in ("works", "fails", "skips")},
            "hangs": modules.gpu.Part("", 11),
            "needs": modules.gpu.Part("", 30, needs_gpu=True),
        },
    )
    return modules.gpu.Kit(tmp_path, {"gpu": False, "text": None}, {}, False, {})


def test_parts_that_fail_or_cannot_run_do_not_stop_the_others(kit: Any, tmp_path: Path) -> None:
    for name in ("fails", "needs", "skips", "works"):
        kit.run(name, 100)
    kit.run("works", 5)
    assert kit.results["works"] == {"state": "skipped", "reason": "no time left; run it with --parts works"}
    kit.run("works", 100)
    found = json.loads((tmp_path / "gpu.json").read_text())
    states = {name: (result["state"], result.get("reason")) for name, result in found.items()}
    assert states == {
        "fails": ("failed", "exit code 3; see gpu.log"),
        "needs": ("skipped", "needs an NVIDIA GPU"),
        "skips": ("skipped", "one GPU"),
        "works": ("done", None),
    }
    assert found["fails"]["rows"] == [{"name": "fails", "gpu": False, "note": "a | b", "tokens": 12345}]
    table = (tmp_path / "gpu.md").read_text()
    assert "| needs | skipped |  | needs an NVIDIA GPU |" in table
    assert "| works | False | a / b | 12,345 |" in table
    assert "output of works" in (tmp_path / "gpu.log").read_text()


@pytest.mark.slow
def test_a_part_that_hangs_is_ended_with_its_processes(kit: Any, tmp_path: Path) -> None:
    kit.run("hangs", 11)
    assert kit.results["hangs"]["state"] == "timeout"
    assert kit.results["hangs"]["rows"]
    child = int((tmp_path / "gpu.log").read_text().split()[-1])
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_the_kit_and_the_parts_have_the_same_names(modules: Any) -> None:
    listed = subprocess.run([sys.executable, BENCHMARKS / "gpu.py", "--list"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(modules.gpu.PARTS)
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import parts; print(*parts.PARTS)"
    parts = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert parts.stdout.split() == list(modules.gpu.PARTS)


def test_the_limits_of_the_parts_for_one_call_fit_into_nine_minutes_without_the_longest(modules: Any) -> None:
    wanted = ("environment", "tests", "decode-gpt2", "training")
    assert sum(modules.gpu.PARTS[name].seconds for name in wanted) < 540


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    file = tmp_path / "large-1.0-py3-none-any.whl"
    file.write_bytes(bytes(range(256)) * 10_000)
    return file


def test_a_split_wheel_is_joined_beside_whole_ones(modules: Any, wheel: Path, tmp_path: Path) -> None:
    files = modules.wheels.split(wheel, tmp_path / "parts", 1)
    assert [file.name for file in files] == [f"{wheel.name}.{end}" for end in ("000", "001", "002", "json")]
    assert max(file.stat().st_size for file in files) <= 10**6
    (tmp_path / "parts" / "small-2.0-py3-none-any.whl").write_bytes(b"small")
    joined = modules.wheels.join(tmp_path / "parts", tmp_path / "joined")
    assert [file.name for file in joined] == ["small-2.0-py3-none-any.whl", wheel.name]
    assert joined[1].read_bytes() == wheel.read_bytes()


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_missing_or_changed_part_is_named(modules: Any, wheel: Path, tmp_path: Path, damage: str) -> None:
    part = modules.wheels.split(wheel, tmp_path / "parts", 1)[1]
    part.unlink() if damage == "missing" else part.write_bytes(b"other")
    with pytest.raises(SystemExit, match=f"missing or damaged: {wheel.name}.001$"):
        modules.wheels.join(tmp_path / "parts", tmp_path / "joined")
