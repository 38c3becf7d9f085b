"""The web page: train, chat and export in the browser, with Gradio."""

from gpt2demo.ui.server import create_app, launch

__all__ = ["create_app", "launch"]
