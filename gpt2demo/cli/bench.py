"""The commands `gpt2demo bench generate` and `gpt2demo bench train`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from gpt2demo.cli.arguments import JsonOption
from gpt2demo.cli.options import ResultsCommand, given, with_settings
from gpt2demo.cli.printing import print_list
from gpt2demo.config import BenchGenerateConfig, BenchTrainConfig
from gpt2demo.terminal import print_message

app = typer.Typer(
    help="Measure speed, also of other programs. They alternate on the same weights; compare the ratios.", no_args_is_help=True
)
command = partial(app.command, cls=ResultsCommand)


@command()
@with_settings(BenchGenerateConfig)
def generate(as_json: JsonOption = False, **settings: Any) -> None:
    """Measure generation, also of other programs. The engines run with and without samplers."""
    from gpt2demo.bench.generate import bench_generate

    config = BenchGenerateConfig.create(**given(settings))
    with TemporaryDirectory(prefix="gpt2demo-bench-") as folder:
        print_list(bench_generate(config, Path(folder), print_message), as_json)


@command()
@with_settings(BenchTrainConfig)
def train(as_json: JsonOption = False, **settings: Any) -> None:
    """Measure training, also of other programs. They have plain loops, the same initial weights and batches."""
    from gpt2demo.bench.train import bench_train

    config = BenchTrainConfig.create(**given(settings))
    with TemporaryDirectory(prefix="gpt2demo-bench-") as folder:
        rows = bench_train(config, Path(folder), print_message)
    print_list(rows if as_json else [with_columns(row) for row in rows], as_json)


def with_columns(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with a column for each program that it is compared with: "2.24 (2.10 to 2.31)"."""
    times = row.pop("times")
    ratios = {name: f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" for name, ratio in times.items()}
    return {**row, **{f"× {name}": text for name, text in ratios.items()}}
