"""The page: title, tabs, and the tabs that plugins add."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from gpt2demo import plugins
from gpt2demo.ui.tabs.chat import ChatTab
from gpt2demo.ui.tabs.export import ExportTab
from gpt2demo.ui.tabs.train import TrainTab

TITLE = "gpt2demo"
DESCRIPTION = "Train a small GPT-2 on your own text, talk to it, and take it with you."


def build() -> gr.Blocks:
    """The whole page. `server.launch` shows it; a test may look into it."""
    page = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{DESCRIPTION}</p>", elem_id="title")
        with gr.Tabs():
            with gr.Tab("Train", id="train"):
                train = TrainTab()
            with gr.Tab("Chat", id="chat") as chat_tab:
                chat = ChatTab()
            with gr.Tab("Export", id="export") as export_tab:
                export = ExportTab()
            for title in plugins.tabs():
                with gr.Tab(title):
                    plugin_tab(title)
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        page.load(**train.look)
        page.load(export.in_progress, None, export.report, **quiet)
        page.load(chat.newest, None, chat.model, **quiet)
        train.ended.change(chat.after_training, [chat.talk, chat.model], chat.model, **quiet)
        gr.on([chat_tab.select, export.done.change], chat.refresh, chat.model, chat.model, **quiet)
        gr.on([page.load, train.ended.change, export_tab.select], export.refresh, export.run, export.run, **quiet)
    return page


def plugin_tab(title: str) -> None:
    """Fill a plugin's tab; when that fails, say so inside the tab and in the list of plugins."""
    registry = plugins.registry()
    try:
        registry.part("tabs", title)()
    except (Exception, SystemExit) as error:
        plugin = registry.owner("tabs", title)
        plugin.fail(error)
        gr.HTML(f'<p class="wrong">{html.escape(f"{plugin.title} could not fill this tab: {plugin.error}")}</p>')
