"""The page's built-in tabs: one module and one class each."""

from gpt2demo.ui.tabs.chat import ChatTab
from gpt2demo.ui.tabs.export import ExportTab
from gpt2demo.ui.tabs.inside import InsideTab
from gpt2demo.ui.tabs.train import TrainTab

__all__ = ["ChatTab", "ExportTab", "InsideTab", "TrainTab"]
