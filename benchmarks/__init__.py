"""Benchmarks; each writes its result into benchmarks/results."""
