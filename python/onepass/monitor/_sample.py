"""What was seen of the layers in one step: tensors at first, numbers when they are read."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from onepass.monitor._batch_norm import BatchNormSample
from onepass.monitor._packed import Packed

__all__ = ["Owned", "Sample"]

Values = dict[str, Any]


class Owned(NamedTuple):
    """A parameter of the optimizer, the layer that holds it and its param group."""

    layer: str
    param: Tensor
    group: int


class _Squares:
    """Sums of squares of a layer or a param group."""

    def __init__(self) -> None:
        self.grad = self.change = self.size = 0.0
        self.has_grad = False


class Sample:
    """Holds what was seen of the layers in one step.

    Args:
        types: The class of each layer by its name.
        owned: The optimizer's parameters.
        groups: The number of param groups.
        units: Of the ReLUs the share of units that were 0 for the whole batch.
        grad_norms: Of each parameter; empty if they could not be had, None for one without a gradient.
        sizes: Of each parameter the norms of its change and its value, and what they are to be multiplied by.
        norms: What batch norms did.
    """

    def __init__(
        self,
        types: dict[str, str],
        owned: list[Owned],
        groups: int,
        units: list[tuple[str, Tensor]],
        grad_norms: list[Tensor | None],
        sizes: list[tuple[Tensor, Tensor, float]],
        norms: BatchNormSample,
    ) -> None:
        self._types, self._owned, self._groups = types, owned, groups
        self._units, self._grad_norms, self._sizes, self._norms = units, grad_norms, sizes, norms
        scalars = [share for _, share in units]
        scalars += [norm for norm in grad_norms if norm is not None]
        scalars += [norm for found in sizes for norm in found[:2]]
        self._count = len(scalars)
        self._numbers = Packed([*scalars, *norms.tensors()])

    def rows(self) -> tuple[dict[str, Values], dict[str, list[float]]]:
        """Returns the values of each layer, and what is known of each param group; reads the tensors."""
        arrays = self._numbers.arrays()
        numbers = iter([float(array[0]) for array in arrays[: self._count]])
        layers: dict[str, Values] = {}
        for name, _ in self._units:
            share = next(numbers)  # a ReLU that is called several times counts by the worst of them
            found = self._layer(layers, name)
            found["dead_units"] = max(share, found.get("dead_units", 0.0))
        grads = [None if norm is None else next(numbers) for norm in self._grad_norms]
        groups = [_Squares() for _ in range(self._groups)]
        by_layer: dict[str, _Squares] = {}
        for place, owned in enumerate(self._owned):
            both = (groups[owned.group], by_layer.setdefault(owned.layer, _Squares()))
            grad = grads[place] if grads else None
            change, size = (next(numbers), next(numbers)) if self._sizes else (0.0, 0.0)
            scale = self._sizes[place][2] if self._sizes else 1.0
            for sums in both:
                sums.change += (scale * change) ** 2
                sums.size += (scale * size) ** 2
                if grad is not None:
                    sums.has_grad = True
                    sums.grad += grad**2
        for name, sums in by_layer.items():
            if sums.has_grad:
                self._layer(layers, name)["grad_norm"] = sums.grad**0.5
            if sums.size > 0:
                self._layer(layers, name)["update_ratio"] = (sums.change / sums.size) ** 0.5
        for name, values in self._norms.rows(arrays[self._count :]):
            self._layer(layers, name).update(values)
        measured = {
            "param_norm": [sums.size**0.5 for sums in groups],
            "update_norm": [sums.change**0.5 for sums in groups],
        }
        return layers, measured if self._sizes else {}

    def _layer(self, layers: dict[str, Values], name: str) -> Values:
        return layers.setdefault(name, {"type": self._types.get(name, "")})
