"""The result of the range test: its curves, the rates that they suggest, a table and a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from onepass.monitor._rules import RULES

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Curve:
    """Holds one sweep of `lr_range_test`, a point for each update.

    Example:
        >>> from onepass.monitor import Curve
        >>> curve = Curve(0, [1e-3, 1e-2], [2.3, 2.1], [2.3, 2.2], diverged=False, dropped=0)
        >>> curve.lrs[-1]
        0.01
    """

    seed: int
    """The seed of the sweep."""
    lrs: list[float]
    """The learning rate of each update."""
    losses: list[float]
    """The loss before each update."""
    smoothed: list[float]
    """The losses, smoothed."""
    diverged: bool
    """Whether the sweep was stopped, because the loss grew too far or was not finite."""
    dropped: int
    """How many updates the scaler or the optimizer dropped; they are not points of the curve."""


@dataclass(frozen=True)
class Suggestion:
    """Holds the rate that one rule suggests.

    Example:
        >>> from onepass.monitor import Suggestion
        >>> Suggestion(lr=0.1, low=0.08, high=0.12, by_seed=[0.1, 0.08, 0.12]).lr
        0.1
    """

    lr: float
    """The median over the seeds."""
    low: float
    """The smallest rate of a seed."""
    high: float
    """The largest rate of a seed."""
    by_seed: list[float]
    """The rate of each seed whose curve the rule could judge."""


@dataclass(frozen=True)
class LRRangeResult:
    """Holds the sweeps of `lr_range_test`, and suggests rates.

    Example:
        >>> from onepass.monitor import Curve, LRRangeResult
        >>> losses = [2.0, 1.9, 1.0, 0.9, 4.0]
        >>> curve = Curve(0, [1e-4, 1e-3, 1e-2, 1e-1, 1.0], losses, losses, diverged=True, dropped=0)
        >>> result = LRRangeResult([curve], {"sweep": "exponential"})
        >>> {name: round(one.lr, 4) for name, one in result.suggestions.items()}
        {'steepest': 0.001, 'valley': 0.001, 'last_stable': 0.01}
        >>> result.suggestion
        0.001
    """

    curves: list[Curve]
    """One for each seed."""
    options: dict[str, Any]
    """The arguments of the test, as JSON takes them."""

    @cached_property
    def suggestions(self) -> dict[str, Suggestion]:
        """The suggestions by the name of their rule, without rules that find nothing in any curve.

        "steepest": the rate at which the loss falls fastest with the logarithm of the rate. "valley": the rate in
        the middle of the longest falling subsequence of the losses. "last_stable": a tenth of the rate with the
        least loss.
        """
        found = {}
        for name, rule in RULES.items():
            rates = [lr for curve in self.curves if (lr := rule(curve.lrs, curve.smoothed)) is not None]
            if rates:
                found[name] = Suggestion(median(rates), min(rates), max(rates), rates)
        return found

    @property
    def suggestion(self) -> float:
        """The rate to begin with, by the rule "steepest".

        Raises:
            RuntimeError: The loss fell in no sweep.
        """
        if "steepest" not in self.suggestions:
            raise RuntimeError(
                "lr_range_test: there is no suggestion, because the loss fell in no sweep; widen min_lr and "
                f"max_lr, got {self.options['min_lr']:g} and {self.options['max_lr']:g}"
            )
        return self.suggestions["steepest"].lr

    def to_json(self) -> dict[str, Any]:
        """Returns options, suggestions and curves as JSON takes them: numbers that are not finite are None."""
        curves = [asdict(curve) for curve in self.curves]
        for curve in curves:
            for name in ("losses", "smoothed"):
                curve[name] = [value if abs(value) < float("inf") else None for value in curve[name]]
        suggestions = {name: asdict(one) for name, one in self.suggestions.items()}
        return {"options": self.options, "suggestions": suggestions, "curves": curves}

    def table(self) -> Table:
        """Returns a table for the terminal, with a line for each rule."""
        from rich.table import Table

        shown = Table("rule", "suggested rate", "lowest", "highest", "of seeds")
        for name, one in self.suggestions.items():
            rates = (f"{rate:.3g}" for rate in (one.lr, one.low, one.high))
            shown.add_row(name, *rates, f"{len(one.by_seed)} of {len(self.curves)}")
        return shown

    def plot(self, path: Path | str | None = None) -> Any:
        """Draws the smoothed curves over the rate, and the suggestions.

        Args:
            path: The file that the picture is written to, in the format of its suffix; None to write nothing.

        Returns:
            The figure, of matplotlib.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for i, curve in enumerate(self.curves):
            axes.plot(curve.lrs, curve.losses, color="#b0b0b0", linewidth=0.7, alpha=0.6)
            axes.plot(curve.lrs, curve.smoothed, color="#30638e", label=None if i else "smoothed loss, each seed")
        colours = {"steepest": "#edae49", "valley": "#d1495b", "last_stable": "#4f9dc4"}
        for name, one in self.suggestions.items():
            axes.axvspan(one.low, one.high, color=colours[name], alpha=0.15)
            axes.axvline(one.lr, color=colours[name], label=f"{name}: {one.lr:.3g}")
        finite = [value for curve in self.curves for value in curve.smoothed[:-1] if abs(value) < float("inf")]
        if finite:
            bottom, top = min(finite), max(curve.smoothed[0] for curve in self.curves)
            margin = 0.1 * (top - bottom) or 1.0
            axes.set_ylim(bottom - margin, top + 3 * margin)
        axes.set(xlabel="learning rate", ylabel="training loss")
        axes.set_xscale("log" if self.options["sweep"] == "exponential" else "linear")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure
