"""The two directions of a landscape: how a point of the plane becomes weights. No direction is ever stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onepass._arguments import listed, told
from onepass.visualize._normals import DIRECTIONS, normals

__all__ = ["Plane", "PrincipalPlane", "RandomPlane", "parameters_of"]

_NAME = "landscape"


class Plane(Protocol):
    """Two directions through a model's weights."""

    def shift(self, params: Sequence[Tensor], a: float, b: float) -> None:
        """Adds a times the first and b times the second direction to the parameters, in place."""

    def to_json(self) -> dict[str, Any]:
        """Returns what determines the directions, as JSON takes it."""


class RandomPlane:
    """Random directions, normalised by filter (Li et al. 2018, section 4).

    A filter is what follows the first axis of a parameter. Each filter of a direction has the norm of the model's
    filter. Parameters of fewer than two axes (biases, batch norm) do not move.

    The numbers of a parameter come from Philox by its index, when they are needed. The memory beyond the weights
    is that of a few copies of the largest parameter.
    """

    def __init__(self, seed: int) -> None:
        """Seeds the directions with a number of 64 bits."""
        self.seed = seed

    def direction(self, stream: int, index: int, param: Tensor) -> Tensor:
        """Makes one parameter's part of a direction.

        Args:
            stream: The direction, 0 or 1.
            index: The parameter's place in `model.parameters()`.
            param: The parameter.

        Returns:
            Of the parameter's shape, in float32 or wider.
        """
        wide = torch.float64 if param.dtype == torch.float64 else torch.float32
        drawn = normals(self.seed, DIRECTIONS[stream], index, param.numel(), param.device).to(wide)
        filters = drawn.view(param.shape[0], -1)
        norms = param.detach().to(wide).reshape(param.shape[0], -1).norm(dim=1)
        scale = norms / filters.norm(dim=1)
        made: Tensor = (filters * scale[:, None]).view(param.shape)
        return made

    def shift(self, params: Sequence[Tensor], a: float, b: float) -> None:
        """Adds a times the first and b times the second direction to the parameters, in place."""
        for index, param in enumerate(params):
            if param.dim() < 2 or not param.numel() or not param.is_floating_point():
                continue
            parts = [w * self.direction(i, index, param) for i, w in ((0, a), (1, b)) if w]
            if parts:
                param.copy_(param.to(parts[0].dtype) + sum(parts))

    def to_json(self) -> dict[str, Any]:
        """Returns what determines the directions, as JSON takes it."""
        return {"kind": "random", "normalised": "filter", "seed": self.seed}


class PrincipalPlane:
    """The two principal directions of a trajectory, seen from the model's weights.

    With differences d_i = w_i - w of the trajectory's weights to the model's, the directions are the unit vectors
    along which the d_i have the largest sums of squares. They are sums of the d_i, so that only the coefficients
    are kept. The trajectory itself is the caller's, and is read at each point.
    """

    def __init__(self, trajectory: Sequence[Mapping[str, Tensor]], named: Mapping[str, Tensor]) -> None:
        """Computes the coefficients.

        Args:
            trajectory: Weights by the names of the model's parameters, as state_dict() returns them.
            named: The model's parameters by name; a copy of each is kept by the caller's snapshot.

        Raises:
            ValueError: There are fewer than two different weights, or their names or shapes are not the model's.
        """
        self.trajectory = _weights(trajectory, named)
        self.names = list(named)
        count = len(self.trajectory)
        self.products = np.zeros((count, count))
        for name, now in named.items():
            rows = torch.stack([(one[name].to(now) - now).double().flatten() for one in self.trajectory])
            self.products += (rows @ rows.T).cpu().numpy()
        values, vectors = np.linalg.eigh(self.products)
        if values[-2] <= 1e-12 * values[-1] or values[-1] <= 0:
            raise ValueError(f"{_NAME}: trajectory must leave a line, got weights along one direction or none")
        values, vectors = values[[-1, -2]], vectors[:, [-1, -2]]
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), [0, 1]])
        self.explained: list[float] = (values / np.trace(self.products)).tolist()
        self.coefficients: NDArray[np.float64] = vectors / np.sqrt(values)
        self.path: NDArray[np.float64] = vectors * np.sqrt(values)

    def shift(self, params: Sequence[Tensor], a: float, b: float) -> None:
        """Adds a times the first and b times the second direction to the parameters, in place."""
        weights = self.coefficients @ np.array([a, b])
        for name, param in zip(self.names, params, strict=True):
            wide = torch.float64 if param.dtype == torch.float64 else torch.float32
            now = param.to(wide)
            moved = now.clone()
            for weight, one in zip(weights.tolist(), self.trajectory, strict=True):
                moved.add_(one[name].to(now) - now, alpha=weight)
            param.copy_(moved)

    def to_json(self) -> dict[str, Any]:
        """Returns what determines the directions, as JSON takes it."""
        return {
            "kind": "principal",
            "weights": len(self.trajectory),
            "explained": self.explained,
            "coefficients": self.coefficients.tolist(),
        }


def _weights(given: Any, named: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    found = listed(_NAME, "trajectory", given, "dicts of weights")
    if len(found) < 2:
        raise ValueError(f"{_NAME}: trajectory must be at least two dicts of weights, got {len(found)}")
    for i, one in enumerate(found):
        if not isinstance(one, Mapping):
            raise TypeError(f"{_NAME}: trajectory[{i}] must be a dict of weights, got {told(one)}")
        for name, now in named.items():
            there = one.get(name)
            if not isinstance(there, Tensor) or there.shape != now.shape:
                got = tuple(there.shape) if isinstance(there, Tensor) else "none"
                raise ValueError(
                    f"{_NAME}: trajectory[{i}] must have {name} of shape {tuple(now.shape)}, got {got}"
                )
    return found


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns the model's parameters by name, each once, in the order of `model.parameters()`."""
    return {name: param.detach() for name, param in model.named_parameters()}
