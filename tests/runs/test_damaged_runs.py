"""A damaged run is listed as damaged and affects no other run, and resuming it fails with one line."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from battery import Trials
from samples import Cli

from gpt2demo.errors import CheckpointError, Error, RunError
from gpt2demo.runs import checkpoint
from gpt2demo.runs.find import list_runs, summary
from gpt2demo.runs.folder import Run, State, runs_dir
from gpt2demo.training import jobs, resume
from gpt2demo.ui import models
from gpt2demo.ui.watch import RunWatcher

posix = pytest.mark.skipif(os.name == "nt", reason="needs named pipes and devices")
DEEP = "[" * 100_000 + "]" * 100_000
WRONG: list[Any] = [None, True, -1, 1.5, 10**400, "x", "", [], [1], [None], {}, {"a": None}, [[{}]]]
"""Values of any type, to replace those in a file."""


@pytest.fixture
def damaged(run_copy: Run, tmp_path: Path) -> Run:
    """A copy of the run `mine`, to be damaged."""
    return Run(Path(shutil.copytree(run_copy.path, run_copy.path.with_name("damaged"))))


def read_everything(run: Run) -> str:
    """List the runs, and read `run` like the web page; return its status in the list."""
    rows = {row["name"]: row for row in map(summary, list_runs())}
    assert rows["mine"]["status"] == "finished"
    assert {label for label, _ in models.choices()} >= {"mine"}
    assert jobs.running() is None
    watcher = RunWatcher(run)
    watcher.read()
    watcher.progress(None)
    status = str(rows[run.name]["status"])
    assert "\n" not in status
    return status


def one_line(action: Callable[[], object]) -> str | None:
    """Return the message of the Error that an action raises, or None; any other exception fails the test."""
    try:
        action()
    except Error as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
        return str(error)
    return None


def resume_one_step(run: Run) -> None:
    events = resume(str(run.path), steps=13)
    try:
        for _ in events:
            pass
    finally:
        events.close()  # type: ignore[attr-defined]


def changed(value: Any, rng: random.Random) -> Any:
    """Return a JSON value in which one value, at any depth, is replaced or removed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: value[name] for name in value if name != key}
        return {**value, key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        return [*value[:index], changed(value[index], rng), *value[index + 1 :]]
    return rng.choice(WRONG)


def change_json(file: Path, rng: random.Random) -> None:
    file.write_text(json.dumps(changed(json.loads(file.read_text(encoding="utf-8")), rng)), encoding="utf-8")


# ---------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize("pid", ["x", -1, 1.5, [1], 10**30, None, True])
def test_an_invalid_state_is_damaged(damaged: Run, pid: object) -> None:
    file = damaged.path / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "status": "running", "pid": pid}))
    assert read_everything(damaged).startswith(f"damaged: {file}: is damaged (pid")
    assert damaged.state().status == "failed"
    assert "pid" in str(damaged.state().error)


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "split": "validation"}',
        '{"step": 1, "split": "batch", "loss": "low"}',
        '{"step": "1", "split": "batch", "loss": 1.0}',
        '{"step": 1, "split": "batch", "loss": 1e999}',
        '{"step": 1, "split": "batch", "loss": NaN}',
        '{"step": 1, "split": "batch", "loss": 1.0, "tokens_per_second": null}',
        DEEP,
        '{"step": 1, "split": "batch", "loss": ' + DEEP + "}",
        "[1]",
        "\\",
        "\x00" * 100,
    ],
    ids=range(11),
)
def test_an_invalid_record_is_damaged_and_skipped_by_the_page(damaged: Run, line: str) -> None:
    whole = len(damaged.records(damaged.metrics)[0])
    damaged.metrics.write_text(damaged.metrics.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert read_everything(damaged).startswith(f"damaged: {damaged.metrics}: line {whole + 1} is damaged (")
    assert len(damaged.records(damaged.metrics)[0]) == whole
    resume_one_step(damaged)
    assert read_everything(damaged) == "finished"


def test_a_line_that_a_crash_left_incomplete_is_not_damage(damaged: Run) -> None:
    with damaged.metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 12, "spl')
    assert read_everything(damaged) == "finished"


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"data": [None]}, "data.0"),
        ({"data": "x"}, "data"),
        ({"tokenizer": [1]}, "tokenizer"),
        ({"tokenizer": {"name": 5}}, "tokenizer.name"),
        ({"parameters": "many"}, "parameters"),
        ({"created": {}}, "created"),
        ({"format": [DEEP]}, "run format"),
    ],
)
def test_an_invalid_run_json_is_damaged(damaged: Run, info: dict[str, Any], reason: str) -> None:
    file = damaged.path / "run.json"
    file.write_text(json.dumps({**damaged.info(), **info}), encoding="utf-8")
    status = read_everything(damaged)
    assert status.startswith("damaged: ")
    assert reason in status
    assert len(status) < 500


def replace_with_pipe(file: Path) -> None:
    os.mkfifo(file)


def replace_with_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


@posix
@pytest.mark.timeout(60)
@pytest.mark.parametrize("replace", [replace_with_pipe, replace_with_device, Path.mkdir])
@pytest.mark.parametrize("name", ["state.json", "metrics.jsonl", "samples.jsonl"])
def test_a_file_of_another_kind_is_damage_and_blocks_nothing(damaged: Run, name: str, replace: Callable[[Path], None]) -> None:
    (damaged.path / name).unlink()
    replace(damaged.path / name)
    assert read_everything(damaged).startswith(f"damaged: {damaged.path / name}: cannot be read (")
    message = one_line(lambda: resume_one_step(damaged))
    assert message is None or f"{name}: could not be written" in message


@posix
@pytest.mark.timeout(60)
@pytest.mark.parametrize("replace", [replace_with_pipe, replace_with_device, Path.mkdir])
@pytest.mark.parametrize("name", ["run.json", "data/data.json", "data/train.npy", "tokenizer/plugin.json", "tokenizer/other"])
def test_resuming_a_run_with_a_file_of_another_kind_fails(damaged: Run, name: str, replace: Callable[[Path], None]) -> None:
    (damaged.path / name).unlink(missing_ok=True)
    replace(damaged.path / name)
    message = one_line(lambda: resume_one_step(damaged))
    if name == "run.json":
        assert "unknown run" in str(message)
        assert [run.name for run in list_runs()] == ["mine"]
    elif replace is not Path.mkdir or name != "tokenizer/other":
        assert str(damaged.path / name) in str(message)


def test_a_sparse_or_endless_line_is_refused(damaged: Run) -> None:
    with damaged.metrics.open("wb") as file:
        file.truncate(2**40)
    assert "longer than 16 MiB" in read_everything(damaged)


def test_long_metrics_are_read_in_parts(damaged: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2demo.runs.folder.RECORDS_LIMIT", 3)
    expected, offset = list(damaged.checked_records(damaged.metrics)), 0
    found: list[dict[str, Any]] = []
    while (part := damaged.records(damaged.metrics, offset))[1] > offset:
        assert len(part[0]) <= 3
        found, offset = found + part[0], part[1]
    assert found == expected


@pytest.mark.parametrize("content", ["[]", "{}", '{"run": "../x", "pid": 1, "pid_started": 0}', '{"run": 5, "pid": "x"}', DEEP])
def test_an_invalid_job_is_no_job(content: str) -> None:
    jobs.jobs_dir().mkdir(parents=True)
    (jobs.jobs_dir() / "job.json").write_text(content, encoding="utf-8")
    assert jobs.last() is None
    assert jobs.running() is None


@pytest.mark.parametrize("trials", [40, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("name", ["state.json", "run.json", "metrics.jsonl", "samples.jsonl"])
def test_any_change_of_a_value_affects_no_other_run(damaged: Run, trial: Trials, name: str, trials: int) -> None:
    rng, file = random.Random(name), damaged.path / name
    original = file.read_text(encoding="utf-8")
    lines = [original] if name.endswith(".json") else original.splitlines()
    for number in range(trials):
        with trial(number):
            index = rng.randrange(len(lines))
            replaced = json.dumps(changed(json.loads(lines[index]), rng))
            file.write_text("\n".join([*lines[:index], replaced, *lines[index + 1 :]]) + "\n", encoding="utf-8")
            read_everything(damaged)


def test_the_command_lists_a_damaged_run_with_the_reason(damaged: Run, invoke: Cli) -> None:
    (damaged.path / "state.json").write_text("{}", encoding="utf-8")
    rows = {row["name"]: row for row in json.loads(invoke("runs", "--json").stdout)}
    assert rows["mine"]["status"] == "finished"
    assert rows["damaged"]["status"].startswith("damaged: ")
    assert "field required" in rows["damaged"]["status"]


# ---------------------------------------------------------------------------------------------- resuming


def write_manifest(run: Run) -> Path:
    """Return the newest checkpoint, after adapting its manifest to the changed files."""
    path = max(run.checkpoints.glob("step-*"))
    (path / "manifest.json").unlink(missing_ok=True)
    checkpoint.write_manifest(path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trials", [8, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("name", ["run.json", "data/data.json", "tokenizer/plugin.json", "trainer.json", "config.json"])
def test_resuming_after_any_change_of_a_value_works_or_fails_with_one_line(
    damaged: Run, trial: Trials, name: str, trials: int
) -> None:
    rng = random.Random(name)
    whole = damaged.path.with_name(".whole")
    shutil.move(damaged.path, whole)
    for number in range(trials):
        with trial(number):
            shutil.rmtree(damaged.path, ignore_errors=True)
            shutil.copytree(whole, damaged.path)
            in_checkpoint = name in ("trainer.json", "config.json")
            change_json((max(damaged.checkpoints.glob("step-*")) if in_checkpoint else damaged.path) / name, rng)
            write_manifest(damaged)
            one_line(lambda: resume_one_step(damaged))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": None}, "model is missing"),
        ({"train": None}, "train is missing"),
        ({"train": {"steps": "many"}}, "train: steps="),
        ({"train": {"steps": 3, "cls": 1}}, "train: cls: unknown setting"),
        ({"model": {"n_layer": -1}}, "model: n_layer="),
        ({"model": {"vocab_size": 256, "n_positions": 32, "n_embd": 64, "n_head": 2, "n_layer": 2}}, "has n_embd=64, but"),
    ],
)
def test_invalid_settings_in_run_json_are_named(damaged: Run, change: dict[str, Any], reason: str) -> None:
    damaged.write_info({**damaged.info(), **change})
    with pytest.raises(RunError) as raised:
        next(resume(str(damaged.path), steps=14))
    assert f"{damaged.path}/run.json" in str(raised.value)
    assert reason in str(raised.value)


@pytest.mark.parametrize("name", ["stop", ".lock"])
def test_a_folder_in_place_of_a_file_is_named(damaged: Run, name: str) -> None:
    (damaged.path / name).unlink(missing_ok=True)
    (damaged.path / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"damaged/{name}: could not be (removed|written) \(Is a directory\)"):
        next(resume(str(damaged.path), steps=14))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_ids_beyond_the_vocabulary_are_refused(damaged: Run, split: str) -> None:
    file = damaged.data / f"{split}.npy"
    np.save(file, np.full_like(np.load(file), 300))
    with pytest.raises(Error, match="id 300 is beyond the vocabulary of 256"):
        resume_one_step(damaged)


@pytest.mark.parametrize("trials", [50, pytest.param(3000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_ids_with_a_damaged_header_work_or_are_refused(damaged: Run, trial: Trials, trials: int) -> None:
    from gpt2demo.data.tokens import load_ids

    rng, file = random.Random(0), damaged.data / "train.npy"
    original = file.read_bytes()
    for number in range(trials):
        with trial(number):
            raw = bytearray(original)
            for _ in range(rng.randint(1, 4)):
                raw[rng.randrange(128)] = rng.choice([rng.randrange(256), *b"0129,()'{}- \x00"])
            file.write_bytes(raw)
            one_line(lambda: load_ids(damaged.data, "train"))


def test_an_interrupt_does_not_delete_a_run_whose_state_is_missing(damaged: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt2demo.training.loop import Training

    def interrupt(training: Training) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "_restore", interrupt)
    (damaged.path / "state.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        next(resume(str(damaged.path), steps=14))
    assert checkpoint.newest(damaged.checkpoints).step == 12


# ---------------------------------------------------------------------------------------------- leftovers


def test_resuming_removes_the_leftovers_of_a_killed_process(run_copy: Run) -> None:
    """The process was killed after its last checkpoint and before it wrote that the run has finished."""
    run_copy.write_state(State("running", 2**22 - 1, 1.0, 12, 12))
    for name in (".tmp-state.json-4194303", ".tmp-state.json-4194303-0123abcd"):
        (run_copy.path / name).write_text("{")
    with pytest.raises(RunError, match="has done all its 12 steps"):
        next(resume("mine"))
    assert run_copy.state().status == "finished"
    assert not list(run_copy.path.glob(".tmp-*"))
    assert [run.name for run in list_runs()] == ["mine"]
    assert [path.name for path in runs_dir().iterdir()] == ["mine"]
