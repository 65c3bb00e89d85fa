"""Checks the arguments of transforms; messages name transform, argument, what is wanted and what was given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from onepass._arguments import told

__all__ = [
    "check_alone",
    "check_between",
    "check_channels",
    "check_count",
    "check_finite",
    "check_flag",
    "check_probability",
    "check_sequence",
    "to_angles",
    "to_fill",
    "to_interpolation",
    "to_mode",
    "to_pair",
    "to_sides",
    "to_size",
]

# Arguments for which one number stands for nothing.
_NEVER_ONE = ("translate", "scale", "ratio", "center")
_MODES = ("constant", "edge", "reflect", "symmetric")
# The core computes in float32, where greater numbers are infinite.
_GREATEST = 3.4028234663852886e38
# The most rows or columns that the core takes.
_MOST_PIXELS = 2**24


def check_finite(name: str, argument: str, value: Any) -> float:
    """Returns a number as float; nan and infinity raise ValueError, other types TypeError."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: {argument} must be a number, got {told(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name}: {argument} must be finite in float32, got {value}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: {argument} must be finite, got {value}")
    if abs(number) > _GREATEST:
        raise ValueError(f"{name}: {argument} must be finite in float32, got {value}")
    return number


def check_flag(name: str, argument: str, value: Any) -> bool:
    """Returns True or False; other types raise TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: {argument} must be True or False, got {told(value)}")
    return value


def check_between(name: str, argument: str, value: Any, low: float, high: float) -> float:
    """Returns a number as float; one outside of [low, high] raises ValueError."""
    number = check_finite(name, argument, value)
    if not low <= number <= high:
        raise ValueError(f"{name}: {argument} must be at least {low:g} and at most {high:g}, got {value}")
    return number


def check_probability(name: str, value: Any) -> float:
    """Returns p as float; one outside of [0, 1] raises ValueError."""
    return check_between(name, "p", value, 0, 1)


def check_count(name: str, argument: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns an integer; one outside of low to high raises ValueError, other types TypeError."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: {argument} must be an integer, got {told(value)}")
    number = int(value)
    if number < low or (high is not None and number > high):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}: {argument} must be {wanted}, got {value}")
    return number


def check_alone(name: str, argument: str, value: Any, wanted: Any) -> None:
    """Raises ValueError unless an argument has the only value that makes sense here."""
    if value is not wanted:
        raise ValueError(f"{name}: {argument} must be {wanted}, got {told(value)}")


def check_channels(name: str, channels: int, wanted: tuple[int, ...] = (1, 3)) -> None:
    """Raises ValueError unless images have a number of channels for which there is a formula."""
    if channels not in wanted:
        text = " or ".join(map(str, wanted))
        raise ValueError(f"{name}: images must have {text} channels, got {channels}")


def check_sequence(name: str, argument: str, value: Any, lengths: tuple[int, ...]) -> Sequence[Any]:
    """Returns a sequence of one of the lengths."""
    text = " or ".join(map(str, lengths))
    if isinstance(value, str) or not isinstance(value, Sequence):
        one = "" if lengths == (2,) and argument in _NEVER_ONE else "a number or "
        raise TypeError(f"{name}: {argument} must be {one}a sequence of {text} numbers, got {told(value)}")
    if len(value) not in lengths:
        raise ValueError(f"{name}: {argument} must have {text} numbers, got {told(value)}")
    return value


def to_size(name: str, value: Any, argument: str = "size") -> tuple[int, int]:
    """Returns (height, width) of one integer, or of a sequence of one or two."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = (value,)
    numbers = [_check_pixels(name, argument, one, 1) for one in check_sequence(name, argument, value, (1, 2))]
    return numbers[0], numbers[-1]


def _check_pixels(name: str, argument: str, value: Any, low: int) -> int:
    number = check_count(name, argument, value, low)
    if number > _MOST_PIXELS:
        raise ValueError(f"{name}: {argument} must be at most 2**24, got {value}")
    return number


def to_pair(
    name: str, argument: str, value: Any, low: float = -math.inf, high: float = math.inf
) -> tuple[float, float]:
    """Returns (least, greatest) of a sequence of two numbers in order."""
    least, greatest = (check_finite(name, argument, one) for one in check_sequence(name, argument, value, (2,)))
    if not low <= least <= greatest <= high:
        bounds = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
        raise ValueError(f"{name}: {argument} must be (least, greatest){bounds}, got {told(value)}")
    return least, greatest


def to_angles(name: str, argument: str, value: Any, lengths: tuple[int, ...] = (2,)) -> tuple[float, ...]:
    """Returns ranges of degrees: one number d stands for (-d, d)."""
    if isinstance(value, Real) and not isinstance(value, bool):
        number = check_finite(name, argument, value)
        if number < 0:
            raise ValueError(f"{name}: {argument} must be at least 0 if it is one number, got {value}")
        return (-number, number)
    numbers = [check_finite(name, argument, one) for one in check_sequence(name, argument, value, lengths)]
    if any(numbers[k] > numbers[k + 1] for k in range(0, len(numbers), 2)):
        raise ValueError(f"{name}: {argument} must be (least, greatest), got {told(value)}")
    return tuple(numbers)


def to_sides(name: str, value: Any) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) of one integer, two (across, down) or four."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = (value,)
    numbers = [_check_pixels(name, "padding", one, 0) for one in check_sequence(name, "padding", value, (1, 2, 4))]
    left, top, right, bottom = numbers * (4 // len(numbers))
    return left, top, right, bottom


def to_mode(name: str, value: Any) -> str:
    """Returns a padding mode."""
    if not isinstance(value, str) or value not in _MODES:
        raise ValueError(f"{name}: padding_mode must be one of {', '.join(_MODES)}, got {told(value)}")
    return str(value)


def to_interpolation(name: str, value: Any, allowed: tuple[str, ...] = ("nearest", "bilinear")) -> str:
    """Returns the name of an interpolation; torchvision's InterpolationMode has it as its value."""
    text = getattr(value, "value", value)
    if not isinstance(text, str) or text not in allowed:
        raise ValueError(f"{name}: interpolation must be one of {', '.join(allowed)}, got {told(value)}")
    return str(text)


def to_fill(name: str, value: Any, optional: bool = True, argument: str = "fill") -> tuple[float, ...] | None:
    """Returns one number, or one for each channel; None stays None where it is allowed."""
    if value is None and optional:
        return None
    if isinstance(value, (tuple, list)) and value:
        return tuple(check_finite(name, argument, one) for one in value)
    if isinstance(value, (tuple, list)):
        raise ValueError(f"{name}: {argument} must have a number for each channel, got {told(value)}")
    return (check_finite(name, argument, value),)
