"""Offers `onepass.nn.surgery.fold` by a short path."""

from onepass.nn.surgery.fold import fold

__all__ = ["fold"]
