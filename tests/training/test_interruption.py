"""Nothing is lost: a process killed while it saves, disks that refuse, files that rot, two writers, numbers that blow up.

The short form runs with everything else; `pytest -m slow tests/test_reliability.py` runs the full numbers.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import SMALL

import gpt2demo
from gpt2demo.config import ModelConfig, TrainConfig
from gpt2demo.errors import CheckpointError, Error, RunError, TrainingError
from gpt2demo.model import GPT2
from gpt2demo.runs import checkpoint, weights
from gpt2demo.runs.find import find_run
from gpt2demo.runs.folder import Run, State
from gpt2demo.tokenization.byte import ByteTokenizer
from gpt2demo.training.events import Step
from gpt2demo.training.loop import Training
from gpt2demo.training.optimizers import adamw
from gpt2demo.training.train import resume
from gpt2demo.training.verify_resume import check_resume

slow = pytest.mark.slow
posix = pytest.mark.skipif(os.name == "nt", reason="needs fork and signals")


def short_and_full(short: int, full: int) -> pytest.MarkDecorator:
    """A number of trials: a few always, all of them under `-m slow`."""
    return pytest.mark.parametrize("trials", [short, pytest.param(full, marks=[slow, pytest.mark.timeout(3600)])])


class Saver:
    """Something to save: a model with optimizer state, and the folder to save it in."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.tokenizer = folder / "checkpoints", folder / "tokenizer"
        self.model = GPT2(ModelConfig(n_embd=width, n_layer=2))
        self.optimizer = adamw(self.model, TrainConfig(steps=1))
        self.model(torch.arange(8)[None]).sum().backward()
        self.optimizer.step()
        checkpoint.save_tokenizer(ByteTokenizer(), "byte", self.tokenizer)

    def save(self, step: int) -> None:
        progress = {"step": step, "validation_loss": float(step)}
        weights.save(self.folder, self.model, self.tokenizer, self.optimizer, progress)
        checkpoint.prune(self.folder, 1)

    def newest(self) -> int:
        """The newest whole checkpoint's step, after the clean-up of the next start."""
        checkpoint.clean(self.folder)
        assert not [path.name for path in self.folder.iterdir() if path.name.startswith(".tmp-")]
        found = checkpoint.newest(self.folder)
        weights.load_model(found.path)
        weights.load_trainer(found.path)
        return found.step


@posix
@short_and_full(12, 200)
def test_killed_at_a_random_moment_while_saving(tmp_path: Path, trials: int) -> None:
    """Always the newest step that was reported as saved, or a newer one, loads."""
    torch.set_num_threads(1)
    saver, rng, torn = Saver(tmp_path, 512 if trials > 100 else 64), random.Random(0), 0
    saver.save(1)
    for _ in range(trials):
        start, (reader, writer) = saver.newest(), os.pipe()
        if not (pid := os.fork()):
            for step in range(start + 1, start + 10_000):
                saver.save(step)
                os.write(writer, step.to_bytes(4, "big"))
        os.close(writer)
        time.sleep(rng.uniform(0.0, 0.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        reported = os.read(reader, 10**6)
        os.close(reader)
        torn += any(path.name.startswith(".tmp-") or not (path / "manifest.json").exists() for path in saver.folder.iterdir())
        assert saver.newest() >= (int.from_bytes(reported[-4:], "big") if reported else start)
    assert torn, "no trial hit the middle of a save: the test proves nothing"


CALLS = ("fsync", "rename", "unlink", "mkdir", "open", "rmdir", "replace")


class Fault:
    """Makes the n-th of some calls of the os module fail, or kill the process, and counts them all."""

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self.count, self.at, self.action = 0, at, action

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                self.action()
            return original(*args, **kwargs)

        return call


def calls_of_a_save(tmp_path: Path, patch: pytest.MonkeyPatch) -> int:
    """How many such calls a save with a prune makes."""
    saver = Saver(tmp_path / "count", 16)
    saver.save(1)
    with patch.context() as inner:
        (fault := Fault(-1, lambda: None)).install(inner)
        saver.save(2)
    return fault.count


@posix
def test_killed_exactly_at_each_system_call_of_save_and_prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    (tmp_path / "count").mkdir()
    total = calls_of_a_save(tmp_path, monkeypatch)
    assert total > 20
    for at in range(1, total + 1):
        folder = tmp_path / str(at)
        folder.mkdir()
        saver = Saver(folder, 16)
        saver.save(1)
        if not (pid := os.fork()):
            with pytest.MonkeyPatch.context() as patch:
                Fault(at, lambda: os.kill(os.getpid(), signal.SIGKILL)).install(patch)
                saver.save(2)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        assert saver.newest() in (1, 2)
        saver.save(3)
        assert saver.newest() == 3


@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EROFS", "EDQUOT", "EMFILE", "EACCES"])
def test_an_error_at_each_system_call_leaves_the_old_checkpoint_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (tmp_path / "count").mkdir()
    number = getattr(errno, code)

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    for at in range(1, calls_of_a_save(tmp_path, monkeypatch) + 1, 1 if code == "ENOSPC" else 5):
        folder = tmp_path / str(at)
        folder.mkdir()
        saver = Saver(folder, 16)
        saver.save(1)
        with monkeypatch.context() as patch:
            Fault(at, refuse).install(patch)
            try:
                saver.save(2)
            except CheckpointError as error:
                assert os.strerror(number) in str(error)
                assert "\n" not in str(error)
        assert saver.newest() in (1, 2)
        saver.save(3)
        assert saver.newest() == 3


STRACE = shutil.which("strace")
CHILD = """
import sys; from pathlib import Path; sys.path.insert(0, {tests!r}); import torch; torch.set_num_threads(1)
from test_reliability import Saver
saver = Saver(Path({folder!r}), 64); saver.save(1); print("ready", flush=True)
try: saver.save(2)
except Exception as error: print(type(error).__name__, error, flush=True)
"""


@slow
@pytest.mark.skipif(not STRACE, reason="needs strace")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("action", ["signal=SIGKILL", "error=ENOSPC", "error=EIO"])
@pytest.mark.parametrize("call", ["fsync", "rename", "write", "unlinkat,unlink,rmdir"])
def test_faults_injected_below_python(tmp_path: Path, call: str, action: str) -> None:
    """The same with strace: no layer of ours or of a library's may be clever about it. `when` counts over the whole process."""
    for when in [1, 2, 3, 5, 8, 12, 17, 23]:
        folder = tmp_path / str(when)
        folder.mkdir()
        code = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder))
        target = ["-P", str(folder)] if call == "write" else []
        words = [
            STRACE,
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            *target,
            "-e",
            f"inject={call}:{action}:when={when}",
            sys.executable,
            "-c",
            code,
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)  # type: ignore[arg-type]
        checkpoints = folder / "checkpoints"
        if "ready" in done.stdout:
            checkpoint.clean(checkpoints)
            assert checkpoint.newest(checkpoints).step in (1, 2)
        assert "Traceback" not in done.stdout


@posix
@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount a small disk")
def test_a_disk_that_is_really_full(tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(disk))
        events = gpt2demo.train(text_file, run="a", save_every=2, keep=1, **{**SMALL, "n_embd": 64})
        with pytest.raises(CheckpointError, match=r"bytes are needed and [\d,]+ are free|No space left"):
            for event in events:
                if isinstance(event, Step) and event.step == 5:
                    (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096))
        assert checkpoint.newest(find_run("a").checkpoints).step == 4
        (disk / "ballast").unlink()
        resumed = [event for event in resume("a") if isinstance(event, Step)]
        assert [event.step for event in resumed] == list(range(5, 13))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(tmp_path / "runs"))
    straight = [event for event in gpt2demo.train(text_file, run="b", **{**SMALL, "n_embd": 64}) if isinstance(event, Step)]
    assert [event.loss for event in resumed] == [event.loss for event in straight[4:]], "after the repair it goes on exactly"


@posix
@short_and_full(4, 40)
def test_signals_at_random_steps_leave_a_checkpoint(text_file: Path, tmp_path: Path, trials: int) -> None:
    """Once: a checkpoint and 128 + signal within 10 seconds. Twice in a row: at once, and nothing is torn."""
    rng = random.Random(1)
    words = "--tokenizer byte --n-layer 1 --n-head 1 --n-embd 16 --n-positions 16 --batch-size 2 --steps 1000000 --eval-batches 1 --sample-tokens 0".split()
    for trial in range(trials):
        name = f"r{trial}"
        number, twice = rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]), trial % 4 == 3
        process = subprocess.Popen(
            [sys.executable, "-m", "gpt2demo", "train", str(text_file), "--run", name, "--save-every", "50", *words],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        metrics = tmp_path / "runs" / name / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"batch") > 60, process)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGINT if twice else number)
        if twice:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 128 + (signal.SIGINT if twice else number)
        state = find_run(name).state()
        assert state.status == "interrupted"
        newest = checkpoint.newest(find_run(name).checkpoints).step
        assert newest == state.step or twice


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@posix
def test_a_killed_training_is_interrupted_and_resumes_exactly(text_file: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "steps": 60, "save_every": 10, "threads": 1}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2demo", "train", str(text_file), "--run", "killed", *words],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: len(list((tmp_path / "runs" / "killed" / "checkpoints").glob("step-*/manifest.json"))) >= 1, process)
    process.kill()
    process.wait()
    assert find_run("killed").state().status == "interrupted"
    resumed = [event for event in resume("killed") if isinstance(event, Step)]
    straight = [event for event in gpt2demo.train(text_file, run="straight", **settings) if isinstance(event, Step)]
    assert resumed
    assert [(e.step, e.loss) for e in resumed] == [(e.step, e.loss) for e in straight[-len(resumed) :]]
    logged = [json.loads(line) for line in find_run("killed").metrics.read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in logged if record["split"] == "batch"] == list(range(1, 61)), "no step is lost or twice"


# ---------------------------------------------------------------------------------------------- rot


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to damage copies of."""
    saver = Saver(tmp_path_factory.mktemp("whole"), 16)
    saver.save(1)
    saver.save(2)
    return saver.folder


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Do one kind of harm to one file of a checkpoint."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
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
@pytest.mark.parametrize("form", ["short", pytest.param("full", marks=slow)])
def test_rot_is_noticed_before_use(whole: Path, tmp_path: Path, kind: str, full: int, form: str) -> None:
    rng = random.Random(kind)
    for number in range(full if form == "full" else 20):
        path = shutil.copytree(whole / "step-00000002", tmp_path / str(number) / "step-00000002")
        before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
        damage(path, kind, rng)
        same = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
        if same:
            continue
        try:
            checkpoint.verify(path)
        except CheckpointError as error:
            assert "\n" not in str(error)
            continue
        # A flip inside the manifest itself may change nothing that it says: white space, or the case of a digit.
        manifest = path / "manifest.json"
        assert manifest.read_bytes() != before[manifest]
        assert all(file.read_bytes() == raw for file, raw in before.items() if file != manifest)


def test_a_resume_falls_back_to_the_previous_whole_checkpoint_with_a_warning(text_file: Path) -> None:
    list(gpt2demo.train(text_file, run="a", save_every=3, **SMALL))
    newest = checkpoint.newest(find_run("a").checkpoints)
    file = newest.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        gpt2demo.load(newest.path)
    with pytest.warns(UserWarning, match="passed over"):
        steps = [event.step for event in resume("a") if isinstance(event, Step)]
    assert steps == list(range(steps[0], 13))
    assert steps[0] <= 10
    assert checkpoint.newest(find_run("a").checkpoints).step == 12, "the damaged one was replaced"


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "x.pkl"])
def test_a_pickle_is_refused_by_name(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    (tmp_path / name).write_bytes(b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    with pytest.raises(Error, match=name.replace(".", r"\.")):
        gpt2demo.load(tmp_path / name)
    assert not canary.exists()


# ---------------------------------------------------------------------------------------------- writers, numbers


def test_the_lock_of_a_dead_owner_is_free(text_file: Path) -> None:
    list(gpt2demo.train(text_file, run="a", **SMALL))
    run = find_run("a")
    run.write_state(State("running", 2**22 - 1, 1.0, 3, 12))
    assert run.state().status == "interrupted"
    assert [event.step for event in resume("a", steps=14) if isinstance(event, Step)] == [13, 14]


def test_another_process_with_the_same_number_is_not_the_owner() -> None:
    mine = State.own("running")
    assert mine.alive
    assert not State("running", mine.pid, mine.pid_started - 100).alive


def test_two_processes_cannot_train_one_run(text_file: Path, tmp_path: Path) -> None:
    events = gpt2demo.train(text_file, run="a", **SMALL)
    next(events)
    other = subprocess.run([sys.executable, "-m", "gpt2demo", "resume", "a"], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert f"process {os.getpid()} is training it" in other.stderr
    events.close()


@pytest.mark.parametrize("poison", ["loss", "gradient", "weight"])
def test_poisoned_numbers_stop_before_the_update(text_file: Path, poison: str) -> None:
    events = gpt2demo.train(text_file, run="a", save_every=2, **SMALL)
    with pytest.raises(TrainingError, match="step [45]: .*--learning-rate"):
        for event in events:
            if isinstance(event, Step) and event.step == 4:
                inject(events, poison)
    newest = checkpoint.newest(find_run("a").checkpoints)
    assert newest.step == (2 if poison == "weight" else 4), "the last one that was whole"
    assert all(torch.isfinite(tensor).all() for tensor in weights.load_model(newest.path).state_dict().values())


def inject(events: Iterator[Any], poison: str) -> None:
    """Put a NaN into the running training."""
    training = events.gi_yieldfrom.gi_frame.f_locals["training"]  # type: ignore[attr-defined]
    parameter = training.model.h[0].attn.c_attn.weight
    if poison == "weight":
        parameter.data[0, 0] = float("nan")
    elif poison == "gradient":
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    else:
        training._forward = lambda ids: training.model(ids) * float("nan")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_out_of_memory_names_the_sizes_and_what_would_fit(
    text_file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr(Training, "_advance", fail)
    with pytest.raises(
        TrainingError, match="8 sequences of 32 positions and .* parameters; try --batch-size 4 --grad-accumulation 2"
    ):
        list(gpt2demo.train(text_file, run="a", **SMALL))


# ---------------------------------------------------------------------------------------------- exactness


def prepared(text_file: Path) -> Run:
    """A run with dropout that has not been trained."""
    events = gpt2demo.train(text_file, run="a", check=stop_here, **{**SMALL, "dropout": 0.2, "threads": 1})
    with pytest.raises(InterruptedError):
        next(events)
    return find_run("a")


def stop_here(run: Run) -> None:
    raise InterruptedError


def test_verify_resume_says_that_it_is_exact(text_file: Path) -> None:
    lines: list[str] = []
    run = prepared(text_file)
    check_resume(run, lines.append)
    assert lines[0].startswith("resume is exact")
    assert sorted(path.name for path in run.path.parent.iterdir()) == ["a"]


MUTATIONS = {
    "weights": lambda path: damage_tensor(path / "model.safetensors", 0.0),
    "optimizer state": lambda path: damage_tensor(path / "trainer.safetensors", 0.0),
    "one bit of a weight": lambda path: damage_tensor(path / "model.safetensors", 1 + 2**-23),
}


def damage_tensor(file: Path, factor: float) -> None:
    """Multiply the largest tensor of a file."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = max(tensors, key=lambda key: tensors[key].numel())
    save_file({**tensors, name: tensors[name] * factor}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("lost", [*MUTATIONS, "step", "data order", "dropout's random numbers"])
def test_the_check_turns_red_for_each_piece_that_is_lost(text_file: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """A check of exactness that cannot fail would be worth nothing."""
    run, original = prepared(text_file), Training._restore

    def restore(self: Training) -> None:
        newest = max(self.run.checkpoints.glob("step-*"), default=None)
        if newest and lost in MUTATIONS:
            MUTATIONS[lost](newest)
            (newest / "manifest.json").unlink()
            checkpoint.write_manifest(newest)
        original(self)
        if newest and lost == "step":
            self.step -= 1
        if newest and lost == "data order":
            self.train_windows._seed += 1
        if newest and lost == "dropout's random numbers":
            self.config = self.config.with_changes(seed=self.config.seed + 1)

    monkeypatch.setattr(Training, "_restore", restore)
    with pytest.raises(TrainingError, match="resume is not exact"):
        check_resume(run, lambda line: None)


def test_a_change_of_surroundings_is_a_warning(text_file: Path) -> None:
    list(gpt2demo.train(text_file, run="a", **{**SMALL, "threads": 1}))
    run = find_run("a")
    info = run.info()
    run.write_info(
        {**info, "train": {**info["train"], "threads": 2, "dtype": "fp32" if info["train"]["dtype"] == "bf16" else "bf16"}}
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(resume("a", steps=14))
    torch.set_num_threads(1)
    said = " ".join(str(warning.message) for warning in caught)
    assert "threads was 1, is 2" in said


def test_a_newer_run_format_is_named(text_file: Path) -> None:
    list(gpt2demo.train(text_file, run="a", **SMALL))
    path = find_run("a").path / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"format": 1', '"format": 7'), encoding="utf-8")
    with pytest.raises(RunError, match="format 7, this program reads 1"):
        list(resume("a"))
