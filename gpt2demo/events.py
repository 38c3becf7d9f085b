"""Public import path of the training events; `gpt2demo.training.events` defines them."""

from gpt2demo.training.events import Ended, Evaluation, Event, Sample, Saved, Started, Step

__all__ = ["Ended", "Evaluation", "Event", "Sample", "Saved", "Started", "Step"]
