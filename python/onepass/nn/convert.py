"""Offers `onepass.nn.surgery.convert` by a short path."""

from onepass.nn.surgery.convert import Conversion, Entry, convert

__all__ = ["Conversion", "Entry", "convert"]
