"""Numbers the transforms of a chain, draws for all of them at once, and lets each plan its part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from onepass._arguments import told
from onepass.augment._arrays import Bools, Floats, Words
from onepass.augment._parameters import Parameters
from onepass.augment._philox import places_of, uniform
from onepass.augment._transform import Drawn, Geometry, Transform
from onepass.augment.convert import Normalize, ToDtype
from onepass.augment.mixing import Mixing

__all__ = ["Chain"]


class Node:
    """A transform at its place: its name in tables, and where its random numbers begin."""

    __slots__ = ("children", "name", "start", "transform")

    def __init__(self, transform: Transform, name: str, start: int, children: list[Node]) -> None:
        self.transform, self.name, self.start, self.children = transform, name, start, children


class Chain:
    """The transforms of a Compose.

    Args:
        transforms: Those of the chain; children are numbered after the transform that holds them.
        train: Whether random transforms are applied.

    Raises:
        ValueError: A transform stands where it cannot.
    """

    def __init__(self, transforms: Sequence[Transform], train: bool) -> None:
        self._words: list[int] = []
        self.nodes = [self._node(one, str(k), nested=False) for k, one in enumerate(transforms)]
        for one, after in itertools.pairwise(transforms):
            if one.mixing:
                names = type(one).__name__, type(after).__name__
                raise ValueError(f"Compose: {names[0]} must be the last transform, got {names[1]} after it")
        self._blocks = places_of(self._words)
        self._classes = _num_classes(transforms) if train else None
        self.mixing = bool(transforms) and transforms[-1].mixing and train
        if not train:
            self.nodes = [node for node in self.nodes if self._stays(node.transform)]
        self._passed = 0  # the last number of channels that all transforms take
        self._all = [one for node in self.nodes for one in _with_children(node.transform)]

    def _node(self, transform: Transform, path: str, nested: bool) -> Node:
        if nested and isinstance(transform, (Normalize, ToDtype)):
            name = type(transform).__name__
            raise ValueError(
                f"{name}: it must stand in Compose itself, since the units change for all samples, got it inside"
            )
        start = sum(4 * -(-words // 4) for words in self._words)
        self._words.append(transform.words)
        children = [self._node(one, f"{path}.{k}", nested=True) for k, one in enumerate(transform.children)]
        return Node(transform, f"{path}.{type(transform).__name__}", start, children)

    def _stays(self, transform: Transform) -> bool:
        if not transform.random:
            return True
        if any(one.sizing for one in _with_children(transform)):
            raise ValueError(
                "Compose: transforms must give images a size without random numbers with train=False, as Resize "
                f"and CenterCrop do, got {told(transform)}"
            )
        return False

    @property
    def labels_checked_by(self) -> int | None:
        """The number of classes that a mixing transform names."""
        return self._classes

    def check(self, channels: int) -> None:
        """Raises where a transform cannot take images of so many channels."""
        if channels != self._passed:
            for transform in self._all:
                transform._check(channels)
            self._passed = channels

    def draw(self, seed: int, ids: Words, epoch: int) -> Floats:
        """Draws all random numbers of a batch, (n, words)."""
        return uniform(seed, ids, epoch, self._blocks)

    def plan(self, u: Floats, plans: Sequence[Geometry], table: Parameters | None = None) -> None:
        """Lets each transform plan; the first plan's sizes are those of the images at each place."""
        for node in self.nodes:
            _plan(node, u, plans, None, table)


def _with_children(transform: Transform) -> Iterator[Transform]:
    """Gives a transform and all that it holds."""
    yield transform
    for child in transform.children:
        yield from _with_children(child)


def _num_classes(transforms: Sequence[Transform]) -> int | None:
    """Returns the number of classes of a chain's mixing transforms, which must agree."""
    all_of_them = [inner for one in transforms for inner in _with_children(one)]
    mixing = [one for one in all_of_them if isinstance(one, Mixing)]
    named = {one.num_classes for one in mixing if one.num_classes is not None}
    if len(named) > 1:
        raise ValueError(f"Compose: num_classes must be the same in MixUp and CutMix, got {sorted(named)}")
    return named.pop() if named else None


def _plan(node: Node, u: Floats, plans: Sequence[Geometry], on: Bools | None, table: Parameters | None) -> None:
    transform = node.transform
    drawn = transform._draw(u[:, node.start : node.start + transform.words], plans[0])
    if table is not None:
        _note(table, node.name, drawn, on)
    if node.children:
        for k, child in enumerate(node.children):
            _plan(child, u, plans, transform._child(k, drawn, on), table)
        return
    for plan in plans:
        transform._apply(plan, drawn, on)


def _note(table: Parameters, name: str, drawn: Drawn, on: Bools | None) -> None:
    for key, column in drawn.items():
        if key not in ("key0", "key1"):
            table[f"{name}.{key}"] = column if on is None else np.where(on, column, np.nan)
