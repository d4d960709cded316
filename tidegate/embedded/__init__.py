"""Brokers and stores run as child processes of ours, for one laptop and for tests; no account, no Docker."""
