"""placeholder"""
from __future__ import annotations
class RiverDetector:  # replaced below in this work
    pass
