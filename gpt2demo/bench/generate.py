"""`gpt2demo bench generate`: our engines, with and without samplers, beside other programs, on the same weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from gpt2demo.config import BenchConfig, ModelConfig, preset
from gpt2demo.engines.exported import CERTIFICATE, Dtype
from gpt2demo.errors import RunError, SettingError
from gpt2demo.export.onnx.genai import genai_config
from gpt2demo.export.onnx.write import origin_and_files, write_graphs
from gpt2demo.model import GPT2
from gpt2demo.plugins import registry
from gpt2demo.runs.checkpoint import save_tokenizer
from gpt2demo.runs.weights import save
from gpt2demo.storage import write_json
from gpt2demo.tokenization.byte import ByteTokenizer

STANDARD = ("temperature:value=0.8", "top-k:k=50", "top-p:p=0.9")
PAUSE = 0.2
"""Seconds before each turn: the threads of the one before wait actively for a while, on cores that the next one needs."""
SAMPLED = " + samplers"
PEERS = ("transformers", "genai", "llama.cpp")
Answer = dict[str, Any]


@dataclass
class Contestant:
    """A program that writes, and what it was seen to do.

    Attributes:
        name: for the table.
        command: starts it.
        bytes: of the weights that it reads for each token.
        answers: one for each round.
    """

    name: str
    command: list[str]
    bytes: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def seconds_per_step(self) -> list[float]:
        """Time of a step behind the first, in each round."""
        return [(answer["seconds"] - answer["first"]) / (len(answer["ids"][0]) - 1) for answer in self.answers]


def bench_generate(config: BenchConfig, folder: Path, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure; give a row for each contestant.

    Args:
        config: what to measure.
        folder: an empty folder for models.
        report: called with one line of text at each stage.

    Raises:
        SettingError: the prompt and the new tokens do not fit into the shape's context.
        RunError: a contestant failed.
    """
    shape = preset(config.shape).model.with_changes(dropout=0.0)
    if config.prompt_tokens + config.new_tokens > shape.n_positions:
        wanted = f"{config.prompt_tokens} + {config.new_tokens} tokens"
        raise SettingError(f"shape={config.shape!r}: its context of {shape.n_positions} is shorter than {wanted}; give less")
    contestants = prepare(shape, config, folder, report)
    prompts = np.random.default_rng(0).integers(0, shape.vocab_size, (config.batch_size, config.prompt_tokens)).tolist()
    with ExitStack() as stack:
        asks = [(contestant, stack.enter_context(started(contestant))) for contestant in contestants]
        for number in range(config.rounds + 1):
            report(f"round {number} of {config.rounds}" if number else "warming up")
            for contestant, ask in asks:
                time.sleep(PAUSE)
                answer = ask({"prompts": prompts, "count": config.new_tokens})
                if number:  # the first round is for the caches
                    contestant.answers.append(answer)
    return rows(contestants)


def prepare(shape: ModelConfig, config: BenchConfig, folder: Path, report: Callable[[str], None]) -> list[Contestant]:
    """Write a model with random weights in all forms, and name who runs which."""
    torch.manual_seed(0)
    for spec in config.peers:
        check_peer(spec)
    model = GPT2(shape).eval()
    save_tokenizer(ByteTokenizer(), "byte", folder / "tokenizer")
    progress = {"step": 0, "validation_loss": None}
    checkpoint = save(folder / "checkpoints", model, folder / "tokenizer", torch.optim.SGD(model.parameters()), progress).path
    exports = {dtype: write_export(model, checkpoint, folder / dtype, dtype, report) for dtype in config.dtypes}
    sizes = {dtype: (path / "model.onnx").stat().st_size for dtype, path in exports.items()}
    worker = [sys.executable, "-m", "gpt2demo.bench.worker"]
    size = 4 * shape.n_parameters
    found = [Contestant("memory", [*worker, "memory", ""])]
    engines = [("torch fp32", ["torch", str(checkpoint)], size)]
    engines += [(f"onnx {dtype}", ["onnx", str(path)], sizes[dtype]) for dtype, path in exports.items()]
    for name, arguments, weights in engines:  # with and without samplers one after the other: that is compared
        found.append(Contestant(name, [*worker, *arguments], weights))
        found.append(Contestant(name + SAMPLED, [*worker, *arguments, *STANDARD], weights))
    return found + [one for spec in config.peers for one in peers(spec, checkpoint, exports, folder)]


def write_export(model: GPT2, checkpoint: Path, folder: Path, dtype: Dtype, report: Callable[[str], None]) -> Path:
    """An export of random weights: there is nothing to prove on it, and nothing to read with it."""
    folder.mkdir()
    chain = write_graphs(model, folder, dtype, STANDARD, model.config.vocab_size, report)
    write_json(folder / CERTIFICATE, origin_and_files(checkpoint, folder, model.config, dtype, chain))
    write_json(folder / "genai_config.json", genai_config(model.config, None))
    return folder


def check_peer(spec: str) -> None:
    """Make sure that we know a peer, and that its Python is there.

    Raises:
        SettingError: we do not, or it is not.
    """
    name, _, python = spec.partition("=")
    if name not in PEERS:
        raise SettingError(f"peers={spec!r}: there is no such peer; there are {', '.join(PEERS)}")
    if python and shutil.which(python) is None:
        raise SettingError(f"peers={spec!r}: {python} is no program; give the python of an environment that has {name}")


def peers(spec: str, checkpoint: Path, exports: dict[Dtype, Path], folder: Path) -> list[Contestant]:
    """Another program, `NAME` or `NAME=PYTHON` where it lives in another environment: once for each form of the weights."""
    name, _, python = spec.partition("=")
    models = {"transformers fp32": (checkpoint, checkpoint / "model.safetensors")}
    if name == "genai":
        models = {f"genai {dtype}": (path, path / "model.onnx") for dtype, path in exports.items()}
    elif name == "llama.cpp":
        files = {dtype: gguf(checkpoint, folder / f"gguf-{dtype}", dtype) for dtype in ("fp32", "q8_0")}
        models = {f"llama.cpp {dtype}": (file, file) for dtype, file in files.items()}
    script = str(Path(__file__).parent / "peers" / f"with_{name.replace('.', '_')}.py")
    commands = {label: [python or sys.executable, script, str(model)] for label, (model, _) in models.items()}
    return [Contestant(label, commands[label], weights.stat().st_size) for label, (_, weights) in models.items()]


def gguf(checkpoint: Path, folder: Path, dtype: str) -> Path:
    """A file for llama.cpp, by the exporter of the plugin gpt2demo-gguf.

    Raises:
        PluginError: it is not installed.
    """
    folder.mkdir()
    exporter = registry().part("exporters", "gguf")
    exporter().export(checkpoint, folder, dtype=dtype, report=lambda line: None)
    return next(folder.glob("*.gguf"))


@contextmanager
def started(contestant: Contestant) -> Iterator[Callable[[dict[str, Any]], Answer]]:
    """A contestant's process; gives the function that lets it write.

    Raises:
        RunError: it cannot be started, or died.
    """
    own = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}  # what we set for ourselves is not for others
    environment = {name: value for name, value in os.environ.items() if name not in own}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(contestant.command, env=environment, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        given, said = process.stdin, process.stdout

        def ask(question: dict[str, Any]) -> Answer:
            print(json.dumps(question), file=given, flush=True)
            answer: Answer = json.loads(_line(process, said, contestant))
            return answer

        while _line(process, said, contestant) != "ready":  # what a library prints while it loads
            pass
        yield ask
        given.close()


def _line(process: subprocess.Popen[str], said: Any, contestant: Contestant) -> str:
    """The next line that a contestant says."""
    line: str = said.readline()
    if not line:
        why = (process.stderr.read() if process.stderr else "").strip().splitlines()
        raise RunError(f"bench: {contestant.name} failed: {why[-1] if why else 'it said nothing'}")
    return line.strip()


def rows(contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """The table: medians over the rounds, ratios within each round."""
    memory, *programs = contestants
    speeds = [answer["seconds"] for answer in memory.answers]  # bytes a second
    base = next((one for one in programs if one.name.startswith("transformers")), programs[0])
    greedy = {one.name: one for one in programs}
    found = [row(one, base, greedy[one.name.removesuffix(SAMPLED)], speeds) for one in programs]
    return [{**one, "machine_gb_per_second": median(speeds) / 1e9} for one in found]


def ratio(one: Contestant, other: Contestant) -> float:
    """How many times as long a step of one takes as that of another: the median over the rounds."""
    return median(a / b for a, b in zip(one.seconds_per_step, other.seconds_per_step, strict=True))


def row(one: Contestant, base: Contestant, greedy: Contestant, speeds: Sequence[float]) -> dict[str, Any]:
    """What is told of one contestant; `greedy` is the same without samplers."""
    times = one.seconds_per_step
    rates = [len(answer["ids"]) / seconds for answer, seconds in zip(one.answers, times, strict=True)]
    limits = [one.bytes / speed / seconds for speed, seconds in zip(speeds, times, strict=True)]
    return {
        "name": one.name,
        "tokens_per_second": round(median(rates)),
        "slowest": round(min(rates)),
        "fastest": round(max(rates)),
        "microseconds_per_step": round(median(times) * 1e6),
        "first_token_ms": round(median(answer["first"] for answer in one.answers) * 1e3, 1),
        "megabytes": round(one.answers[-1]["megabytes"]),
        f"times_{base.name.replace(' ', '_')}": round(ratio(base, one), 2),
        "samplers_cost_percent": None if one is greedy else round(100 * (ratio(one, greedy) - 1), 1),
        "of_memory_bandwidth": round(median(limits), 3) if one.bytes else None,
        "same_ids": one.answers[-1]["ids"] == base.answers[-1]["ids"],
    }
