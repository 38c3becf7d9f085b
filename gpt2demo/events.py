"""The events of a training, defined in `gpt2demo.training.events`. This is their public import path."""

from gpt2demo.training.events import Ended, Evaluation, Event, Sample, Saved, Started, Step

__all__ = ["Ended", "Evaluation", "Event", "Sample", "Saved", "Started", "Step"]
