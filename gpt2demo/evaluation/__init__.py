"""Evaluation: how well a model predicts a text, whether that is good, and what its samples are like."""

from gpt2demo.evaluation.report import Report, evaluate_all
from gpt2demo.evaluation.score import Score, evaluate

__all__ = ["Report", "Score", "evaluate", "evaluate_all"]
