"""The tab Chat: a prompt, its continuation as it is written, and every sampler's controls.

Model text is shown as text: it is escaped, and Markdown is off. Each message starts afresh, as in the terminal.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from gpt2demo import plugins
from gpt2demo.config import DEFAULT_CHAIN, EngineName, GenerateConfig, parse_spec
from gpt2demo.errors import RunError
from gpt2demo.generation.generate import Generation, Model
from gpt2demo.interfaces import Sampler
from gpt2demo.ui import models
from gpt2demo.ui.controls import Controls, Values, controls, read, spec
from gpt2demo.ui.toast import toasting, warn

NOTE = "Base models continue your text; they do not follow instructions. Every message starts afresh."
EXAMPLES = ("Once upon a time, there was a little", "One morning, a small bear named", "Long ago, a curious girl")
QUOTED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
FRAME = 0.05  # seconds between two pictures of a growing answer
NO_SAMPLER = spec("temperature", {"value": 1})  # changes nothing; an empty chain would mean the default one


class Conversation:
    """What one browser has said and heard.

    Attributes:
        messages: as gr.Chatbot wants them, escaped.
        stopping: whether the answer that is being written shall end.
        chosen: whether the model was chosen by hand.

    """

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        self.stopping = self.chosen = False

    def clear(self) -> None:
        """Forget everything. An answer that is being written ends."""
        self.messages = []
        self.stopping = True


class SamplerControls:
    """A checkbox and the fields of every sampler there is; they run in the order of the page.

    Args:
        samplers: name -> class.

    """

    def __init__(self, samplers: dict[str, type[Sampler]]) -> None:
        self._use: dict[str, gr.Checkbox] = {}
        self._fields: dict[str, Controls] = {}
        usual = {parse_spec(one)[0]: plugins.create_sampler(one).model_dump() for one in DEFAULT_CHAIN}
        with gr.Group():
            for name, cls in samplers.items():
                self._add(name, cls, usual.get(name))

    def _add(self, name: str, cls: type[Sampler], usual: dict[str, Any] | None) -> None:
        about = (cls.__doc__ or "").partition("\n")[0].partition(" (")[0]
        self._use[name] = gr.Checkbox(usual is not None, label=name, info=about, elem_id=f"use-{name}", elem_classes="use")
        with gr.Column(visible=usual is not None) as box:
            self._fields[name] = controls(cls.model_fields, usual, prefix=f"sampler-{name}")
        self._use[name].change(
            lambda used: gr.Column(visible=used), self._use[name], box, show_progress="hidden", api_visibility="private"
        )

    @property
    def components(self) -> set[Component]:
        """All controls, for a handler's inputs."""
        return {*self._use.values(), *(component for fields in self._fields.values() for component in fields.values())}

    def chain(self, values: Values) -> tuple[str, ...]:
        """The samplers that are in use, as `GenerateConfig` wants them."""
        used = (name for name, box in self._use.items() if values[box])
        return tuple(spec(name, read(self._fields[name], values)) for name in used) or (NO_SAMPLER,)


class ChatTab:
    """Builds the tab in the present gr.Tab.

    Attributes:
        model: the list of models, output of `newest`, input and output of `refresh`.
        talk: the browser's `Conversation`, input of `after_training`.

    """

    def __init__(self) -> None:
        self._loaded = models.Loaded()
        self.talk = gr.State(Conversation)
        with gr.Row():
            with gr.Column(scale=7, min_width=320):
                self._conversation()
            with gr.Column(scale=5, min_width=320):
                self._settings()
        self._wire()

    def _conversation(self) -> None:
        self._chat = gr.Chatbot(
            label="Conversation",
            show_label=False,
            render_markdown=False,
            height="60vh",
            layout="bubble",
            buttons=[],
            feedback_options=None,
            group_consecutive_messages=False,
            placeholder="Begin a text. The model goes on.",
            examples=[{"text": text} for text in EXAMPLES],
            elem_id="chat",
        )
        with gr.Row(elem_classes="prompt"):
            self._prompt = gr.Textbox(
                placeholder="Begin a text …",
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
        with gr.Group():
            self.model = gr.Dropdown([], label="Model", info="runs and exports, the newest first", elem_id="model")
            words: dict[str, Any] = {"label": "Engine", "info": "what computes; onnx needs an export", "elem_id": "engine"}
            self._engine = gr.Radio(list(get_args(EngineName)), value="auto", **words)
            fields = {name: GenerateConfig.model_fields[name] for name in ("max_new_tokens", "seed")}
            self._length = controls(fields, prefix="chat")
            self._one_line = gr.Checkbox(True, label="stop at the end of the line", elem_id="one-line")
        with gr.Accordion("Samplers, applied from top to bottom", elem_id="samplers"):
            self._samplers = SamplerControls(plugins.samplers())

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        own = {self.talk, self._prompt, self.model, self._engine, self._one_line, *self._length.values()}
        answer: dict[str, Any] = {
            "fn": self._answer,
            "inputs": own | self._samplers.components,
            "outputs": [self._chat, self._prompt, self._send, self._stop, self._stats],
            "concurrency_limit": 2,
            **quiet,
        }
        gr.on([self._send.click, self._prompt.submit], **answer)
        self._chat.example_select(self._take_example, None, self._prompt, **quiet).then(**answer)
        self._stop.click(self._on_stop, self.talk, None, **quiet)
        self.model.input(self._on_choice, self.talk, None, **quiet)
        gr.on([self._clear.click, self._chat.clear], self._on_clear, self.talk, [self._chat, self._stats], **quiet)

    # ------------------------------------------------------------------------------------------ which model

    def newest(self) -> Any:
        """An update of the list of models that chooses the newest."""
        return self.refresh(None)

    def after_training(self, talk: Conversation, chosen: str | None) -> Any:
        """An update of the list of models when there is a new one: it is chosen unless somebody has chosen another by hand."""
        return self.refresh(chosen if talk.chosen else None)

    def refresh(self, chosen: str | None) -> Any:
        """An update of the list of models; the choice stays while it is there."""
        found = models.choices()
        there = [model for _, model in found]
        return gr.Dropdown(found, value=chosen if chosen in there else next(iter(there), None))

    # ------------------------------------------------------------------------------------------ talking

    def _take_example(self, event: gr.SelectData) -> str:
        return str(event.value["text"])

    def _on_stop(self, talk: Conversation) -> None:
        talk.stopping = True

    def _on_choice(self, talk: Conversation) -> None:
        talk.chosen = True

    def _on_clear(self, talk: Conversation) -> tuple[list[Any], str]:
        talk.clear()
        return [], ""

    def _config(self, values: Values) -> GenerateConfig:
        stop = ("\n",) if values[self._one_line] else ()
        return GenerateConfig.create(**read(self._length, values), samplers=self._samplers.chain(values), stop=stop)

    @toasting
    def _answer(self, values: Values) -> Iterator[dict[Component, Any]]:
        """The continuation of the prompt, as it grows."""
        talk, prompt, config = values[self.talk], values[self._prompt], self._config(values)
        if values[self.model] is None:
            raise RunError("there is no model yet; train one first")
        bubble = {"role": "assistant", "content": ""}
        talk.messages = [*talk.messages, {"role": "user", "content": as_html(prompt)}, bubble]
        talk.stopping = False
        yield {self._chat: talk.messages, self._prompt: "", self._stats: "", **self._writing(True)}
        try:
            with self._loaded.borrow(values[self.model], values[self._engine], warn) as model:
                generation = model.generate(prompt, config)
                if generation.dropped:
                    warn(f"the prompt is longer than the context; its first {generation.dropped} tokens are not read")
                for text in _growing(generation, talk):
                    bubble["content"] = as_html(text)
                    yield {self._chat: talk.messages}
                seen = talk.messages[-1:] == [bubble]  # it may have been cleared
                yield {self._stats: _stats(model, generation) if seen else "", **self._writing(False)}
        except Exception:
            talk.messages = talk.messages[:-2]
            yield {self._chat: talk.messages, self._prompt: prompt, **self._writing(False)}
            raise

    def _writing(self, on: bool) -> dict[Component, Any]:
        """Send while nothing is written, Stop while something is."""
        return {self._send: gr.Button(visible=not on), self._stop: gr.Button(visible=on)}


def _growing(generation: Generation, talk: Conversation) -> Iterator[str]:
    """The text so far, now and then while it grows, and once when it is done."""
    shown = time.monotonic()
    with closing(generation):
        for _ in generation:
            if talk.stopping:
                break
            if time.monotonic() - shown >= FRAME:
                shown = time.monotonic()
                yield generation.text
    yield generation.text


def as_html(text: str) -> str:
    """HTML that shows exactly this text. Line breaks and leading space are quoted too, for Gradio would clean them up."""
    first = f"&#{ord(text[0])};" if text[:1].isspace() else text[:1].translate(QUOTED)
    return first + text[1:].translate(QUOTED)


def _stats(model: Model, generation: Generation) -> str:
    """Speed and everything that is needed to get the same text again."""
    count = len(generation.ids)
    facts = [
        *(["nothing: it ended the line at once"] if generation.reason == "stop" and not generation.text else []),
        f"{count} token{'' if count == 1 else 's'}",
        f"{generation.tokens_per_second:,.0f} tokens/s",
        f"first after {generation.time_to_first_token_ms:.0f} ms",
        f"seed {generation.seed}",
        f"{model.engine.name} on {model.engine.provider}",
    ]
    return "".join(f"<span>{html.escape(fact)}</span>" for fact in facts)
