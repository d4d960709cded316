"""Detectors, their compiled kernels, ranks and the ensemble."""
