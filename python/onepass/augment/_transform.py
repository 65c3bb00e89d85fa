"""Says what a transform is: numbers drawn for each sample, and calls of a plan."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import ClassVar, Protocol

from onepass import _native
from onepass.augment._arrays import Bools, Floats, Ints, Number
from onepass.augment._checks import check_probability

__all__ = [
    "Canvas",
    "Drawn",
    "Geometry",
    "RandomTransform",
    "Transform",
    "between",
    "check_fill",
    "chosen",
    "places",
]

Drawn = dict[str, Floats]
"""The parameters of a transform, an array each with a number for each sample."""


class Canvas(Protocol):
    """What draws may depend on: the images as they are at a place of the chain."""

    n: int
    channels: int
    height: Floats
    width: Floats
    unit: float

    @property
    def least(self) -> tuple[float, float]:
        """The least height and the least width."""


class Geometry(Canvas, Protocol):
    """What transforms call: a `Plan`, or what moves boxes and points."""

    masks: bool

    def crop(self, top: Number, left: Number, height: Number, width: Number, on: Bools | None = ...) -> None: ...
    def flip(self, axis: int, on: Bools) -> None: ...
    def turn(self, quarters: Floats, on: Bools) -> None: ...
    def warp(
        self,
        matrix: Floats,
        linear: bool,
        fill: Sequence[float] | None,
        on: Bools | None = ...,
        size: tuple[Floats, Floats] | None = ...,
    ) -> None: ...
    def pad(self, sides: Sequence[Number], mode: str, fill: Sequence[float], on: Bools | None = ...) -> None: ...
    def resize(
        self, height: Number, width: Number, interpolation: str, antialias: bool, on: Bools | None = ...
    ) -> None: ...
    def op(
        self,
        kind: Number,
        a: Sequence[Number] = ...,
        on: Bools | None = ...,
        level: int | Ints = ...,
        values: Sequence[float] = ...,
    ) -> None: ...
    def mix(self, kind: str, on: Bools | None, **fields: Number) -> None: ...


class Transform:
    """A transform of a chain.

    Attributes:
        words: How many random numbers it draws for a sample.
        random: Whether it differs from sample to sample; evaluation leaves such transforms out.
        sizing: Whether the size of the output comes from it, so that evaluation must have another one instead.
        mixing: Whether it mixes samples of the batch.
        children: The transforms that it holds.
    """

    words: int = 0
    random: ClassVar[bool] = True
    sizing: ClassVar[bool] = False
    mixing: bool = False
    children: Sequence[Transform] = ()

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        """Makes parameters of numbers in [0, 1), shape (n, words)."""
        return {}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        """Plans the transform for samples."""
        raise NotImplementedError

    def _child(self, k: int, drawn: Drawn, on: Bools | None) -> Bools | None:
        """Says for which samples a child is applied."""
        raise NotImplementedError

    def _check(self, channels: int) -> None:
        """Raises for images that the transform cannot take, before anything is drawn."""

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


class RandomTransform(Transform):
    """A transform that is applied to a sample with probability p; its first random number decides."""

    words = 1

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(type(self).__name__, p)

    def _applied(self, u: Floats) -> Floats:
        applied: Floats = _native.core.augment_applied(u[:, 0], self.p)
        return applied


def between(u: Floats, low: float, high: float) -> Floats:
    """Draws numbers between two, of numbers in [0, 1)."""
    drawn: Floats = _native.core.augment_between(u, low, high)
    return drawn


def places(u: Floats, size: Number, part: float) -> Floats:
    """Draws the first pixels of parts of images: floor(u * (size - part + 1))."""
    drawn: Floats = _native.core.augment_places(u, size, part)
    return drawn


def chosen(applied: Floats, on: Bools | None) -> Bools:
    """Returns which samples a transform is applied to."""
    rows: Bools = _native.core.augment_chosen(applied, on)
    return rows


def check_fill(name: str, fill: tuple[float, ...] | None, channels: int, argument: str = "fill") -> None:
    """Raises unless a fill has one number, or one for each channel."""
    if fill is not None and len(fill) not in (1, channels):
        raise ValueError(
            f"{name}: {argument} must have 1 number or one for each of the {channels} channels, got {len(fill)}"
        )
