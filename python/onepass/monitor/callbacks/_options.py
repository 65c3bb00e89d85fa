"""The options that a trainer's callback hands on to its monitor."""

from __future__ import annotations

from typing import Any

from onepass._arguments import told

__all__ = ["check_options"]

_KNOWN = ("file", "every", "layers_every", "callbacks")


def check_options(owner: str, options: dict[str, Any]) -> None:
    """Raises TypeError unless all are options of a Monitor."""
    for name, value in options.items():
        if name not in _KNOWN:
            raise TypeError(f"{owner}: options must be among {', '.join(_KNOWN)}, got {name}={told(value)}")
