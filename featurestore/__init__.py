"""Feature definitions and windows, and the online store that keeps their state."""
