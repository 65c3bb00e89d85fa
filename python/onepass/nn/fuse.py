"""Offers `onepass.nn.fusion.apply` by a short path."""

from onepass.nn.fusion.apply import fuse
from onepass.nn.fusion.report import Fusion, Place

__all__ = ["Fusion", "Place", "fuse"]
