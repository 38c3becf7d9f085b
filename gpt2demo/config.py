"""All settings with their defaults, ranges and help texts, shared by the command line, the web page and Python.

This module does not import torch. The classes are frozen; `with_changes` returns a modified, validated copy. Which settings
may change when a run is resumed is decided in `gpt2demo.training.prepare`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.fields import FieldInfo

from gpt2demo.errors import SettingError

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPTION = re.compile(rf"[^,=]*=\s*{_QUOTED.pattern}\s*(?=,|$)|[^,]+", re.DOTALL)
Model = TypeVar("Model", bound=BaseModel)
EngineName = Literal["auto", "torch", "onnx"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
AUTO = "auto"  # in place of a number: decided before the run begins, which records the number
Checksum = Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$")]


class Config(BaseModel):
    """Base class of the settings: frozen, without unknown names or NaN. Invalid values raise a one-line `SettingError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def create(cls, **values: Any) -> Self:
        """Return settings with validated values.

        Raises:
            SettingError: a value is invalid; the message has the setting, the value and what would work.
        """
        return validate(cls, values)

    def with_changes(self, **changes: Any) -> Self:
        """Return a copy with some settings changed. The copy is validated as a whole."""
        return self.create(**{**self.model_dump(), **changes})


def validate(cls: type[Model], values: dict[str, Any], *, strings: bool = False, what: str = "") -> Model:
    """Return a validated pydantic model.

    Args:
        cls: the model's class.
        values: field name -> value.
        strings: whether the values are strings to parse ("0.5", "true").
        what: a prefix for the error message, such as `sampler 'top-k': `.

    Raises:
        SettingError: a value is invalid; the message is the first validation error in one line.
    """
    try:
        return cls.model_validate_strings(values) if strings else cls.model_validate(values)
    except ValidationError as error:
        raise SettingError(what + describe(error)) from None


def describe(error: ValidationError) -> str:
    """Return the first of the validation errors as one line: field, value and what would work."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if first["type"] == "extra_forbidden":
        return f"{name}: unknown setting"
    if not name:
        return reason
    return f"{name}={str(first['input'])[:80]!r}: {reason}"


class ModelConfig(Config):
    """The shape of a GPT-2 model. The names are OpenAI's."""

    vocab_size: int = Field(256, ge=1, le=1_000_000, description="vocabulary size; set by the tokenizer")
    n_positions: int = Field(128, ge=1, le=65_536, description="context length in tokens")
    n_embd: int = Field(128, ge=1, le=16_384, description="embedding width")
    n_head: int = Field(4, ge=1, le=256, description="attention heads per layer")
    n_layer: int = Field(4, ge=1, le=256, description="layers (transformer blocks)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability during training")

    initializer_range: float = Field(0.02, gt=0, le=1, description="standard deviation of the initial weights; 0.02 in GPT-2")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}")
        return self

    @property
    def n_parameters(self) -> int:
        """Number of parameters. The output layer shares the token embedding, which is counted once."""
        block = 12 * self.n_embd**2 + 13 * self.n_embd
        return (self.vocab_size + self.n_positions) * self.n_embd + self.n_layer * block + 2 * self.n_embd

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations in the matrix products of a training step, per token (Chowdhery et al. 2022, appendix B).

        Each weight of a matrix takes 2 in the forward and 4 in the backward pass, as does each of the 2 T C products of a layer's
        attention, which are counted without its mask.
        """
        weights = self.vocab_size * self.n_embd + self.n_layer * 12 * self.n_embd**2
        return 6 * (weights + self.n_layer * 2 * self.n_positions * self.n_embd)


class TrainConfig(Config):
    """Training settings."""

    batch_size: int = Field(
        32, ge=1, le=65_536, description="sequences per batch; auto: as many as fit into memory", json_schema_extra={AUTO: True}
    )
    grad_accumulation: int = Field(1, ge=1, le=65_536, description="batches per optimizer step")
    epochs: float | None = Field(None, gt=0, le=1e6, description="passes over the training text (instead of steps)")
    steps: int | None = Field(None, ge=1, le=1_000_000_000, description="optimizer steps (instead of epochs)")
    learning_rate: float = Field(1e-3, gt=0, le=1e3, description="peak learning rate")
    schedule: str = Field("cosine", description="learning rate schedule")
    min_learning_rate: float = Field(0.1, ge=0, le=1, description="final learning rate of a decay, as a fraction of the peak")
    decay_fraction: float = Field(0.2, gt=0, le=1, description="decay of wsd, as a fraction of the run after the warm-up")
    warmup_steps: int | None = Field(None, ge=0, description="steps of linear warm-up (default: a twentieth of the run)")
    optimizer: str = Field("adamw", description="optimizer name")
    weight_decay: float = Field(0.1, ge=0, le=10, description="weight decay of matrices; 0 makes AdamW plain Adam")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay rate of Adam's first moment")
    beta2: float = Field(0.99, ge=0, lt=1, description="decay rate of Adam's second moment")
    grad_clip: float = Field(1.0, ge=0, description="maximum gradient norm; 0 disables clipping")
    freeze_layers: int = Field(0, ge=0, description="number of first layers to freeze, together with the embeddings")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="fraction of the text held out for validation")
    pack: Literal["stream", "documents"] = Field(
        "stream", description="windows cross the borders of documents, or stay inside of them and are padded"
    )
    eval_every: int | None = Field(None, ge=1, description="steps between evaluations (default: ten per run)")
    eval_batches: int = Field(20, ge=1, description="batches per evaluation and split")
    patience: int | None = Field(
        None, ge=1, description="stop after this many evaluations without a better validation loss (default: never)"
    )
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints (default: at each evaluation)")
    keep: int = Field(2, ge=1, description="number of newest checkpoints to keep besides the best one")
    milestones: int | None = Field(
        None, ge=0, le=1000, description="steps whose weights are kept to look back (default: 12, for large models 0)"
    )
    sample_tokens: int = Field(120, ge=0, le=65_536, description="length in tokens of the sample generated at each evaluation")
    seed: int = Field(0, ge=0, lt=2**63, description="random seed; the same seed gives the same run")
    device: DeviceName = Field("auto", description="device to train on")
    dtype: Literal["auto", "fp32", "bf16"] = Field("auto", description="dtype of the training arithmetic")
    compile: Literal["auto", "on", "off"] = Field("auto", description="use torch.compile; auto: on NVIDIA GPUs")
    tf32: bool = Field(False, description="TF32 for fp32 matrix products on NVIDIA GPUs: faster, with a 10-bit mantissa")
    checkpoint_activations: bool = Field(
        False, description="recompute each layer in the backward pass: much less memory, a third more time, the same result"
    )
    nproc: int = Field(1, ge=1, le=1024, description="processes on this machine, each with a GPU of its own")
    shard: bool = Field(False, description="split the model over the processes (FSDP2), if it does not fit on one device")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads (default: torch's choice)")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set either steps or epochs")
        return self


class DataConfig(Config):
    """How text is read and cleaned."""

    field: str = Field("text", min_length=1, description="field of rows with the text (default: text)")
    normalize: Literal["none", "nfc", "nfkc"] = Field("none", description="Unicode normalization form")
    unique: Literal["none", "documents", "lines"] = Field("none", description="remove duplicate documents, or also lines")
    sha256: tuple[Checksum, ...] = Field((), description="expected SHA-256 of the file at each URL, in order")


class GenerateConfig(Config):
    """Generation settings. A chain of samplers reshapes the distribution before each draw."""

    max_new_tokens: int = Field(200, ge=0, le=10_000_000, description="maximum number of tokens to generate")
    seed: int | None = Field(None, ge=0, lt=2**63, description="random seed; the same seed gives the same text (default: random)")
    samplers: tuple[str, ...] = Field((), description="samplers in order, each NAME, NAME:key=value,… or @CHAIN")
    temperature: float | None = Field(None, ge=0, le=1e6, description="shorthand for the temperature sampler; 0 is greedy")
    top_k: int | None = Field(None, ge=1, description="shorthand for the top-k sampler: number of most likely tokens to keep")
    top_p: float | None = Field(None, gt=0, le=1, description="shorthand for the top-p sampler: probability mass to keep")
    stop: tuple[str, ...] = Field((), description="stop before this text; may be repeated")
    stop_tokens: tuple[int | str, ...] = Field((), description="stop at this token, an id or its text; may be repeated")
    samples: int = Field(1, ge=1, le=65_536, description="samples per prompt")
    logprobs: int | None = Field(None, ge=0, description="report each token's log-probability and this many alternatives")
    explain: bool = Field(False, description="report each sampler's effect on each token's distribution, as JSON")

    @model_validator(mode="after")
    def _stops_not_empty(self) -> Self:
        if "" in self.stop:
            raise ValueError("stop='': must not be empty")
        return self

    @property
    def chain(self) -> tuple[str, ...]:
        """The effective samplers, in order, in `NAME:key=value` form.

        Shorthands come first, then `samplers` with `@NAME` replaced by the named chain. Without either, `DEFAULT_CHAIN`.

        Raises:
            SettingError: a chain is unknown.
        """
        shorthands = {
            "temperature:value": self.temperature,
            "top-k:k": self.top_k,
            "top-p:p": self.top_p,
        }
        given = tuple(f"{name}={value}" for name, value in shorthands.items() if value is not None)
        return given + expand_chains(self.samplers, CHAINS) or DEFAULT_CHAIN


DEFAULT_CHAIN = ("temperature:value=0.8", "top-p:p=0.95")
CHAINS = {
    "default": DEFAULT_CHAIN,
    "greedy": ("temperature:value=0",),
    "standard": ("temperature:value=0.8", "top-k:k=50", "top-p:p=0.9"),
    "careful": ("temperature:value=0.5", "top-p:p=0.9"),
    "wild": ("min-p:threshold=0.05", "temperature:value=1.3"),
}
"""Named chains: `@careful` in place of a sampler. A model may have more, see `gpt2demo.sampling.chains`."""


def expand_chains(samplers: tuple[str, ...], chains: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the samplers with `@NAME` replaced by the chain of that name.

    Raises:
        SettingError: a chain is unknown.
    """
    found: tuple[str, ...] = ()
    for spec in samplers:
        if spec.startswith("@") and spec[1:] not in chains:
            raise SettingError(f"unknown sampler chain {spec!r}; available: {', '.join(f'@{name}' for name in chains)}")
        found += chains[spec[1:]] if spec.startswith("@") else (spec,)
    return found


class EvalConfig(Config):
    """Settings of `gpt2demo eval`."""

    stride: int | None = Field(
        None, ge=1, le=65_536, description="tokens between two windows; fewer give more context (default: half the context)"
    )
    samples: int = Field(8, ge=0, le=1000, description="samples to check for copied text and variety; 0 disables the check")


class BenchConfig(Config):
    """Settings of all measurements: programs take turns for some rounds."""

    shape: str = Field("seed", description="preset with the shape to measure; the weights are random")
    rounds: int = Field(7, ge=1, le=1000, description="rounds; each program runs once per round, after a warm-up")
    dtypes: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        for name, values in (("dtypes", self.dtypes), ("peers", tuple(peer.partition("=")[0] for peer in self.peers))):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={', '.join(values)}: list each once")
        return self


class BenchGenerateConfig(BenchConfig):
    """Settings of `gpt2demo bench generate`."""

    dtypes: tuple[Literal["fp32", "fp16", "int8", "int4"], ...] = Field(
        (), description="dtypes to measure (default: fp32 and int8 on a CPU, fp16 on an NVIDIA GPU)"
    )
    device: DeviceName = Field("auto", description="device to run on")
    prompt_tokens: int = Field(32, ge=1, le=65_536, description="prompt length in tokens")
    new_tokens: int = Field(64, ge=2, le=65_536, description="tokens to generate after each prompt")
    batch_size: int = Field(1, ge=1, le=65_536, description="prompts per batch")
    peers: tuple[str, ...] = Field(
        (), description="other programs: transformers, genai, llama.cpp or NAME=PYTHON; may be repeated"
    )

    def dtypes_on(self, device: str) -> tuple[Literal["fp32", "fp16", "int8", "int4"], ...]:
        """Return the dtypes to measure on a device.

        Raises:
            SettingError: one does not run there.
        """
        if device == "cuda" and not set(self.dtypes) <= {"fp32", "fp16"}:
            raise SettingError(f"dtypes={', '.join(self.dtypes)}: on an NVIDIA GPU use fp16, or fp32 for PyTorch alone")
        return self.dtypes or (("fp16",) if device == "cuda" else ("fp32", "int8"))


class BenchTrainConfig(BenchConfig):
    """Settings of `gpt2demo bench train`."""

    dtypes: tuple[Literal["fp32", "bf16"], ...] = Field(("fp32", "bf16"), min_length=1, description="dtypes of the arithmetic")
    steps: int = Field(10, ge=1, le=10_000, description="optimizer steps per round")
    batch_size: int | None = Field(None, ge=1, le=65_536, description="sequences per batch (default: the preset's)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability; 0 makes the losses comparable")
    device: DeviceName = Field("auto", description="device to train on")
    compile: Literal["auto", "on", "off"] = Field("auto", description="use torch.compile, for all; auto: on NVIDIA GPUs")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads (default: torch's choice)")
    peers: tuple[str, ...] = Field(
        (), description="other programs: transformers, or nanogpt=FOLDER with its model.py; may be repeated"
    )


class Preset(Config):
    """A named set of training defaults."""

    summary: str
    model: ModelConfig
    train: TrainConfig
    tokenizer: str = "byte"
    tokenizer_options: dict[str, str] = {}


def _openai(summary: str, n_layer: int, n_head: int, n_embd: int) -> Preset:
    """Return a preset with one of OpenAI's shapes (Radford et al. 2019, table 2) and nanoGPT's training settings."""
    return Preset(
        summary=summary,
        model=ModelConfig(vocab_size=50257, n_positions=1024, n_embd=n_embd, n_head=n_head, n_layer=n_layer, dropout=0.1),
        train=TrainConfig(batch_size=12, grad_accumulation=40, epochs=1, learning_rate=6e-4, beta2=0.95, keep=2),
        tokenizer="bpe",
        tokenizer_options={"vocab_size": "50257"},
    )


PRESETS: dict[str, Preset] = {
    "nano": Preset(
        summary="learns the example stories on a laptop's CPU in about a minute",
        model=ModelConfig(vocab_size=1024, n_positions=128, n_embd=192, n_head=6, n_layer=2, initializer_range=0.07),
        train=TrainConfig(batch_size=16, steps=700, learning_rate=3e-3),
        tokenizer="bpe",
        tokenizer_options={"vocab_size": "1024"},
    ),
    "small": Preset(
        summary="your own text, some megabytes at most: about ten minutes on two cores",
        model=ModelConfig(vocab_size=1024, n_positions=128, n_embd=256, n_head=8, n_layer=4, dropout=0.1, initializer_range=0.06),
        train=TrainConfig(batch_size=32, steps=1350, learning_rate=3e-3, min_learning_rate=0.0),
        tokenizer="bpe",
        tokenizer_options={"vocab_size": "1024"},
    ),
    "shakespeare-char": Preset(
        summary="Shakespeare by characters on a CPU: shape and compute of nanoGPT, 2 minutes",
        model=ModelConfig(vocab_size=65, n_positions=64, n_embd=128, n_head=4, n_layer=4, initializer_range=0.07),
        train=TrainConfig(batch_size=6, steps=4000, learning_rate=3e-3, schedule="linear", min_learning_rate=0.0, beta2=0.995),
        tokenizer="char",
    ),
    "shakespeare-char-gpu": Preset(
        summary="Shakespeare by characters on a GPU: the shape of nanoGPT",
        model=ModelConfig(vocab_size=65, n_positions=256, n_embd=384, n_head=6, n_layer=6, dropout=0.3, initializer_range=0.04),
        train=TrainConfig(batch_size=64, steps=2500, learning_rate=2e-3, schedule="linear", min_learning_rate=0.0),
        tokenizer="char",
    ),
    "seed": Preset(
        summary="the original program: 3.2 million parameters, Adam at a constant 3e-4",
        model=ModelConfig(vocab_size=256, n_positions=100, n_embd=256, n_head=4, n_layer=4, dropout=0.1),
        train=TrainConfig(
            batch_size=32,
            epochs=10,
            learning_rate=3e-4,
            schedule="constant",
            warmup_steps=0,
            weight_decay=0.0,
            beta2=0.999,
            grad_clip=0.0,
        ),
    ),
    "gpt2": _openai("GPT-2 small, 124 million parameters", 12, 12, 768),
    "gpt2-medium": _openai("GPT-2 medium, 355 million parameters", 24, 16, 1024),
    "gpt2-large": _openai("GPT-2 large, 774 million parameters", 36, 20, 1280),
    "gpt2-xl": _openai("GPT-2 XL, 1.6 billion parameters", 48, 25, 1600),
}


def preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        SettingError: the name is unknown.
    """
    if name not in PRESETS:
        raise SettingError(f"unknown preset {name!r}; available: {', '.join(PRESETS)}")
    return PRESETS[name]


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    r"""Split `NAME:key=value,key=value` into the name and its options.

    >>> parse_spec("min-p:threshold=0.1")
    ('min-p', {'threshold': '0.1'})

    A value in double quotes may contain commas; inside, `\"` and `\\` are a quote and a backslash.

    >>> parse_spec('name:text="a,b",n=2')
    ('name', {'text': 'a,b', 'n': '2'})

    Raises:
        SettingError: an option has no `=`, or a key is repeated.
    """
    name, _, rest = spec.partition(":")
    options: dict[str, str] = {}
    for part in _OPTION.findall(rest):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key or key in options:
            raise SettingError(f"{spec!r}: expected NAME:key=value,key=value without repeated keys")
        options[key] = _unquoted(value.strip())
    return name.strip(), options


def _unquoted(value: str) -> str:
    """Return a value without its quotes, if it has them."""
    return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL) if _QUOTED.fullmatch(value) else value


def format_spec(name: str, options: Mapping[str, Any]) -> str:
    """Return `NAME:key=value,key=value`, the form that `parse_spec` reads; values are quoted where necessary.

    >>> format_spec("top-p", {"p": 0.9})
    'top-p:p=0.9'
    """
    return name + ("" if not options else ":" + ",".join(f"{key}={_quoted(str(value))}" for key, value in options.items()))


def _quoted(value: str) -> str:
    """Return a value in quotes if `parse_spec` would otherwise split or change it."""
    if not {",", '"'} & set(value) and value == value.strip():
        return value
    escaped = re.sub(r'(["\\])', r"\\\1", value)
    return f'"{escaped}"'


def plain_type(annotation: Any) -> tuple[Any, bool]:
    """Return the type inside `X | None` or `tuple[X, ...]`, and whether it is a tuple."""
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0], True
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return (inner[0], False) if type(None) in get_args(annotation) else (annotation, False)


def accepts_auto(field: FieldInfo) -> bool:
    """Return whether `auto` may stand in place of a field's number."""
    return isinstance(field.json_schema_extra, dict) and AUTO in field.json_schema_extra


def limits(field: FieldInfo) -> dict[str, float]:
    """Return the bounds of a field that are set, out of `ge`, `gt`, `le` and `lt`."""
    found = {key: getattr(part, key, None) for part in field.metadata for key in ("ge", "gt", "le", "lt") if hasattr(part, key)}
    return {key: value for key, value in found.items() if value is not None}
