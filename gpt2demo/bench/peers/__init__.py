"""Other programs that take part in the bench: each a script of its own, so that it can run in its own environment."""
