"""Shows whole steps: a table for the terminal, and stacked bars of where the time goes."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from onepass.bench.harness import OURS, Result, Times
from onepass.bench.train.profile import FAMILIES, PRODUCTS

# What is outside products stands out; products are greys.
_COLOURS = (
    *("#c9c9c9", "#b0b0b0", "#969696"),
    *("#d1495b", "#30638e", "#4f9dc4", "#8fbfd8", "#b9d6e6", "#edae49", "#2a9d8f", "#8f5fbf", "#6b705c"),
)
_MS, _MIB = 1e3, 2**20
# The state of malloc that is not the default.
KEPT = "freed memory kept"
_CAPTION = (
    "ms: default malloc, which all columns are with but the two of freed memory kept. outside: matrix products, "
    "convolutions and attention; faults: new pages of a step; saved: for the backward pass; peak: resident."
)


def table(result: Result) -> Table:
    """Makes the table of one case: a row for each competitor, columns for the two states of malloc.

    Args:
        result: What was measured.
    """
    shown = Table(box=SIMPLE, caption=_CAPTION, caption_justify="left", padding=(0, 0, 0, 1), pad_edge=False)
    shown.add_column("competitor", no_wrap=True)
    for text in ("ms", "/ours", "kept ms", "/ours", "outside ms", "faults", "first s", "saved MiB", "peak MiB"):
        shown.add_column(text, justify="right")
    for name, times in result.times.items():
        if not name.endswith(f" ({KEPT})"):
            cells = [*_times(times), *_times(result.times.get(f"{name} ({KEPT})")), *_figures(times)]
            shown.add_row(name, *cells, style="bold" if name == OURS else None)
    for name, fault in result.faults.items():
        shown.add_row(name, fault.how, style="bold red")
    return shown


def _times(times: Times | None) -> list[str]:
    if times is None:
        return ["", ""]
    ratio = times.theirs_over_ours
    return [_milliseconds(times.quantiles[1]), "" if ratio is None else f"{ratio:.2f}"]


def _milliseconds(seconds: float) -> str:
    """At least three digits."""
    return f"{seconds * _MS:.{0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2}f}"


def _figures(times: Times) -> list[str]:
    more = times.figures
    if not more:
        return []
    kept = more["kept_bytes"]
    return [
        _milliseconds(more["outside_seconds"]),
        f"{more['page_faults']:,.0f}",
        f"{more['first_step_seconds']:.2f}",
        "" if kept is None else f"{kept / _MIB:.1f}",
        f"{more['peak_bytes'] / _MIB:.0f}",
    ]


def plot(results: list[Result], caption: str, path: Path) -> None:
    """Draws the seconds of a step by family of operations, a stacked bar for each competitor.

    Args:
        results: What was measured.
        caption: A line below the picture: the machine and the versions.
        path: Where the picture goes; the suffix chooses the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [one for one in results if any(times.figures for times in one.times.values())]
    bars = [sum(bool(times.figures) for times in one.times.values()) for one in drawn]
    figure, axes = plt.subplots(
        len(drawn),
        1,
        figsize=(9, 1.5 + sum(0.6 + 0.3 * count for count in bars)),
        squeeze=False,
        gridspec_kw={"height_ratios": [count + 2 for count in bars]},
        layout="constrained",
    )
    for axis, result in zip(axes[:, 0], drawn, strict=True):
        names = [name for name, times in result.times.items() if times.figures]
        ends = [0.0] * len(names)
        for family, colour in zip(FAMILIES, _COLOURS, strict=True):
            widths = [result.times[name].figures["families"][family] * _MS for name in names]
            axis.barh(names, widths, 0.8, left=ends, color=colour, label=family)
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        for row, name in enumerate(names):
            families = result.times[name].figures["families"]
            apart = sum(seconds for family, seconds in families.items() if family not in PRODUCTS)
            axis.text(ends[row], row, f" {apart * _MS:.1f}", va="center", fontsize=8)
        axis.invert_yaxis()
        axis.set_title(result.case, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.08)
    axes[-1, 0].set_xlabel("ms of a step under the profiler; the number is what is outside the greys")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel(caption, fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)
