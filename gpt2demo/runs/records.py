"""Check the content of run.json, state.json, metrics.jsonl and samples.jsonl: they may be damaged or written by other programs.

Unknown keys are allowed. Importing this module is fast: the list of runs needs it.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gpt2demo.config import describe
from gpt2demo.storage import parse_json

Value = TypeVar("Value")
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
ProcessId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Stored(BaseModel):
    """Base class of the checked parts: types are not converted, unknown keys are allowed."""

    model_config = ConfigDict(strict=True, extra="allow")


class Source(Stored):
    """A text file in `data` of run.json."""

    path: str
    bytes: Count | None = None
    sha256: str | None = None


class TokenizerInfo(Stored):
    """`tokenizer` of run.json."""

    name: str | None = None


class Info(Stored):
    """The content of run.json; `gpt2demo.config` checks the settings."""

    created: str | None = None
    preset: str | None = None
    dataset: str | None = None
    model: dict[str, Any] | None = None
    train: dict[str, Any] | None = None
    parameters: Count | None = None
    tokenizer: TokenizerInfo = TokenizerInfo()
    schedule: dict[str, Any] | None = None
    data: list[Source] = []
    cleaning: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    imported: dict[str, Any] | None = None
    init_from: dict[str, Any] | None = None


class Metric(Stored):
    """A line of metrics.jsonl: a step's (`batch`) or an evaluation's (`train`, `validation`) loss."""

    step: Count
    split: str
    loss: Number
    learning_rate: Number = 0.0
    grad_norm: Number = 0.0
    tokens_per_second: Number = 0.0
    flops_per_second: Number = 0.0
    utilization: Number | None = None
    memory: Count = 0


class SampleText(Stored):
    """A line of samples.jsonl."""

    step: Count
    text: str
    prompt: str = ""


KINDS: dict[str, type[Stored]] = {"metrics.jsonl": Metric, "samples.jsonl": SampleText}


def parse_record(line: bytes, kind: type[Stored]) -> dict[str, Any]:
    """Return the content of a line of a .jsonl file. Raise a ValueError with the reason if it is invalid."""
    record = parse_json(line)
    check(TypeAdapter(kind), record)
    return record


def check(kind: TypeAdapter[Value], value: dict[str, Any]) -> Value:
    """Return a checked value. Raise a ValueError with the reason in one line if it is invalid."""
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise ValueError(describe(error)) from None
