"""The pure engine: a batch of events and states in, verdicts and new states out."""
