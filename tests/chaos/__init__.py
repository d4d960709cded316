"""Faults on a real Kafka and a real Redis, and a judge who knows what must come out: ``python -m tests.chaos``."""
