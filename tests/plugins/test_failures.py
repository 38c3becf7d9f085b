"""Failures of plugins: every call that raises or returns another type names package, part, hook, call and cause."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from battery import Trials
from installing import install
from samples import SMALL_OPTIONS, Cli, assert_one_line_error, train_small

from gpt2demo import plugins
from gpt2demo.config import TrainConfig
from gpt2demo.errors import Error, Interrupted, PluginFailure, SettingError, Terminated, TokenizerError
from gpt2demo.export.export import export_model
from gpt2demo.runs.checkpoint import load_tokenizer, save_tokenizer
from gpt2demo.runs.folder import Run
from gpt2demo.sampling.chains import create_chain
from gpt2demo.sampling.draw import ChainRunner, Uniforms
from gpt2demo.terminal import exit_on_signal

FAULTY = """
from torch.optim import SGD
from gpt2demo import hookimpl
from gpt2demo.interfaces import Dataset, Sampler
from gpt2demo.tokenization.byte import ByteTokenizer

faults = {}

def run(call, work):
    return faults[call]() if call in faults else work()

class FaultySampler(Sampler):
    def model_post_init(self, context):
        run("samplers.__init__", lambda: None)

    def __call__(self, logits, context):
        return run("samplers.__call__", lambda: logits)

    def observe(self, ids, context):
        run("samplers.observe", lambda: None)

class FaultyTokenizer(ByteTokenizer):
    @property
    def vocab_size(self):
        return run("tokenizers.vocab_size", lambda: 256)

    @classmethod
    def train(cls, texts):
        return run("tokenizers.train", cls)

    @classmethod
    def load(cls, folder):
        return run("tokenizers.load", cls)

    def encode(self, text):
        return run("tokenizers.encode", lambda: list(text.encode()))

    def encode_array(self, text):
        return run("tokenizers.encode_array", lambda: ByteTokenizer.encode_array(self, text))

    def cut(self, text, start):
        return run("tokenizers.cut", lambda: start)

    def decode(self, ids):
        return run("tokenizers.decode", lambda: bytes(ids).decode(errors="replace"))

    def save(self, folder):
        run("tokenizers.save", lambda: None)

class FaultyOptimizer(SGD):
    def step(self):
        run("optimizers.step", lambda: SGD.step(self))

    def state_dict(self):
        return run("optimizers.state_dict", lambda: SGD.state_dict(self))

class FaultyExporter:
    summary = "faulty"
    dtypes = ("fp32",)

    def __init__(self):
        run("exporters.__init__", lambda: None)

    def export(self, checkpoint, folder, *, dtype, report):
        run("exporters.export", lambda: None)

class FaultyDataset(Dataset):
    summary = "faulty"

    def documents(self):
        return run("datasets.documents", lambda: iter(["a document"] * 20))

@hookimpl
def gpt2demo_samplers():
    return {"faulty": FaultySampler}

@hookimpl
def gpt2demo_tokenizers():
    return {"faulty": FaultyTokenizer}

@hookimpl
def gpt2demo_optimizers():
    factory = lambda model, config: run("optimizers.the factory", lambda: FaultyOptimizer(model.parameters(), lr=0.1))
    return {"faulty": factory}

@hookimpl
def gpt2demo_schedules():
    return {"faulty": lambda step, total_steps, config: run("schedules.__call__", lambda: 1 - step / total_steps)}

@hookimpl
def gpt2demo_exporters():
    return {"faulty": FaultyExporter}

@hookimpl
def gpt2demo_datasets():
    return {"faulty": FaultyDataset}

@hookimpl
def gpt2demo_training_event(event):
    run("event", lambda: None)
"""


class Base(BaseException):
    """Not an Exception."""


class OddError(Exception):
    """Its message cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("again")


RAISED: dict[str, tuple[BaseException, str]] = {
    "ValueError": (ValueError("two\nlines"), "ValueError: two lines"),
    "KeyError": (KeyError("x"), "KeyError: 'x'"),
    "StopIteration": (StopIteration(), "StopIteration"),
    "MemoryError": (MemoryError(), "MemoryError: out of memory; close other programs, or use a smaller model, batch or text"),
    "sys.exit()": (SystemExit(), "SystemExit"),
    "sys.exit(0)": (SystemExit(0), "SystemExit: 0"),
    "BaseException": (Base("b"), "Base: b"),
    "message raises": (OddError(), "OddError: its message raises RuntimeError"),
}


@pytest.fixture
def faults(site: Path, fresh_plugins: None) -> dict[str, Callable[[], Any]]:
    """Install a plugin with a part `faulty` of every kind, and return its faults by call. Without a fault it works."""
    install(site, "faulty", FAULTY)
    assert "gpt2demo-faulty" in [plugin.distribution for plugin in plugins.registry().plugins if plugin.status == "loaded"]
    found: dict[str, Callable[[], Any]] = sys.modules["gpt2demo_faulty"].faults
    return found


def draw() -> None:
    """Draw a token with the sampler."""
    runner = ChainRunner(create_chain(["temperature", "faulty"]), Uniforms(0), prompt_length=1)
    runner.draw(np.zeros((1, 5), np.float32), np.zeros((1, 1), np.int64), [0])


def tokenize(folder: Path) -> None:
    """Train, save, load and use the tokenizer."""
    folder.mkdir(exist_ok=True)
    save_tokenizer(plugins.train_tokenizer("faulty", ["text"], {}), "faulty", folder)
    tokenizer: Any = load_tokenizer(folder)[0]
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"
    assert tokenizer.encode_array("ab").tolist() == [97, 98]
    assert tokenizer.cut("ab", 1) == 1


def optimize() -> None:
    """Create the optimizer, update a model and return the state."""
    model = torch.nn.Linear(2, 1)
    optimizer = plugins.create_optimizer("faulty", model, TrainConfig(steps=1))
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.fixture
def use(tmp_path: Path, tiny_checkpoint: Path) -> Callable[[str], None]:
    """Use the part of a kind completely."""
    uses: dict[str, Callable[[], object]] = {
        "samplers": draw,
        "tokenizers": lambda: tokenize(tmp_path / "tokenizer"),
        "optimizers": optimize,
        "schedules": lambda: plugins.schedule_factor("faulty", 3, 10, TrainConfig(steps=10)),
        "exporters": lambda: export_model(tiny_checkpoint, "faulty", tmp_path / "export", report=lambda line: None),
        "datasets": lambda: list(plugins.documents("faulty")),
    }
    return lambda kind: (uses[kind](), None)[1]


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """Handle Ctrl-C like the command line."""
    before = signal.signal(signal.SIGINT, exit_on_signal)
    yield
    signal.signal(signal.SIGINT, before)


def fail(error: BaseException) -> Callable[[], Any]:
    """Return a function that raises an exception."""

    def raising() -> None:
        raise error

    return raising


CALLS = [
    *(
        "samplers.__init__",
        "samplers.__call__",
        "samplers.observe",
        "datasets.documents",
        "exporters.__init__",
        "exporters.export",
    ),
    *("tokenizers.train", "tokenizers.save", "tokenizers.load", "tokenizers.encode", "tokenizers.encode_array"),
    *(
        "tokenizers.cut",
        "tokenizers.decode",
        "tokenizers.vocab_size",
        "optimizers.the factory",
        "optimizers.step",
        "optimizers.state_dict",
    ),
    "schedules.__call__",
]


@pytest.mark.parametrize(("error", "words"), RAISED.values(), ids=RAISED)
@pytest.mark.parametrize("call", CALLS)
def test_an_exception_names_package_part_hook_and_call(
    faults: dict[str, Any], use: Callable[[str], None], call: str, error: BaseException, words: str
) -> None:
    if call == "samplers.__init__" and isinstance(error, ValueError):
        pytest.skip("a ValueError of a validator is an invalid option")
    kind, _, method = call.partition(".")
    faults[call] = fail(error)
    with pytest.raises(PluginFailure) as caught:
        use(kind)
    part = f"{kind[:-1]} 'faulty' (gpt2demo-faulty 1.5, hook gpt2demo_{kind}): {method}()"
    assert str(caught.value) == f"{part} raised {words}"
    assert caught.value.__cause__ is error


RESULTS = {
    "samplers.__call__": [None, "text", [0.0], np.zeros((1, 5), np.float32), torch.zeros(5), torch.zeros(1, 5).double()],
    "datasets.documents": [None, "text", 7, [b"bytes"], [None], ["\ud800"]],
    "tokenizers.train": [None, "text", np.zeros(1)],
    "tokenizers.load": [None, "text"],
    "tokenizers.encode": [None, "ab", (97,), np.array([97]), [97.0], [np.int64(97)], ["a"], [True], [256], [-1]],
    "tokenizers.encode_array": [None, [97], np.array([97.0]), np.array([[97]]), np.array([256])],
    "tokenizers.cut": ["1", 0, 99, True],
    "tokenizers.decode": [None, b"ab", ["a"], np.str_("a")],
    "tokenizers.vocab_size": [None, "256", 256.0, np.int64(256), 0, True],
    "optimizers.the factory": [None, "adam", object],
    "optimizers.state_dict": [None, "text", {}, {"state": {0: {"x": {1}}}, "param_groups": []}],
    "schedules.__call__": [None, "1", [1.0], True, float("nan"), float("inf"), -0.5, torch.ones(())],
}


@pytest.mark.parametrize(
    ("call", "result"), [(call, result) for call, results in RESULTS.items() for result in results], ids=repr
)
def test_a_wrong_result_names_package_part_hook_and_call(
    faults: dict[str, Any], use: Callable[[str], None], call: str, result: object
) -> None:
    kind, _, method = call.partition(".")
    faults[call] = lambda: result
    with pytest.raises(PluginFailure) as caught:
        use(kind)
    assert str(caught.value).startswith(f"{kind[:-1]} 'faulty' (gpt2demo-faulty 1.5, hook gpt2demo_{kind}): {method}() ")
    assert "raised" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["samplers", "tokenizers", "optimizers", "schedules", "exporters", "datasets"])
def test_a_plugin_without_faults_works(faults: dict[str, Any], use: Callable[[str], None], kind: str) -> None:
    use(kind)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted(), Terminated(143)], ids=repr)
@pytest.mark.parametrize("call", CALLS)
def test_a_signal_in_a_plugin_ends_the_program(
    faults: dict[str, Any], use: Callable[[str], None], call: str, error: BaseException
) -> None:
    faults[call] = fail(error)
    with pytest.raises(type(error)):
        use(call.partition(".")[0])


@pytest.mark.parametrize("call", CALLS)
def test_a_keyboard_interrupt_without_ctrl_c_is_a_failure_of_the_plugin(
    faults: dict[str, Any], use: Callable[[str], None], own_handlers: None, call: str
) -> None:
    faults[call] = fail(KeyboardInterrupt("no key"))
    with pytest.raises(PluginFailure, match=r"raised KeyboardInterrupt: no key"):
        use(call.partition(".")[0])


def test_ctrl_c_inside_a_plugin_is_not_its_failure(
    faults: dict[str, Any], use: Callable[[str], None], own_handlers: None
) -> None:
    faults["tokenizers.encode"] = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(Interrupted):
        use("tokenizers")


def test_an_error_of_gpt2demo_keeps_its_class_and_gets_the_plugin(faults: dict[str, Any], tmp_path: Path) -> None:
    faults["tokenizers.encode"] = fail(TokenizerError("cannot encode 'x'"))
    with pytest.raises(TokenizerError, match=r"^cannot encode 'x' \(tokenizer 'faulty' of gpt2demo-faulty 1.5\)$"):
        tokenize(tmp_path / "tokenizer")


def test_a_failure_of_a_built_in_part_is_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), plugins.Guard("samplers", "top-k", "__call__"):
        raise ZeroDivisionError


def test_an_invalid_option_is_the_users_mistake(faults: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"^sampler 'faulty': x: unknown setting$"):
        plugins.create_sampler("faulty:x=1")


@pytest.mark.parametrize("error", [ValueError("oops"), SystemExit(0), OddError()], ids=repr)
def test_the_command_line_reports_a_failure_in_one_line(
    faults: dict[str, Any], invoke: Cli, run_copy: Run, error: BaseException
) -> None:
    faults["samplers.__call__"] = fail(error)
    done = invoke("generate", "mine", "--sampler", "faulty", "--json")
    assert_one_line_error(done, 1, "sampler 'faulty' (gpt2demo-faulty 1.5", type(error).__name__)


def test_debug_shows_the_cause(faults: dict[str, Any], invoke: Cli, run_copy: Run) -> None:
    faults["samplers.__call__"] = fail(error := ValueError("oops"))
    with pytest.raises(PluginFailure) as caught:
        invoke("generate", "mine", "--sampler", "faulty", "--debug")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ValueError("oops"), SystemExit(0), OddError()], ids=repr)
def test_a_training_continues_without_a_failed_event_hook(faults: dict[str, Any], text_file: Path, error: BaseException) -> None:
    faults["event"] = fail(error)
    with pytest.warns(UserWarning, match="gpt2demo-faulty 1.5 failed and is disabled: gpt2demo_training_event") as caught:
        events = train_small(text_file, run="mine", steps=2)
    assert len(caught) == 1
    assert type(events[-1]).__name__ == "Ended"


@pytest.mark.parametrize("option", ["--tokenizer", "--optimizer", "--schedule"])
def test_a_training_with_a_faulty_plugin_is_one_line(faults: dict[str, Any], invoke: Cli, text_file: Path, option: str) -> None:
    faults["tokenizers.encode_array"] = faults["optimizers.step"] = faults["schedules.__call__"] = fail(ValueError("oops"))
    options = [word for word in SMALL_OPTIONS if not word.startswith(option)]
    done = invoke("train", text_file, *options, "--run", "mine", option, "faulty")
    assert_one_line_error(done, 1, f"{option[2:]} 'faulty' (gpt2demo-faulty 1.5", "ValueError: oops")


def test_a_training_with_a_working_plugin_resumes(faults: dict[str, Any], invoke: Cli, text_file: Path) -> None:
    options = [word for word in SMALL_OPTIONS if not word.startswith("--tokenizer")]
    done = invoke(
        "train", text_file, *options, "--run", "mine", "--tokenizer", "faulty", "--optimizer", "faulty", "--verify-resume"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(invoke("generate", "mine", "--json", "--max-new-tokens", 3).stdout)["ids"]


def test_a_tokenizer_that_loses_text_is_reported_when_training(faults: dict[str, Any], text_file: Path) -> None:
    faults["tokenizers.decode"] = lambda: "other text"
    with pytest.warns(UserWarning, match="tokenizer 'faulty' does not reproduce the text: document 1, character 1: 'Line"):
        train_small(text_file, run="mine", tokenizer="faulty", steps=1, sample_tokens=0)


# ---------------------------------------------------------------------------------------------- anything

ANYTHING = [
    *(None, True, False, 0, 1, -1, 10**30, 0.5, float("nan"), float("inf"), 1j, ..., NotImplemented),
    *("", "text", "\ud800", b"", b"bytes", bytearray(b"x"), memoryview(b"x")),
    *((), (1,), [], [None], ["a"], [0.5], [[1]], [10**30], {}, {"a": 1}, {1: {}}, set(), range(3), iter([])),
    *(object(), object, len, ValueError("not raised"), Path("x"), np.zeros(0), np.zeros((1, 5)), np.array("x"), np.float32(1)),
    *(
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(1, 5).double(),
        torch.full((1, 5), torch.nan),
        torch.zeros(1, 5, device="meta"),
    ),
]


def all_exceptions() -> list[BaseException]:
    """Return an instance of every exception of Python that does not end the program."""
    found: list[BaseException] = []
    pending: list[type[BaseException]] = [BaseException]
    while pending:
        cls = pending.pop()
        pending += [sub for sub in cls.__subclasses__() if sub.__module__ == "builtins"]
        if not issubclass(cls, GeneratorExit | KeyboardInterrupt | Warning | BaseExceptionGroup | UnicodeTranslateError):
            words = ("utf-8", b"x", 0, 1, "no") if cls is UnicodeDecodeError else ("utf-8", "x", 0, 1, "no")
            found.append(cls(*words) if issubclass(cls, UnicodeEncodeError | UnicodeDecodeError) else cls("oops"))
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
def test_any_result_works_or_fails_by_name(faults: dict[str, Any], use: Callable[[str], None], trial: Trials, call: str) -> None:
    for value in ANYTHING:
        faults[call] = lambda value=value: value
        with trial(f"{call}() returns {value!r:.60}"):
            try:
                use(call.partition(".")[0])
            except Error as error:
                assert "faulty" in str(error)
                assert "\n" not in str(error)
            except AssertionError:  # of this test: a valid result, but not the text that was encoded
                assert call.startswith("tokenizers.")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
def test_any_exception_is_blamed_by_name(faults: dict[str, Any], use: Callable[[str], None], trial: Trials, call: str) -> None:
    for error in all_exceptions():
        faults[call] = fail(error)
        with trial(f"{call}() raises {error!r}"):
            try:
                use(call.partition(".")[0])
            except Error as reported:
                assert type(reported) is PluginFailure or isinstance(error, ValueError | AssertionError | TypeError)
                assert type(error).__name__ in str(reported) or type(reported) is SettingError
                assert "faulty" in str(reported)


@pytest.mark.slow
def test_what_a_plugin_prints_is_not_a_result(site: Path, cli: Cli, text_file: Path, tmp_path: Path, trial: Trials) -> None:
    noisy = FAULTY.replace("def run(call, work):\n", "print('noise')\n\ndef run(call, work):\n    print('noise', call)\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(install(site, "faulty", noisy)), os.environ.get("PYTHONPATH", "")])}
    options = [word for word in SMALL_OPTIONS if not word.startswith("--tokenizer")]
    parts = ("--tokenizer", "faulty", "--optimizer", "faulty")
    commands = {
        "train": ["train", text_file, *options, "--run", "mine", *parts],
        "generate": ["generate", "mine", "--json", "--sampler", "faulty", "--max-new-tokens=3"],
        "plugins": ["plugins", "--json"],
        "data": ["data", "faulty", "--json"],
        "eval": ["eval", "mine", "--json"],
        "runs": ["runs", "--json"],
        "export": ["export", "mine", "--format", "faulty"],
        "resume": ["resume", "mine", "--steps=13"],
    }
    for name, words in commands.items():
        with trial(name):
            done = cli(*words, env=environment)
            assert done.returncode == 0, done.stderr
            assert "noise" not in done.stdout
            assert "noise" in done.stderr or name == "runs"
            if "--json" in words:
                json.loads(done.stdout)
