"""Functions of two variables on which optimizers are watched, each with a window, a start and its minima."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from onepass._arguments import told

__all__ = ["SURFACES", "Surface", "surface"]

Point = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """Holds a function of two variables, and where it is looked at.

    Called with a tensor (..., 2) it returns the values (...). Gradients come from autograd.

    Example:
        >>> import torch
        >>> from onepass.visualize import surface
        >>> rosenbrock = surface("rosenbrock")
        >>> point = torch.tensor([0.0, 0.0], requires_grad=True)
        >>> rosenbrock(point).backward()
        >>> point.grad.tolist(), rosenbrock.minima
        ([-2.0, 0.0], ((1.0, 1.0),))
    """

    name: str
    """The name, in lower case."""
    formula: str
    """The formula in x and y, as text."""
    function: Callable[[Tensor, Tensor], Tensor]
    """Computes the values of x and y, which have one shape."""
    start: Point
    """Where trajectories begin by default."""
    window: tuple[Point, Point]
    """The smallest and largest x, and the smallest and largest y, that are shown."""
    minima: tuple[Point, ...]
    """Its global minima."""
    noise: float = 0.0
    """The standard deviation of the noise that is added to each element of the gradient, as by small batches."""
    lesson: str = ""
    """What the surface shows, in a sentence."""

    def __call__(self, point: Tensor) -> Tensor:
        """Computes the values of the points, without the noise.

        Args:
            point: (..., 2), of a floating dtype.
        """
        return self.function(point[..., 0], point[..., 1])


def _rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _himmelblau(x: Tensor, y: Tensor) -> Tensor:
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def _saddle(x: Tensor, y: Tensor) -> Tensor:
    return x**2 - y**2 + y**4 / 4


def _ravine(x: Tensor, y: Tensor) -> Tensor:
    return (x**2 + 100 * y**2) / 2


def _plateau(x: Tensor, y: Tensor) -> Tensor:
    return 1 - torch.exp(-(x**2 + y**2) / 2)


def _noisy_quadratic(x: Tensor, y: Tensor) -> Tensor:
    return (x**2 + 10 * y**2) / 2


def _rastrigin(x: Tensor, y: Tensor) -> Tensor:
    waves = torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y)
    return 20 + x**2 + y**2 - 10 * waves


_HIMMELBLAU = ((3.0, 2.0), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848127))
_SADDLE = ((0.0, -math.sqrt(2)), (0.0, math.sqrt(2)))

SURFACES: dict[str, Surface] = {
    one.name: one
    for one in (
        Surface(
            "rosenbrock",
            "(1 - x)^2 + 100 (y - x^2)^2",
            _rosenbrock,
            (-1.5, 2.0),
            ((-2.0, 2.0), (-1.0, 3.0)),
            ((1.0, 1.0),),
            lesson="A curved valley: reaching it is easy, following it to the minimum is slow.",
        ),
        Surface(
            "beale",
            "(1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2",
            _beale,
            (-1.0, 1.5),
            ((-4.5, 4.5), (-4.5, 4.5)),
            ((3.0, 0.5),),
            lesson="Steep walls next to a flat valley: one rate does not fit both.",
        ),
        Surface(
            "himmelblau",
            "(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
            _himmelblau,
            (0.0, -0.5),
            ((-5.0, 5.0), (-5.0, 5.0)),
            _HIMMELBLAU,
            lesson="Four minima of equal value: optimizers end in different ones from the same start.",
        ),
        Surface(
            "saddle",
            "x^2 - y^2 + y^4 / 4",
            _saddle,
            (1.5, 0.001),
            ((-2.0, 2.0), (-2.0, 2.0)),
            _SADDLE,
            lesson="A saddle point at (0, 0): the gradient along y, which leads away, is tiny at first.",
        ),
        Surface(
            "ravine",
            "(x^2 + 100 y^2) / 2",
            _ravine,
            (-2.5, 0.8),
            ((-3.0, 3.0), (-1.0, 1.0)),
            ((0.0, 0.0),),
            lesson="Curvatures that differ by a factor of 100: the steep one keeps the rate of SGD below 0.02.",
        ),
        Surface(
            "plateau",
            "1 - exp(-(x^2 + y^2) / 2)",
            _plateau,
            (2.6, 2.0),
            ((-3.0, 3.0), (-3.0, 3.0)),
            ((0.0, 0.0),),
            lesson="Almost no gradient far from the minimum: steps that scale with the gradient hardly move.",
        ),
        Surface(
            "noisy_quadratic",
            "(x^2 + 10 y^2) / 2, with noise in the gradient",
            _noisy_quadratic,
            (-2.5, 1.5),
            ((-3.0, 3.0), (-2.0, 2.0)),
            ((0.0, 0.0),),
            noise=2.0,
            lesson="Noise as of small batches: a constant rate ends in a cloud, a falling one at the minimum.",
        ),
        Surface(
            "rastrigin",
            "20 + x^2 + y^2 - 10 (cos(2 pi x) + cos(2 pi y))",
            _rastrigin,
            (2.3, 1.7),
            ((-3.0, 3.0), (-3.0, 3.0)),
            ((0.0, 0.0),),
            lesson="A bowl full of local minima: small steps stay in the first, larger ones may pass.",
        ),
    )
}


def surface(name: str) -> Surface:
    """Finds a surface by its name.

    Args:
        name: One of rosenbrock, beale, himmelblau, saddle, ravine, plateau, noisy_quadratic, rastrigin.

    Returns:
        The surface.

    Raises:
        ValueError: There is no such surface; the error lists those that exist.

    Example:
        >>> from onepass.visualize import surface
        >>> surface("ravine").formula
        '(x^2 + 100 y^2) / 2'
    """
    found = SURFACES.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"surface: name must be one of {', '.join(SURFACES)}, got {told(name)}")
    return found
