"""The run folder: its files and lock, finding a model by name, checkpoints, weights, and imports from Hugging Face."""

from gpt2demo.runs.find import find_model, find_run, list_runs
from gpt2demo.runs.folder import Run

__all__ = ["Run", "find_model", "find_run", "list_runs"]
