"""Offers `onepass.nn.surgery.revert` by a short path."""

from onepass.nn.surgery.revert import is_ours, revert, revert_modules

__all__ = ["is_ours", "revert", "revert_modules"]
