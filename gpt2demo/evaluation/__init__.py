"""Evaluation: how well a model predicts a text."""

from gpt2demo.evaluation.score import Score, evaluate, score

__all__ = ["Score", "evaluate", "score"]
