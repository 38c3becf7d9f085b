"""Look inside a model: surprise, attention, heads, logit lens and anatomy."""

from gpt2demo.inspection.report import Inspection, inspect_text

__all__ = ["Inspection", "inspect_text"]
