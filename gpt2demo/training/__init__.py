"""Training: a generator of events, from preparing the text to the last checkpoint."""
