"""Evaluation and backtesting; labels, drift, training and promotion follow here."""
