"""The training form: text, preset, tokenizer and settings. The controls of the settings are made from the configs' fields."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
from gradio.components import Component
from pydantic.fields import FieldInfo

from gpt2demo import plugins
from gpt2demo.config import PRESETS, DataConfig, ModelConfig, Preset, TrainConfig, format_spec
from gpt2demo.errors import DataError, Error
from gpt2demo.memory import in_units
from gpt2demo.training import jobs
from gpt2demo.training.settings import check_training, configs
from gpt2demo.ui.controls import QUIET, Controls, PartOptions, Values, changed, controls, read, shown
from gpt2demo.ui.text import escape, unformatted

DEFAULT_DATASET, DEFAULT_PRESET = "tales", "nano"
OWN_TEXT = "my own text"
MAIN = ("steps", "epochs", "batch_size", "n_layer", "n_head", "n_embd", "n_positions", "dropout", "learning_rate")
PROGRAM = 370 * 2**20  # bytes of memory for Python and PyTorch
FIELDS = {**ModelConfig.model_fields, **TrainConfig.model_fields}
READING = {name: field for name, field in DataConfig.model_fields.items() if name != "sha256"}  # for URLs only


class TrainingForm:
    """Build the form in the current layout block, and start a training from its values."""

    def __init__(self) -> None:
        self._text()
        preset = PRESETS[DEFAULT_PRESET]
        names, summary = list(PRESETS), preset.summary
        self.preset = gr.Radio(names, value=DEFAULT_PRESET, label="Preset", info=summary, elem_id="preset")
        self.fields: Controls = controls({name: FIELDS[name] for name in MAIN}, defaults(preset), prefix="train")
        self.size = gr.HTML(size_line(preset, {}, preset.tokenizer), elem_id="size")
        self._rest(preset)
        self._wire()

    def _text(self) -> None:
        """Build the controls of the training text: an example dataset, uploaded files or pasted text."""
        names = sorted(plugins.datasets(), key=lambda name: (name != DEFAULT_DATASET, name))
        options: dict[str, Any] = {"label": "Training text", "info": _text_info(DEFAULT_DATASET), "elem_id": "dataset"}
        self.dataset = gr.Dropdown([*names, OWN_TEXT], value=DEFAULT_DATASET, **options)
        with gr.Column(visible=False) as self._own_text_group:
            self.files = gr.File(label="Text files (UTF-8)", file_count="multiple", height=140, elem_id="files")
            self.pasted = gr.Textbox(label="Or paste text here", lines=4, max_lines=8, elem_id="pasted")

    def _rest(self, preset: Preset) -> None:
        """Build the controls that most trainings leave unchanged."""
        with gr.Accordion("More settings", open=False, elem_id="more"):
            self.run = gr.Textbox(label="Run name", placeholder="from the text and the preset", elem_id="run-name")
            datasets = {name: cls.model_fields for name, cls in plugins.datasets().items()}
            self._dataset_options = PartOptions(datasets, DEFAULT_DATASET, prefix="dataset")
            tokenizers = {name: _tokenizer_options(name) for name in plugins.tokenizers()}
            self.tokenizer = gr.Dropdown(list(tokenizers), value=preset.tokenizer, label="Tokenizer", elem_id="tokenizer")
            self._tokenizer_options = PartOptions(tokenizers, preset.tokenizer, prefix="tokenizer")
            rest = {name: field for name, field in FIELDS.items() if name not in MAIN}
            parts: dict[str, Iterable[str]] = {"optimizer": plugins.optimizers(), "schedule": plugins.schedules()}
            self.fields |= controls(rest, defaults(preset), prefix="train", choices=parts)
            self._reading = controls(READING, prefix="text")

    def _wire(self) -> None:
        outputs: list[Any] = [self.dataset, self._own_text_group, *self._dataset_options.groups]
        self.dataset.input(self._select_text, self.dataset, outputs, **QUIET)
        self.tokenizer.change(self._tokenizer_options.show, self.tokenizer, self._tokenizer_options.groups, **QUIET)
        self.preset.input(self._select_preset, self.preset, [self.preset, self.tokenizer, *self.fields.values()], **QUIET)
        shape: list[Any] = [self.fields[name] for name in (*ModelConfig.model_fields, "batch_size")]
        inputs = {self.preset, self.tokenizer, *self.fields.values()}
        changes = [control.change for control in (*shape, self.tokenizer)]
        gr.on(changes, self._describe_size, inputs, self.size, trigger_mode="always_last", **QUIET)

    def _select_text(self, dataset: str) -> list[Any]:
        """Return updates after another training text was selected."""
        info = gr.Dropdown(info=_text_info(dataset))
        return [info, gr.Column(visible=dataset == OWN_TEXT), *self._dataset_options.show(dataset)]

    def _select_preset(self, name: str) -> list[Any]:
        """Return updates with a preset's summary, tokenizer and values."""
        preset = PRESETS[name]
        values = defaults(preset)
        boxes = (shown(values[name]) if isinstance(box, gr.Textbox) else values[name] for name, box in self.fields.items())
        return [gr.Radio(info=preset.summary), preset.tokenizer, *boxes]

    def _describe_size(self, values: Values) -> str:
        preset = PRESETS[values[self.preset]]
        return size_line(preset, changed(read(self.fields, values), defaults(preset)), values[self.tokenizer])

    @property
    def inputs(self) -> set[Component]:
        """Controls that `start` reads."""
        inputs = {self.dataset, self.files, self.pasted, self.preset, self.tokenizer, self.run}
        inputs |= {*self.fields.values(), *self._reading.values()}
        return inputs | self._dataset_options.components | self._tokenizer_options.components

    def start(self, values: Values) -> jobs.Job:
        """Start a training with the form's values.

        Raises:
            UserError: a setting or the text is invalid, or another training is running.

        """
        preset, dataset, tokenizer = values[self.preset], values[self.dataset], values[self.tokenizer]
        settings = changed(read(self.fields, values), defaults(PRESETS[preset]))
        check_training(*configs(PRESETS[preset], settings))  # raise here rather than in the job's log
        settings |= changed(read(self._reading, values), {name: field.default for name, field in READING.items()})
        settings["preset"] = preset
        settings["tokenizer"] = tokenizer if tokenizer != PRESETS[preset].tokenizer else None
        options = self._tokenizer_options.changed(tokenizer, values)
        settings["tokenizer_option"] = [f"{name}={value}" for name, value in options.items()]
        data = self._own_text(values) if dataset == OWN_TEXT else []
        settings["dataset"] = None if data else self._dataset(dataset, values)
        stem = f"{data[0].stem if data else dataset}-{preset}"
        return jobs.start_training(data, run=shown(values[self.run]).strip() or None, stem=stem, settings=settings)

    def _dataset(self, name: str, values: Values) -> str:
        """Return the selected dataset with its options, validated."""
        dataset = format_spec(name, self._dataset_options.changed(name, values))
        plugins.create_dataset(dataset)
        return dataset

    def _own_text(self, values: Values) -> list[Path]:
        """Return the uploaded files, or a new file with the pasted text."""
        pasted = shown(values[self.pasted])
        if values[self.files] and pasted.strip():
            raise DataError(f"{OWN_TEXT}: both files and pasted text; remove one of them")
        if values[self.files]:
            return [Path(path) for path in values[self.files]]
        if not pasted.strip():
            raise DataError(f"{OWN_TEXT}: no text yet; upload a text file or paste some text")
        path = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))) / "pasted.txt"
        path.write_text(pasted, encoding="utf-8", newline="")
        return [path]


def _text_info(dataset: str) -> str:
    """Return the help text of the selected training text."""
    if dataset == OWN_TEXT:
        return "text files or pasted text; a few hundred kilobytes are a good start"
    return unformatted(plugins.datasets()[dataset].summary)


def _tokenizer_options(name: str) -> dict[str, FieldInfo]:
    """Return a tokenizer's options without the vocabulary size, which is a setting of the model."""
    return {key: field for key, field in plugins.tokenizer_options(name).model_fields.items() if key != "vocab_size"}


def defaults(preset: Preset) -> dict[str, Any]:
    """Return a preset's values by field name."""
    return preset.model.model_dump() | preset.train.model_dump()


def size_line(preset: Preset, settings: dict[str, Any], tokenizer: str) -> str:
    """Return the parameter count and a memory estimate as HTML, or the error if the shape is invalid."""
    try:
        model = _shape(preset, settings, tokenizer)
        _, train = configs(preset, {"batch_size": settings.get("batch_size")})
    except Error as error:
        return f'<span class="wrong">{escape(str(error))}</span>'
    needed, available = memory(model, train.batch_size), psutil.virtual_memory().available
    warning = "" if needed < available else ' class="wrong"'
    parameters = f"{_amount(model.n_parameters)} parameters"
    if tokenizer != preset.tokenizer and not _vocabulary(tokenizer):  # its size depends on the tokenizer or the text
        layers = model.n_parameters - model.vocab_size * model.n_embd
        parameters = f"{_amount(layers)} parameters plus {model.n_embd} per token of the vocabulary"
    return f"<span{warning}>{parameters} · needs about {in_units(needed)} of memory, {in_units(available)} available</span>"


def _shape(preset: Preset, settings: dict[str, Any], tokenizer: str) -> ModelConfig:
    """Return the model's shape, with the default vocabulary size of a tokenizer other than the preset's."""
    vocabulary = _vocabulary(tokenizer)
    default = {"vocab_size": vocabulary.default} if vocabulary and tokenizer != preset.tokenizer else {}
    shape = {name: value for name, value in settings.items() if name in ModelConfig.model_fields}
    return preset.model.with_changes(**default | shape)


def _vocabulary(tokenizer: str) -> FieldInfo | None:
    """Return a tokenizer's option for the vocabulary size, if it has one."""
    return plugins.tokenizer_options(tokenizer).model_fields.get("vocab_size")


def memory(model: ModelConfig, batch_size: int) -> int:
    """Estimate the bytes needed to train in float32 on the CPU.

    The terms: the program; weights, gradients and Adam's moments; activations and logits. The factors are fitted to four measured
    shapes, with errors below 10%.
    """
    tokens = batch_size * model.n_positions
    activations = tokens * (70 * model.n_embd * model.n_layer + 18 * model.vocab_size)
    return PROGRAM + 16 * model.n_parameters + activations


def _amount(number: int) -> str:
    """Format a count: 812 thousand, 1.6 billion."""
    for size, word in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return str(number)
