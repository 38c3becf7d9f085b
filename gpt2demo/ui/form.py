"""What to train: text, preset, tokenizer and settings. All controls of settings come from the fields of the configs."""

from __future__ import annotations

import html
import os
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
from gradio.components import Component
from pydantic.fields import FieldInfo

from gpt2demo import plugins
from gpt2demo.config import PRESETS, DataConfig, ModelConfig, Preset, TrainConfig
from gpt2demo.errors import DataError, Error
from gpt2demo.training import jobs
from gpt2demo.ui.controls import Controls, PartOptions, Values, changed, controls, read, shown, spec

DEFAULT_DATASET, DEFAULT_PRESET = "tales", "nano"
OWN_TEXT = "my own text"
MAIN = ("steps", "epochs", "batch_size", "n_layer", "n_head", "n_embd", "n_positions", "dropout", "learning_rate")
PROGRAM = 370 * 2**20  # bytes of Python and PyTorch alone
FIELDS = {**ModelConfig.model_fields, **TrainConfig.model_fields}
READING = {name: field for name, field in DataConfig.model_fields.items() if name != "sha256"}  # there are no URLs here


class TrainingForm:
    """Builds the form in the present layout block, and starts what it says."""

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
        """Where the text comes from: an example dataset, files, or what is pasted."""
        names = sorted(plugins.datasets(), key=lambda name: (name != DEFAULT_DATASET, name))
        words: dict[str, Any] = {"label": "Text to learn", "info": _about_text(DEFAULT_DATASET), "elem_id": "dataset"}
        self.dataset = gr.Dropdown([*names, OWN_TEXT], value=DEFAULT_DATASET, **words)
        with gr.Column(visible=False) as self._own:
            self.files = gr.File(label="Text files in UTF-8", file_count="multiple", height=140, elem_id="files")
            self.pasted = gr.Textbox(label="or paste it here", lines=4, max_lines=8, elem_id="pasted")

    def _rest(self, preset: Preset) -> None:
        """What most trainings leave as it is."""
        with gr.Accordion("More settings", open=False, elem_id="more"):
            self.run = gr.Textbox(label="run name", placeholder="made from the text and the preset", elem_id="run-name")
            datasets = {name: cls.model_fields for name, cls in plugins.datasets().items()}
            self._dataset_options = PartOptions(datasets, DEFAULT_DATASET, prefix="dataset")
            tokenizers = {name: _tokenizer_options(name) for name in plugins.tokenizers()}
            self.tokenizer = gr.Dropdown(list(tokenizers), value=preset.tokenizer, label="tokenizer", elem_id="tokenizer")
            self._tokenizer_options = PartOptions(tokenizers, preset.tokenizer, prefix="tokenizer")
            rest = {name: field for name, field in FIELDS.items() if name not in MAIN}
            self.fields |= controls(rest, defaults(preset), prefix="train")
            self._reading = controls(READING, prefix="text")

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.dataset.input(self._choose_text, self.dataset, [self.dataset, self._own, *self._dataset_options.groups], **quiet)
        self.tokenizer.change(self._tokenizer_options.show, self.tokenizer, self._tokenizer_options.groups, **quiet)
        outputs = [self.preset, self.tokenizer, *self.fields.values()]
        self.preset.input(self._choose_preset, self.preset, outputs, **quiet)
        shape: list[Any] = [self.fields[name] for name in (*ModelConfig.model_fields, "batch_size")]
        inputs = {self.preset, self.tokenizer, *self.fields.values()}
        changes = [control.change for control in (*shape, self.tokenizer)]
        gr.on(changes, self._describe_size, inputs, self.size, trigger_mode="always_last", **quiet)

    def _choose_text(self, dataset: str) -> list[Any]:
        about = gr.Dropdown(info=_about_text(dataset))
        return [about, gr.Column(visible=dataset == OWN_TEXT), *self._dataset_options.show(dataset)]

    def _choose_preset(self, name: str) -> list[Any]:
        """A preset's summary, tokenizer and values."""
        preset = PRESETS[name]
        values = defaults(preset)
        boxes = (shown(values[name]) if isinstance(box, gr.Textbox) else values[name] for name, box in self.fields.items())
        return [gr.Radio(info=preset.summary), preset.tokenizer, *boxes]

    def _describe_size(self, values: Values) -> str:
        preset = PRESETS[values[self.preset]]
        return size_line(preset, changed(read(self.fields, values), defaults(preset)), values[self.tokenizer])

    @property
    def inputs(self) -> set[Component]:
        """The controls that `start` reads."""
        own = {self.dataset, self.files, self.pasted, self.preset, self.tokenizer, self.run}
        own |= {*self.fields.values(), *self._reading.values()}
        return own | self._dataset_options.components | self._tokenizer_options.components

    def start(self, values: Values) -> jobs.Job:
        """Start the training that the form describes.

        Raises:
            UserError: a setting or the text cannot be used, or another training is running.

        """
        from gpt2demo.training.prepare import check_training, configs  # it brings torch along

        preset, dataset, tokenizer = values[self.preset], values[self.dataset], values[self.tokenizer]
        settings = changed(read(self.fields, values), defaults(PRESETS[preset]))
        check_training(*configs(PRESETS[preset], settings))  # complains here and now instead of in the job's log
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
        """The example dataset that is chosen, with its options."""
        chosen = spec(name, self._dataset_options.changed(name, values))
        plugins.create_dataset(chosen)
        return chosen

    def _own_text(self, values: Values) -> list[Path]:
        """Uploaded files, or a file with what was pasted."""
        pasted = shown(values[self.pasted])
        if values[self.files] and pasted.strip():
            raise DataError(f"{OWN_TEXT}: there are files and pasted text; take one of them away")
        if values[self.files]:
            return [Path(path) for path in values[self.files]]
        if not pasted.strip():
            raise DataError(f"{OWN_TEXT}: there is none yet; choose a text file or paste some text")
        path = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))) / "pasted.txt"
        path.write_text(pasted, encoding="utf-8", newline="")
        return [path]


def _about_text(dataset: str) -> str:
    if dataset == OWN_TEXT:
        return "a file or some lines; some hundred kilobytes are a good start"
    return plugins.datasets()[dataset].summary


def _tokenizer_options(name: str) -> dict[str, FieldInfo]:
    """A tokenizer's options but the vocabulary's size, which is a setting of the model."""
    return {key: field for key, field in plugins.tokenizer_options(name).model_fields.items() if key != "vocab_size"}


def defaults(preset: Preset) -> dict[str, Any]:
    """A preset's values by field name."""
    return preset.model.model_dump() | preset.train.model_dump()


def size_line(preset: Preset, settings: dict[str, Any], tokenizer: str) -> str:
    """Parameters and a rough need of memory, as HTML; or what is wrong with the shape."""
    vocabulary = plugins.tokenizer_options(tokenizer).model_fields.get("vocab_size")
    known = bool(vocabulary) or tokenizer == preset.tokenizer
    usual = {"vocab_size": vocabulary.default} if vocabulary and tokenizer != preset.tokenizer else {}
    shape = {name: value for name, value in settings.items() if name in ModelConfig.model_fields}
    try:
        model = preset.model.with_changes(**usual | shape)
        batch_size = TrainConfig.create(steps=1, batch_size=settings.get("batch_size", preset.train.batch_size)).batch_size
    except Error as error:
        return f'<span class="wrong">{html.escape(str(error))}</span>'
    need, free = memory(model, batch_size), psutil.virtual_memory().available
    fits = "" if need < free else ' class="wrong"'
    parameters = f"{_amount(model.n_parameters)} parameters"
    if not known:  # the tokenizer decides, or the text
        layers = model.n_parameters - model.vocab_size * model.n_embd
        parameters = f"{_amount(layers)} parameters and {model.n_embd} for each token of the vocabulary"
    words = f"{parameters} · needs roughly {_gigabytes(need)} of memory"
    return f"<span{fits}>{words}; {_gigabytes(free)} are free</span>"


def memory(model: ModelConfig, batch_size: int) -> int:
    """Roughly the bytes of a training in float32 on the CPU: the program; weights, gradients, Adam's moments; layers; logits.

    The factors are fitted to four measured shapes, which it meets within a tenth.
    """
    tokens = batch_size * model.n_positions
    kept = tokens * (70 * model.n_embd * model.n_layer + 18 * model.vocab_size)
    return PROGRAM + 16 * model.n_parameters + kept


def _amount(number: int) -> str:
    """A number for people: 812 thousand, 1.6 billion."""
    for size, word in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return str(number)


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"
