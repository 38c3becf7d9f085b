"""Assemble the page: title, built-in tabs and the tabs of plugins."""

from __future__ import annotations

import gradio as gr

from gpt2demo import plugins
from gpt2demo.ui.controls import QUIET
from gpt2demo.ui.page import Page
from gpt2demo.ui.tabs import ChatTab, ExportTab, InsideTab, TrainTab
from gpt2demo.ui.text import escape

TITLE = "gpt2demo"
DESCRIPTION = "Train a small GPT-2 on your own text, look inside, chat with it and export it."


def build() -> gr.Blocks:
    """Return the page. `server.launch` serves it."""
    page = Page(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{DESCRIPTION}</p>", elem_id="title")
        with gr.Tabs():
            with gr.Tab("Train", id="train"):
                train = TrainTab()
            with gr.Tab("Chat", id="chat") as chat_tab:
                chat = ChatTab()
            with gr.Tab("Look inside", id="inside") as inside_tab:
                inside = InsideTab(chat.pool)
            with gr.Tab("Export", id="export") as export_tab:
                export = ExportTab()
            for title in plugins.tabs():
                with gr.Tab(title):
                    plugin_tab(title)
        page.load(**train.refresh)
        page.load(**export.follow)
        page.load(chat.newest, None, chat.model, **QUIET)
        train.ended.change(chat.after_training, [chat.conversation, chat.model], chat.model, **QUIET)
        gr.on([chat_tab.select, export.done.change], chat.refresh, chat.model, chat.model, **QUIET)
        gr.on([page.load, train.ended.change, inside_tab.select], inside.refresh, inside.model, inside.model, **QUIET)
        gr.on([page.load, train.ended.change, export_tab.select], export.refresh, export.run, export.run, **QUIET)
    return page


def plugin_tab(title: str) -> None:
    """Fill a plugin's tab. If that fails, report the error inside the tab and in the list of plugins."""
    registry = plugins.registry()
    try:
        registry.part("tabs", title)()
    except BaseException as error:  # a plugin may call sys.exit
        if plugins.ends_program(error):
            raise
        plugin = registry.owner("tabs", title)
        plugin.fail(error)
        gr.HTML(f'<p class="wrong">{escape(f"{plugin.title} could not fill this tab: {plugin.error}")}</p>')
