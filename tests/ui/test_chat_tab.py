"""The Chat tab: samplers, the selected model, and text that is shown exactly as it is."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest
from hostile import SAMPLES
from playwright.sync_api import expect
from webpage import BrowserPage, by_id

from gpt2demo import plugins
from gpt2demo.config import DEFAULT_CHAIN
from gpt2demo.ui import models
from gpt2demo.ui.tabs.chat import NO_SAMPLER, ChatTab, Conversation, SamplerControls


def test_an_installed_sampler_appears_with_its_controls(plugin: None) -> None:
    with gr.Blocks() as page:
        SamplerControls(plugins.samplers())
    ids = by_id(page)
    assert (ids["use-whim"].value, ids["use-whim"].info) == (False, "Follow a whim.")
    assert [type(ids[f"sampler-whim-{name}"]) for name in ("strength", "tokens", "often")] == [gr.Slider, gr.Number, gr.Checkbox]
    assert ids["sampler-whim-tokens"].info == "how many"


def test_the_default_chain_is_selected_and_can_be_changed(plugin: None) -> None:
    with gr.Blocks() as page:
        panel = SamplerControls(plugins.samplers())
    ids = by_id(page)
    values: dict[Any, Any] = {component: component.value for component in panel.components}
    assert panel.chain(values) == DEFAULT_CHAIN
    for name in ("temperature", "top-p", "whim"):
        values[ids[f"use-{name}"]] = name == "whim"
    assert panel.chain(values) == ("whim:strength=0.25,tokens=7,often=True",)
    assert plugins.create_sampler(panel.chain(values)[0])
    values[ids["use-whim"]] = False
    assert panel.chain(values) == (NO_SAMPLER,)  # an empty chain would mean the default one


def test_a_new_model_is_selected_unless_the_user_has_selected_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "choices", lambda: [("new", "new"), ("old", "old")])
    with gr.Blocks():
        tab, conversation = ChatTab(), Conversation()
    assert tab.after_training(conversation, "old").value == "new"
    conversation.model_selected = True
    assert tab.after_training(conversation, "old").value == "old"
    assert tab.refresh("deleted").value == "new"


@pytest.mark.browser
def test_text_is_shown_exactly_and_nothing_is_fetched(visit: BrowserPage, hostile_text: str) -> None:
    expect(visit.page.locator("#samples pre").first).to_have_text(hostile_text)
    visit.open_tab("Chat")
    visit.page.locator("#chat-max_new_tokens input").fill("8")
    prompts = [f" {hostile_text}", *SAMPLES[::4], "$$x^2$$", " \n  two\n\n", "a\tb"]
    for prompt in prompts:
        visit.answer_to(prompt)
    assert visit.page.locator("#chat .message.user").evaluate_all("all => all.map(one => one.textContent)") == prompts
    assert visit.page.evaluate("window.bad") is None
    assert visit.foreign == []
