"""Milestones: the weights at some steps of a run, kept to look back at how it learned."""

from __future__ import annotations

DEFAULT = 12
LARGEST = 50_000_000
"""Parameters up to which a run has milestones by default: each takes 4 bytes for every parameter."""


def milestone_steps(count: int, total_steps: int) -> frozenset[int]:
    """Return step 0 and up to `count - 1` steps that are evenly spaced in logarithm, the last step among them.

    A model learns most in its first steps.

    >>> sorted(milestone_steps(5, 1000))
    [0, 1, 10, 100, 1000]
    """
    if count < 3:
        return frozenset([total_steps, 0][:count])
    return frozenset({0, *(round(total_steps ** (i / (count - 2))) for i in range(count - 1))})


def default_milestones(parameters: int) -> int:
    """Return the number of milestones of a model, if none is set."""
    return DEFAULT if parameters <= LARGEST else 0
