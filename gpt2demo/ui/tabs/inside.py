"""The Look inside tab: a text as a model reads it. The views are those of `gpt2demo inspect --html`."""

from __future__ import annotations

import json

import gradio as gr

from gpt2demo.errors import RunError
from gpt2demo.inspection.page import asset
from gpt2demo.ui import models
from gpt2demo.ui.controls import QUIET, shown
from gpt2demo.ui.toast import warn

EXAMPLE = "Once upon a time, there was a shy fox named Pip who baked a plum cake."
# Gradio inserts values into a template as code. Therefore the template is constant, and the value reaches the page as JSON.
TEMPLATE = '<div class="root"></div>'
ON_LOAD = """
const show = () => {
  const root = element.querySelector(".root");
  if (props.value) showInside(root, JSON.parse(props.value));
};
watch("value", show);
new MutationObserver(() => element.querySelector(".root")?.repaint?.()).observe(document.body, { attributeFilter: ["class"] });
show();
"""


class InsideTab:
    """Build the tab in the current gr.Tab.

    Attributes:
        model: the list of models, input and output of `refresh`.

    """

    def __init__(self, pool: models.ModelPool) -> None:
        self._pool = pool
        with gr.Row():
            self._text = gr.Textbox(EXAMPLE, label="Text", lines=3, max_lines=8, scale=3, min_width=280, elem_id="inside-text")
            with gr.Column(scale=1, min_width=240):
                info = "attention, logit lens and anatomy need a run; of an export, only the surprise can be seen"
                self.model = gr.Dropdown([], label="Model", info=info, elem_id="inside-model")
                self._look = gr.Button("Look inside", variant="primary", elem_id="look")
        self._views = gr.HTML(
            "",
            html_template=TEMPLATE,
            css_template=asset("views.css"),
            js_on_load=asset("views.js") + ON_LOAD,
            apply_default_css=False,
            elem_id="views",
        )
        options = {"fn": self._inspect, "inputs": [self._text, self.model], "outputs": self._views, **QUIET}
        gr.on([self._look.click, self._text.submit], concurrency_limit=1, **options)

    def refresh(self, selected: str | None) -> gr.Dropdown:
        """Return an update of the list of models. The selection stays if it still exists."""
        choices = models.choices()
        available = [model for _, model in choices]
        return gr.Dropdown(choices, value=selected if selected in available else next(iter(available), None))

    def _inspect(self, text: str | None, model: str | None) -> str:
        """Return the inspection of a text as JSON."""
        from gpt2demo.inspection.report import inspect_text  # imports torch: the page answers before that

        if model is None:
            raise RunError("no model yet; train one first")
        with self._pool.borrow(model, "auto", warn) as loaded:
            return json.dumps(inspect_text(loaded, shown(text)).as_dict())
