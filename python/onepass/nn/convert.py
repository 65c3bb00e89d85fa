"""Offers `onepass.nn.surgery.convert` and `onepass.nn.surgery.convert_sync` by a short path."""

from onepass.nn.surgery.convert import Conversion, Entry, convert
from onepass.nn.surgery.convert_sync import convert_sync_batchnorm

__all__ = ["Conversion", "Entry", "convert", "convert_sync_batchnorm"]
