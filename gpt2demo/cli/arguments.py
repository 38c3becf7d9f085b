"""Arguments and options that commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2demo.config import PRESETS, DeviceName, EngineName

TEXT = "files, folders, globs and URLs: .txt, .md, .jsonl, .csv and .parquet, also as .gz; or hf:NAME, a dataset on the hub"

ModelArgument = Annotated[
    str | None,
    typer.Argument(help="run name, path of a run, checkpoint or export, or RUN@best, RUN@STEP; default: the newest run"),
]
RunArgument = Annotated[str, typer.Argument(help="run name or path")]
TextArgument = Annotated[list[str] | None, typer.Argument(help=TEXT)]
DatasetOption = Annotated[str | None, typer.Option(help="example dataset in place of files, NAME or NAME:key=value,…")]
PresetOption = Annotated[str, typer.Option(help=f"defaults for all other settings: {', '.join(PRESETS)}")]
TokenizerOption = Annotated[str | None, typer.Option(help="tokenizer name; default: the preset's")]
TokenizerOptions = Annotated[list[str] | None, typer.Option("--tokenizer-option", metavar="KEY=VALUE", help="may be repeated")]
EngineOption = Annotated[EngineName, typer.Option(help="runtime; onnx needs an export")]
DeviceOption = Annotated[DeviceName, typer.Option(help="device to run on")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]
