"""Runners of other programs. Each is a separate script, so that it can run in its own environment."""
