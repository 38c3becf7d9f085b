"""Evaluation: how well a model predicts a text."""

from gpt2demo.evaluation.score import Score, evaluate

__all__ = ["Score", "evaluate"]
