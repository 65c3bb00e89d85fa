"""Runs optimizers on a function of two variables, and keeps where they went."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from onepass._arguments import told
from onepass.optim.schedules import Schedule, parse
from onepass.visualize._arguments import check_count, check_positive, check_seed, pair
from onepass.visualize._descent import Contender, Descent, contenders, descend
from onepass.visualize._paths import Trajectories
from onepass.visualize._progress import bar
from onepass.visualize._rates import search
from onepass.visualize._trajectory import Trajectory
from onepass.visualize.surfaces import Surface, surface

__all__ = ["trajectories"]

_NAME = "trajectories"
Function = Callable[[Tensor], Tensor]


def trajectories(
    f: str | Surface | Function,
    optimizers: str | Iterable[str] | Mapping[str, Any] = ("sgd", "momentum", "adam", "adamw", "lion"),
    start: tuple[float, float] | None = None,
    steps: int = 200,
    *,
    lr: float | str | Mapping[str, float | str] | None = None,
    schedule: str | Schedule | Callable[[Optimizer], Any] | None = None,
    noise: float | None = None,
    seed: int = 0,
    window: tuple[tuple[float, float], tuple[float, float]] | None = None,
    progress: bool = True,
) -> Trajectories:
    r"""Runs optimizers on a function of two variables from one start, and keeps every step.

    The point is a float64 parameter of two elements; gradients come from autograd. With noise, the gradient
    of step t is :math:`\nabla f + \sigma z_t`, with :math:`z_t` normal numbers from Philox, the same for all.

    The rate "auto" is the best of 31 rates from 1e-4 to 10 with equal ratios. Each rate is tried with the whole
    run, schedule and noise included. Its score is the median of the last tenth of the losses; a rate whose run is
    not finite or leaves the window does not count. The least score wins, the smaller rate on a tie.

    Args:
        f: A surface or its name, or any function of a float64 tensor (2,) that returns a tensor of one element.
        optimizers: Names (sgd, momentum, nesterov, adam, adamw, lion), or a dict from labels to names, to
            functions that make an optimizer of a list of parameters, or to optimizers. An optimizer must have one
            parameter of two elements; a copy of it runs, and it stays as it is.
        start: Two numbers; None for the surface's own start. A function of yours needs one.
        steps: How many steps are taken, an integer of at least 1.
        lr: A rate, or "auto", for all; or a dict from labels to them; None for "auto" where the optimizer was
            named, and for its own rate elsewhere.
        schedule: A schedule or its text, by which rates are multiplied; or a function that makes a scheduler of an
            optimizer, such as a class with its arguments bound.
        noise: The standard deviation sigma; None for the surface's own (0 for a function of yours).
        seed: Seeds the noise, at least 0 and below 2**64.
        window: The smallest and largest x, and the smallest and largest y, that pictures show; None for the
            surface's own, or for the box around all points.
        progress: Whether a bar is shown where the standard error is a terminal.

    Returns:
        A path for each optimizer, with methods that draw and write them.

    Raises:
        TypeError: An argument is of the wrong kind, or f does not return a tensor of one element with a gradient.
        ValueError: An argument is out of range, or a name is unknown; the error lists the known ones.
        RuntimeError: No rate of the search stays finite and in the window.

    Example:
        >>> from onepass.visualize import trajectories
        >>> runs = trajectories("ravine", ["sgd", "momentum"], steps=50, lr=0.01)
        >>> [(path.label, bool(path.losses[0] > path.losses[-1])) for path in runs.paths]
        [('sgd', True), ('momentum', True)]
        >>> runs.paths[0].points.shape
        (51, 2)
    """
    function = surface(f) if isinstance(f, str) else f
    if not callable(function):
        raise TypeError(f"{_NAME}: f must be a surface, its name or a function, got {told(f)}")
    known = function if isinstance(function, Surface) else None
    if start is None and known is None:
        raise ValueError(f"{_NAME}: start must be given for a function of yours, got None")
    begin = pair(_NAME, "start", known.start if start is None and known else start)
    descent = Descent(
        function,
        begin,
        check_count(_NAME, "steps", steps, 1),
        _schedule(schedule),
        _noise(noise, known),
        check_seed(_NAME, seed),
    )
    shown = _window(window, known)
    runners = contenders(optimizers)
    rates = _rates(lr, runners)
    descent.check()
    paths: list[Trajectory] = []
    with bar("trajectories", len(runners), shown=progress) as advance:
        for one in runners:
            rate = rates[one.label]
            tried = search(descent, one, shown) if rate == "auto" else []
            chosen = min(tried, key=lambda pair: (pair[1], pair[0]))[0] if tried else rate
            paths.append(descend(descent, one, chosen, tried=tried))
            advance()
    return Trajectories(function, known, paths, shown, descent)


def _schedule(given: Any) -> Schedule | Callable[[Optimizer], Any] | None:
    if isinstance(given, str):
        try:
            return parse(given)
        except ValueError as error:
            raise ValueError(f"{_NAME}: schedule: {error}") from None
    if given is not None and not callable(given):
        raise TypeError(f"{_NAME}: schedule must be a schedule, its text or a function, got {told(given)}")
    return given  # type: ignore[no-any-return]


def _noise(given: Any, known: Surface | None) -> float:
    if given is None:
        return known.noise if known else 0.0
    return 0.0 if given == 0 else check_positive(_NAME, "noise", given)


def _window(given: Any, known: Surface | None) -> tuple[tuple[float, float], tuple[float, float]] | None:
    if given is None:
        return known.window if known else None
    try:
        first, second = given
    except (TypeError, ValueError):
        raise TypeError(f"{_NAME}: window must be two pairs of numbers, got {told(given)}") from None
    found = pair(_NAME, "window[0]", first), pair(_NAME, "window[1]", second)
    for i, (low, high) in enumerate(found):
        if low >= high:
            raise ValueError(f"{_NAME}: window[{i}] must be a smaller and a larger number, got {(low, high)}")
    return found


def _rates(given: Any, runners: list[Contender]) -> dict[str, float | str | None]:
    """Each contender's rate, "auto", or None for its own."""
    by_label = dict(given) if isinstance(given, Mapping) else dict.fromkeys((one.label for one in runners), given)
    unknown = sorted(set(by_label) - {one.label for one in runners})
    if unknown:
        labels = ", ".join(one.label for one in runners)
        raise ValueError(f"{_NAME}: lr must name optimizers of {labels}, got {', '.join(map(str, unknown))}")
    found: dict[str, float | str | None] = {}
    for one in runners:
        rate = by_label.get(one.label)
        if isinstance(rate, str) and rate != "auto":
            raise ValueError(f"{_NAME}: lr must be a number or auto, got {told(rate)}")
        if rate is None:
            found[one.label] = "auto" if one.named else None
        elif rate == "auto":
            found[one.label] = "auto"
        else:
            found[one.label] = 0.0 if rate == 0 and math.isfinite(rate) else check_positive(_NAME, "lr", rate)
    return found
