"""`gpt2demo bench train`: every program learns the same, results and ratios. Times are not tested."""

from __future__ import annotations

import json
import math
import os
import runpy
from pathlib import Path

import pytest
import torch
from samples import Cli

from gpt2demo.bench import train as bench
from gpt2demo.bench import train_worker
from gpt2demo.bench.protocol import Runner
from gpt2demo.bench.train import Setup, Trainer, bench_train
from gpt2demo.config import PRESETS, BenchTrainConfig, ModelConfig
from gpt2demo.errors import SettingError
from gpt2demo.runs.folder import RUNS_DIR
from gpt2demo.training.train import train_run

SHAPE = ModelConfig(vocab_size=256, n_positions=16, n_embd=32, n_head=2, n_layer=2)
NANOGPT = """
import torch
from dataclasses import dataclass
from gpt2demo.config import ModelConfig
from gpt2demo.metrics import token_losses
from gpt2demo.model import GPT2


@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool


class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        assert config.bias
        shape = ModelConfig(vocab_size=config.vocab_size, n_positions=config.block_size, n_layer=config.n_layer,
                            n_head=config.n_head, n_embd=config.n_embd)
        self.transformer, self.lm_head = GPT2(shape), torch.nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids, targets):
        logits = self.transformer(ids)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, decay, rate, betas, device):
        groups = [{"params": [p for p in self.parameters() if (p.dim() > 1) == matrix], "weight_decay": decay * matrix}
                  for matrix in (True, False)]
        return torch.optim.AdamW(groups, lr=rate, betas=betas)
"""
"""A program with the interface of nanoGPT's model.py: names of classes, arguments and weights."""


@pytest.fixture
def nanogpt(tmp_path: Path) -> str:
    folder = tmp_path / "nanogpt"
    folder.mkdir()
    (folder / "model.py").write_text(NANOGPT, encoding="utf-8")
    return f"nanogpt={folder}"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_programs_start_with_the_same_weights_and_learn_the_same(dtype: str, nanogpt: str, tmp_path: Path) -> None:
    """In this process; the test below starts the programs."""
    runs_dir = os.environ[RUNS_DIR]
    config = BenchTrainConfig(rounds=1, steps=4, dtypes=(dtype,), threads=1, peers=(nanogpt,))
    setup = Setup(config, SHAPE, batch_size=2, device="cpu", folder=tmp_path)
    weights = bench.save_weights(setup)
    run = bench.prepare_own(dtype, weights, setup)
    batches = bench.save_batches(run, setup)
    settings = json.loads(bench.peer(nanogpt, dtype, weights, batches, setup).command[-1])
    theirs = runpy.run_path(str(Path(bench.__file__).parent / "peers" / "train_with.py"))["Training"](settings)
    events = train_run(run)
    for _ in range(2):
        own, other = train_worker.train_steps(events, 4, torch.device("cpu")), theirs.run(4)
        assert own["loss"] == pytest.approx(other["loss"], abs=1e-5 if dtype == "fp32" else 1e-3)
        assert min(own["megabytes"], other["megabytes"]) > 50
    assert own["loss"] < math.log(256) - 0.01, "the first loss is that of a uniform distribution"
    assert os.environ[RUNS_DIR] == runs_dir


@pytest.mark.slow
def test_all_programs_run_in_processes_of_their_own(nanogpt: str, invoke: Cli) -> None:
    options = f"--shape nano --rounds 1 --steps 2 --batch-size 2 --device cpu --threads 1 --peer transformers --peer {nanogpt}"
    done = invoke("bench", "train", *options.split(), "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == [f"{name} {dtype}" for name in ("gpt2demo", "transformers", "nanogpt") for dtype in ("fp32", "bf16")]
    assert all(row["same_loss"] for row in rows.values())
    assert rows["nanogpt fp32"]["times"]["nanogpt fp32"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}
    assert all(row["slowest"] <= row["tokens_per_second"] <= row["fastest"] and row["of_matmul"] > 0 for row in rows.values())
    assert done.stderr.splitlines()[-2:] == ["warming up", "round 1 of 1"]


def trained(name: str, seconds: list[float], loss: float) -> Trainer:
    """Return a program with results of 10 steps per round."""
    results = [{"seconds": time, "loss": loss, "megabytes": 512.4} for time in seconds]
    program, dtype = name.split()
    return Trainer(name, [], results, program=program, dtype=dtype, steps=10)


def test_results_are_medians_and_ratios_are_taken_within_a_round() -> None:
    """The second round is twice as slow for all programs, which does not change the ratios."""
    matmul = Runner("matmul", [], [{"fp32": 4e9, "bf16": 8e9}, {"fp32": 2e9, "bf16": 4e9}, {"fp32": 4e9, "bf16": 8e9}])
    own = trained("gpt2demo bf16", [1.0, 2.0, 1.0], loss=3.0)
    peer = trained("nanogpt fp32", [2.0, 4.0, 3.0], loss=3.02)
    other = trained("transformers fp32", [4.0, 8.0, 4.0], loss=3.1)
    shape = ModelConfig(vocab_size=8, n_positions=4, n_embd=4, n_head=1, n_layer=1)
    rows = bench.rows(matmul, [own, peer, other], shape, tokens=80)
    assert (rows[0]["tokens_per_second"], rows[0]["slowest"], rows[0]["fastest"]) == (800, 400, 800)
    assert rows[0]["ms_per_step"] == 100
    assert rows[0]["megabytes"] == 512
    assert rows[0]["times"]["nanogpt fp32"] == {"median": 2.0, "lowest": 2.0, "highest": 3.0}
    assert rows[0]["times"].keys() == {"nanogpt fp32", "transformers fp32"}
    assert rows[1]["times"]["transformers fp32"]["median"] == 2.0
    assert [row["same_loss"] for row in rows] == [True, True, False]
    flops = 6 * (8 * 4 + 12 * 4**2 + 2 * 4 * 4)  # per token: head, layer, attention
    assert shape.flops_per_token == flops
    assert rows[0]["of_matmul"] == pytest.approx(800 * flops / 8e9, abs=5e-4)
    assert rows[1]["of_matmul"] == pytest.approx(400 * flops / 4e9, abs=5e-4)


def test_the_flops_of_a_token_are_those_of_the_usual_formula() -> None:
    """The seed configuration: 6 per weight of the matrices and 12 L C T for attention."""
    shape = PRESETS["seed"].model
    assert shape.flops_per_token == 6 * (256 * 256 + 4 * 12 * 256**2) + 12 * 4 * 256 * 100


def test_the_table_has_a_column_for_each_peer(invoke: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"nanogpt fp32": {"median": 2.24, "lowest": 2.1, "highest": 2.31}}
    monkeypatch.setattr(bench, "bench_train", lambda *rest: [{"name": "gpt2demo bf16", "loss": 3.25, "times": times}])
    lines = invoke("bench", "train").stdout.splitlines()
    assert lines[0].split() == ["name", "loss", "×", "nanogpt", "fp32"]
    assert lines[1].split(maxsplit=2) == ["gpt2demo", "bf16", "3.2500  2.24 (2.10 to 2.31)"]
    assert json.loads(invoke("bench", "train", "--json").stdout) == [{"name": "gpt2demo bf16", "loss": 3.25, "times": times}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peers": ("minGPT",)}, "peers='minGPT': unknown program; available: transformers, nanogpt=FOLDER"),
        ({"peers": ("nanogpt",)}, "peers='nanogpt': no folder with nanoGPT's model.py"),
        ({"peers": ("nanogpt=/none",)}, "peers='nanogpt=/none': no folder with nanoGPT's model.py"),
        ({"peers": ("transformers", "transformers")}, "peers=transformers, transformers: list each once"),
        ({"dtypes": ()}, "dtypes"),
        ({"shape": "tiny"}, "unknown preset 'tiny'"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=message):
        bench_train(BenchTrainConfig.create(**changes), tmp_path, lambda line: None)
    assert list(tmp_path.iterdir()) == []
