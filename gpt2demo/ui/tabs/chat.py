"""The Chat tab: a prompt, its streamed continuation, and controls for every sampler.

Generated text is escaped, and Markdown is off. Each message is a new prompt without the earlier ones, as in the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from gpt2demo import plugins
from gpt2demo.config import DEFAULT_CHAIN, EngineName, GenerateConfig, format_spec, parse_spec
from gpt2demo.errors import RunError
from gpt2demo.generation.generate import Generation, Model
from gpt2demo.interfaces import Sampler
from gpt2demo.ui import models
from gpt2demo.ui.controls import QUIET, Controls, Values, controls, read, shown
from gpt2demo.ui.page import Selection
from gpt2demo.ui.text import escape, exactly, unformatted
from gpt2demo.ui.toast import warn

NOTE = "Base models continue text; they do not follow instructions. Earlier messages are not part of the prompt."
EXAMPLES = ("Once upon a time, there was a little", "One morning, a small bear named", "Long ago, a curious girl")
UPDATE_SECONDS = 0.05  # between updates of a growing answer
NO_SAMPLER = format_spec("temperature", {"value": 1})  # no effect; an empty chain would select the default one


class Conversation:
    """The conversation in one browser.

    Attributes:
        messages: escaped messages in the format of gr.Chatbot.
        stopping: whether the current generation is to stop.
        model_selected: whether the user has selected the model.

    """

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        self.stopping = self.model_selected = False

    def clear(self) -> None:
        """Remove all messages and stop the current generation."""
        self.messages = []
        self.stopping = True


class SamplerControls:
    """A checkbox and the options of every sampler. Samplers are applied in the order of the page.

    Args:
        samplers: name -> class.

    """

    def __init__(self, samplers: dict[str, type[Sampler]]) -> None:
        self._use: dict[str, gr.Checkbox] = {}
        self._fields: dict[str, Controls] = {}
        defaults = {parse_spec(one)[0]: plugins.create_sampler(one).model_dump() for one in DEFAULT_CHAIN}
        with gr.Group():
            for name, cls in samplers.items():
                self._add(name, cls, defaults.get(name))

    def _add(self, name: str, cls: type[Sampler], defaults: dict[str, Any] | None) -> None:
        """Build the controls of a sampler; `defaults` are its options in the default chain, None if it is not part of it."""
        used = defaults is not None
        info = (cls.__doc__ or "").partition("\n")[0].partition(" (")[0]
        self._use[name] = gr.Checkbox(used, label=name, info=unformatted(info), elem_id=f"use-{name}", elem_classes="use")
        with gr.Column(visible=used) as options:
            self._fields[name] = controls(cls.model_fields, defaults, prefix=f"sampler-{name}")
        self._use[name].change(lambda checked: gr.Column(visible=checked), self._use[name], options, **QUIET)

    @property
    def components(self) -> set[Component]:
        """All controls, as inputs of a handler."""
        return {*self._use.values(), *(component for fields in self._fields.values() for component in fields.values())}

    def chain(self, values: Values) -> tuple[str, ...]:
        """Return the selected samplers in the form of `GenerateConfig.samplers`."""
        used = (name for name, box in self._use.items() if values[box])
        return tuple(format_spec(name, read(self._fields[name], values)) for name in used) or (NO_SAMPLER,)


class ChatTab:
    """Build the tab in the current gr.Tab.

    Attributes:
        model: the list of models, output of `newest`, input and output of `refresh`.
        pool: the loaded models.
        conversation: a gr.State with the browser's `Conversation`, input of `after_training`.

    """

    def __init__(self) -> None:
        self.pool = models.ModelPool()
        self.conversation = gr.State(Conversation)
        with gr.Row():
            with gr.Column(scale=7, min_width=320):
                self._dialogue()
            with gr.Column(scale=5, min_width=320):
                self._settings()
        self._wire()

    def _dialogue(self) -> None:
        """Build the conversation and the prompt."""
        self._chat = gr.Chatbot(
            label="Conversation",
            show_label=False,
            render_markdown=False,
            latex_delimiters=[],  # by default `$$…$$` is a formula, also without Markdown
            height="60vh",
            layout="bubble",
            buttons=[],
            feedback_options=None,
            group_consecutive_messages=False,
            placeholder="The model continues your text.",
            examples=[{"text": text} for text in EXAMPLES],
            elem_id="chat",
        )
        with gr.Row(elem_classes="prompt"):
            self._prompt = gr.Textbox(
                placeholder="Beginning of a text …",
                label="Prompt",
                show_label=False,
                container=False,
                scale=8,
                min_width=120,
                lines=1,
                max_lines=6,
                elem_id="prompt",
            )
            self._send = gr.Button("Send", variant="primary", scale=1, min_width=60, elem_id="send")
            self._stop = gr.Button("Stop", variant="stop", scale=1, min_width=60, visible=False, elem_id="stop-chat")
            self._clear = gr.Button("Clear", scale=1, min_width=60, elem_id="clear")
        with gr.Column(elem_classes="under"):
            self._stats = gr.HTML(elem_id="stats")
            gr.HTML(f"<span>{NOTE}</span>", elem_classes="note")

    def _settings(self) -> None:
        """Build the controls of model, engine, length and samplers."""
        with gr.Group():
            self.model = gr.Dropdown([], label="Model", info="runs and exports, newest first", elem_id="model")
            options: dict[str, Any] = {"label": "Engine", "info": "onnx needs an export", "elem_id": "engine"}
            self._engine = gr.Radio(list(get_args(EngineName)), value="auto", **options)
            fields = {name: GenerateConfig.model_fields[name] for name in ("max_new_tokens", "seed")}
            self._length = controls(fields, prefix="chat")
            self._one_line = gr.Checkbox(True, label="Stop at the end of the line", elem_id="one-line")
        with gr.Accordion("Samplers (applied from top to bottom)", elem_id="samplers"):
            self._samplers = SamplerControls(plugins.samplers())

    def _wire(self) -> None:
        inputs = {self.conversation, self._prompt, self.model, self._engine, self._one_line, *self._length.values()}
        answer: dict[str, Any] = {
            "fn": self._answer,
            "inputs": inputs | self._samplers.components,
            "outputs": [self._chat, self._prompt, self._send, self._stop, self._stats],
            "concurrency_limit": 2,
            **QUIET,
        }
        gr.on([self._send.click, self._prompt.submit], **answer)
        self._chat.example_select(self._on_example, None, self._prompt, **QUIET).then(**answer)
        self._stop.click(self._on_stop, self.conversation, None, **QUIET)
        self.model.input(self._on_model, self.conversation, None, **QUIET)
        gr.on([self._clear.click, self._chat.clear], self._on_clear, self.conversation, [self._chat, self._stats], **QUIET)

    def newest(self) -> Any:
        """Return an update of the list of models that selects the newest."""
        return self.refresh(None)

    def after_training(self, conversation: Conversation, selected: str | None) -> Any:
        """Return an update of the list of models that selects the newest, unless the user has selected one."""
        return self.refresh(selected if conversation.model_selected else None)

    def refresh(self, selected: str | None) -> Any:
        """Return an update of the list of models. The selection stays if it still exists."""
        choices = models.choices()
        available = [model for _, model in choices]
        return gr.Dropdown(choices, value=selected if selected in available else next(iter(available), None))

    def _on_example(self, selected: Selection) -> str:
        text = selected.value.get("text") if isinstance(selected.value, dict) else None
        return text if text in EXAMPLES else ""

    def _on_stop(self, conversation: Conversation) -> None:
        conversation.stopping = True

    def _on_model(self, conversation: Conversation) -> None:
        conversation.model_selected = True

    def _on_clear(self, conversation: Conversation) -> tuple[list[Any], str]:
        conversation.clear()
        return [], ""

    def _config(self, values: Values) -> GenerateConfig:
        stop = ("\n",) if values[self._one_line] else ()
        return GenerateConfig.create(**read(self._length, values), samplers=self._samplers.chain(values), stop=stop)

    def _answer(self, values: Values) -> Iterator[dict[Component, Any]]:
        """Yield updates with the growing continuation of the prompt."""
        conversation, prompt, config = values[self.conversation], shown(values[self._prompt]), self._config(values)
        if values[self.model] is None:
            raise RunError("no model yet; train one first")
        bubble = {"role": "assistant", "content": ""}
        conversation.messages = [*conversation.messages, {"role": "user", "content": exactly(prompt)}, bubble]
        conversation.stopping = False
        yield {self._chat: conversation.messages, self._prompt: "", self._stats: "", **self._buttons(True)}
        try:
            with self.pool.borrow(values[self.model], values[self._engine], warn) as model:
                generation = model.generate(prompt, config)
                if generation.dropped:
                    warn(f"the prompt is longer than the context; its first {generation.dropped} tokens are ignored")
                for text in _growing(generation, conversation):
                    bubble["content"] = exactly(text)
                    yield {self._chat: conversation.messages}
                visible = conversation.messages[-1:] == [bubble]  # not cleared meanwhile
                yield {self._stats: _stats(model, generation) if visible else "", **self._buttons(False)}
        except Exception:
            conversation.messages = conversation.messages[:-2]
            yield {self._chat: conversation.messages, self._prompt: prompt, **self._buttons(False)}
            raise

    def _buttons(self, generating: bool) -> dict[Component, Any]:
        """Return updates that show Stop while generating, otherwise Send."""
        return {self._send: gr.Button(visible=not generating), self._stop: gr.Button(visible=generating)}


def _growing(generation: Generation, conversation: Conversation) -> Iterator[str]:
    """Yield the text so far every `UPDATE_SECONDS`, and once at the end."""
    updated = time.monotonic()
    with closing(generation):
        for _ in generation:
            if conversation.stopping:
                break
            if time.monotonic() - updated >= UPDATE_SECONDS:
                updated = time.monotonic()
                yield generation.text
    yield generation.text


def _stats(model: Model, generation: Generation) -> str:
    """Return the speed, and the seed and engine needed to generate the same text again, as HTML."""
    count = len(generation.ids)
    facts = [
        *(["empty: the model ended the line immediately"] if generation.reason == "stop" and not generation.text else []),
        f"{count} token{'' if count == 1 else 's'}",
        f"{generation.tokens_per_second:,.0f} tokens/s",
        f"first token after {generation.time_to_first_token_ms:.0f} ms",
        f"seed {generation.seed}",
        f"{model.engine.name} on {model.engine.provider}",
    ]
    return "".join(f"<span>{escape(fact)}</span>" for fact in facts)
