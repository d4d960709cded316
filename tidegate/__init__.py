"""The command line, settings, and the composition of processes; nothing else."""
