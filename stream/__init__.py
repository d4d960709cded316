"""Kafka: codecs, transactions, partition tasks, worker, archiver, replay, traffic generator."""
