"""What the range test returns: curves, suggestions, a table, a picture."""

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
    """One sweep: rates, losses before each update, and their smoothed values."""

    seed: int
    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool
    """Whether it was stopped because the loss grew too far or was not finite."""
    dropped: int
    """Updates that the scaler or the optimizer dropped; they are no points of the curve."""


@dataclass(frozen=True)
class Suggestion:
    """A rate by one rule: the median over the seeds, and the spread."""

    lr: float
    low: float
    high: float
    by_seed: list[float]


@dataclass(frozen=True)
class LRRangeResult:
    """The sweeps of `lr_range_test`."""

    curves: list[Curve]
    options: dict[str, Any]

    @cached_property
    def suggestions(self) -> dict[str, Suggestion]:
        """By rule; a rule that finds nothing in any curve is missing."""
        found = {}
        for name, rule in RULES.items():
            rates = [lr for curve in self.curves if (lr := rule(curve.lrs, curve.smoothed)) is not None]
            if rates:
                found[name] = Suggestion(median(rates), min(rates), max(rates), rates)
        return found

    @property
    def suggestion(self) -> float:
        """The rate to begin with: by the rule `steepest`.

        Raises:
            RuntimeError: The loss fell in no sweep, so there is nothing to suggest.
        """
        if "steepest" not in self.suggestions:
            raise RuntimeError(
                "lr_range_test: there is no suggestion, because the loss fell in no sweep; widen min_lr and "
                f"max_lr, got {self.options['min_lr']:g} and {self.options['max_lr']:g}"
            )
        return self.suggestions["steepest"].lr

    def to_json(self) -> dict[str, Any]:
        """Options, suggestions and all curves; numbers that are not finite as None."""
        curves = [asdict(curve) for curve in self.curves]
        for curve in curves:
            for name in ("losses", "smoothed"):
                curve[name] = [value if abs(value) < float("inf") else None for value in curve[name]]
        suggestions = {name: asdict(one) for name, one in self.suggestions.items()}
        return {"options": self.options, "suggestions": suggestions, "curves": curves}

    def table(self) -> Table:
        """A table for the terminal, a line for each rule."""
        from rich.table import Table

        shown = Table("rule", "suggested rate", "lowest", "highest", "of seeds")
        for name, one in self.suggestions.items():
            rates = (f"{rate:.3g}" for rate in (one.lr, one.low, one.high))
            shown.add_row(name, *rates, f"{len(one.by_seed)} of {len(self.curves)}")
        return shown

    def plot(self, path: Path | str | None = None) -> Any:
        """Draws the smoothed curves over the rate, and the suggestions.

        Args:
            path: Where the picture goes; the suffix chooses the format. Without it nothing is written.

        Returns:
            matplotlib's figure.
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
