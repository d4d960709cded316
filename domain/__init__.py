"""Records, declarations, errors and the clock. Imports nothing of ours."""
