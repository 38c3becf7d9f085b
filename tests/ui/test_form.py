"""The training form: a control for every setting, and the training that its values start."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from webpage import by_id

from gpt2demo import plugins
from gpt2demo.config import PRESETS, DataConfig, ModelConfig, TrainConfig
from gpt2demo.errors import Error, UserError
from gpt2demo.training import jobs
from gpt2demo.ui.controls import shown
from gpt2demo.ui.form import TrainingForm, size_line


class Form:
    """The values of a form, and a `start` that records its training instead of starting it."""

    def __init__(self, form: TrainingForm, ids: dict[str, Any]) -> None:
        self.form, self.ids = form, ids
        self.values: dict[Any, Any] = {component: component.value for component in form.inputs}
        self.started: dict[str, Any] = {}

    def start(self, **changes: Any) -> dict[str, Any]:
        """Start with some values changed, by element id with `__` for `-`; return the settings that are set."""
        changed = {self.ids[name.replace("__", "-")]: value for name, value in changes.items()}
        self.form.start(self.values | changed)
        return {name: value for name, value in self.started["settings"].items() if value not in (None, [])}


@pytest.fixture(scope="module")
def built() -> tuple[TrainingForm, dict[str, Any]]:
    """Build the form, which keeps no values, once for all tests; return it and its components by id."""
    with gr.Blocks() as page:
        form = TrainingForm()
    return form, by_id(page)


@pytest.fixture
def form(built: tuple[TrainingForm, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Form:
    """The form with its initial values."""
    form = Form(*built)
    monkeypatch.setattr(jobs, "start_training", lambda data, **rest: form.started.update(rest, data=data))
    return form


def test_every_setting_has_a_control_with_its_default_and_help(form: Form) -> None:
    nano = PRESETS["nano"].model.model_dump() | PRESETS["nano"].train.model_dump()
    for name, field in (ModelConfig.model_fields | TrainConfig.model_fields).items():
        control = form.ids[f"train-{name}"]
        assert control.info == field.description
        assert control.value in (nano[name], shown(nano[name])), name
    for name in DataConfig.model_fields.keys() - {"sha256"}:  # the checksums of URLs, which the page does not read
        assert form.ids[f"text-{name}"].info == DataConfig.model_fields[name].description


def test_controls_match_the_type_of_their_setting(form: Form) -> None:
    assert (form.ids["train-n_layer"].step, form.ids["train-learning_rate"].step) == (1, 0.0001)
    assert isinstance(form.ids["train-dtype"], gr.Dropdown)
    assert isinstance(form.ids["train-min_learning_rate"], gr.Slider)
    assert form.ids["train-epochs"].value == ""  # an empty gr.Number would show 0


@pytest.mark.parametrize(("name", "registered"), [("schedule", plugins.schedules), ("optimizer", plugins.optimizers)])
def test_parts_of_plugins_are_chosen_by_name(form: Form, name: str, registered: Callable[[], dict[str, Any]]) -> None:
    control = form.ids[f"train-{name}"]
    assert isinstance(control, gr.Dropdown)
    assert [choice for choice, _ in control.choices] == list(registered())


def test_numbers_are_validated_by_the_settings_alone(form: Form) -> None:
    """Gradio would refuse the whole form because of a hidden control, without naming it."""
    number = form.ids["train-n_layer"]
    assert [number.preprocess(value) for value in (0, 3, 2.7, 1e9)] == [0, 3, 2.7, 1e9]


def test_start_alone_trains_the_preset_nano_on_the_example_stories(form: Form) -> None:
    assert form.start() == {"preset": "nano", "dataset": "tales"}
    assert (form.started["data"], form.started["run"], form.started["stem"]) == ([], None, "tales-nano")


def test_only_values_that_differ_from_the_preset_are_passed_on(form: Form) -> None:
    settings = form.start(
        train__steps="30", train__n_layer=3, train__learning_rate=0.003, dataset__tales__stories=50, tokenizer="char"
    )
    assert settings == {"preset": "nano", "dataset": "tales:stories=50", "tokenizer": "char", "n_layer": 3, "steps": "30"}
    assert "--steps=30" in jobs.options(form.started["settings"])


def test_the_batch_size_may_be_auto(form: Form) -> None:
    settings = form.start(train__batch_size="auto", train__checkpoint_activations=True)
    assert (settings["batch_size"], settings["checkpoint_activations"]) == ("auto", True)
    assert "parameters · needs about" in size_line(PRESETS["nano"], {"batch_size": "auto"}, "bpe")


def test_a_run_name_is_passed_on_without_spaces_around_it(form: Form) -> None:
    form.start(run__name=" mine ")
    assert form.started["run"] == "mine"


def test_options_for_reading_text_are_passed_on(form: Form) -> None:
    assert form.start(text__unique="lines", text__field="body") == {
        "preset": "nano",
        "dataset": "tales",
        "unique": "lines",
        "field": "body",
    }


def test_selecting_a_preset_fills_in_its_values(form: Form) -> None:
    for name in PRESETS:
        _, tokenizer, *filled = form.form._select_preset(name)
        form.values |= dict(zip(form.form.fields.values(), filled, strict=True)) | {form.form.preset: name}
        form.values[form.form.tokenizer] = tokenizer if tokenizer in plugins.tokenizers() else "byte"
        assert form.start().keys() <= {"preset", "dataset", "tokenizer"}, name


def test_pasted_text_becomes_a_file_with_the_same_bytes(form: Form) -> None:
    assert "dataset" not in form.start(dataset="my own text", pasted="Grüße\r\n")
    assert form.started["data"][0].read_bytes() == "Grüße\r\n".encode()


def test_an_uploaded_file_gives_the_run_its_name(form: Form, tmp_path: Path) -> None:
    assert "dataset" not in form.start(dataset="my own text", files=[str(tmp_path / "poems.txt")])
    assert (form.started["data"], form.started["stem"]) == ([tmp_path / "poems.txt"], "poems-nano")


def test_own_text_is_either_pasted_or_uploaded(form: Form) -> None:
    with pytest.raises(Error, match="no text yet"):
        form.start(dataset="my own text")
    with pytest.raises(Error, match="both files and pasted text"):
        form.start(dataset="my own text", files=["poems.txt"], pasted="more")
    assert not form.started


def test_invalid_settings_are_refused_before_a_training_starts(form: Form) -> None:
    for control, value, message in (
        ("train-n_embd", 130, "n_embd=130 is not divisible by n_head=6"),
        ("train-steps", "many", "steps='many'"),
        ("train-learning_rate", float("nan"), "learning_rate='nan'"),
        ("train-n_layer", 2.7, "n_layer='2.7'"),
        ("train-optimizer", "foo", "optimizer 'foo'"),
        ("dataset-tales-stories", 0, "dataset 'tales': stories='0'"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            form.start(**{control.replace("-", "__"): value})
    assert not form.started


@pytest.mark.parametrize(
    ("preset", "tokenizer", "text"),
    [
        ("nano", "bpe", "1.11 million parameters ·"),
        ("nano", "byte", "915 thousand parameters plus 192 per token of the vocabulary ·"),
        ("seed", "byte", "3.25 million parameters ·"),
    ],
)
def test_the_size_is_shown_without_guessing_a_vocabulary(preset: str, tokenizer: str, text: str) -> None:
    assert text in size_line(PRESETS[preset], {}, tokenizer)


def test_an_invalid_shape_is_reported_in_place_of_the_size() -> None:
    assert "n_embd=130 is not divisible by n_head=6" in size_line(PRESETS["nano"], {"n_embd": 130}, "bpe")
