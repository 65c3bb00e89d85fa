"""Shows results as a table for the terminal and as a picture."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from onepass.bench.caches import IN_TURN
from onepass.bench.harness import OURS, STREAM, Case, Result, Times

# Each competitor has one colour in every picture; ours stands out.
_COLOURS = {OURS: "#d1495b", STREAM: "#b0b0b0"}
_OTHERS = ("#30638e", "#4f9dc4", "#8fbfd8", "#edae49", "#2a9d8f", "#8f5fbf", "#6b705c", "#e07a9b")

# Letters that fit next to each other above the picture.
_LEGEND_WIDTH = 100

# What the names of competitors in the second state of the caches end in.
_IN_TURN = f" ({IN_TURN})"
_CAPTION = "Caches are empty before a call; in turn: the input was just produced, the output is consumed next."


def heading(case: Case, rounds: int) -> str:
    """Writes the line above a case's table.

    Args:
        case: The case.
        rounds: How many times each competitor is timed.
    """
    size = "" if case.bytes_moved is None else f", {case.bytes_moved / 1e9:.3g} GB a step"
    return f"{case.name}: {rounds} rounds{size}"


def table(result: Result) -> Table:
    """Makes the table of one case, with a row for each competitor.

    Args:
        result: What was measured.
    """
    in_turn = {name: times for name, times in result.times.items() if name.endswith(_IN_TURN)}
    shown = Table(box=SIMPLE, caption=_CAPTION if in_turn else None, caption_justify="left")
    # The name of a user's class may be longer than a narrow terminal: no part of it is left out.
    shown.add_column("competitor", overflow="fold")
    headings = ["20 % ms", "50 % ms", "80 % ms", "theirs/ours"]
    if result.bytes_moved is not None:
        headings += ["GB/s", "% of stream"]
    if in_turn:
        headings += ["in turn ms", "theirs/ours"]
    for text in headings:
        shown.add_column(text, justify="right")
    for name, times in result.times.items():
        if name in in_turn:
            continue
        cells = [f"{seconds * 1e3:.3f}" for seconds in times.quantiles]
        cells.append(_ratio(times))
        if times.gb_per_s is not None and times.share_of_stream is not None:
            cells += [f"{times.gb_per_s:.1f}", f"{times.share_of_stream:.0%}"]
        if (other := in_turn.get(name + _IN_TURN)) is not None:
            cells += [f"{other.quantiles[1] * 1e3:.3f}", _ratio(other)]
        shown.add_row(escape(name), *cells, style="bold" if name == OURS else None)
    for name, fault in result.faults.items():
        shown.add_row(escape(name), "", fault.how, style="bold red")
    return shown


def _ratio(times: Times) -> str:
    return "" if times.theirs_over_ours is None else f"{times.theirs_over_ours:.2f}"


def faults(result: Result) -> list[str]:
    """Writes a line for each competitor that is not timed.

    Args:
        result: What was measured.
    """
    return [f"{name} is not timed: {fault.how}: {fault.text}" for name, fault in result.faults.items()]


def plot(results: list[Result], caption: str, path: Path) -> None:
    """Draws each competitor's share of the stream bandwidth, a group of bars for each case.

    Args:
        results: What was measured; cases that memory does not bound are left out.
        caption: A line below the picture: the machine and the versions.
        path: Where the picture goes; the suffix chooses the format.

    Raises:
        ValueError: No case has a bandwidth.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [result for result in results if STREAM in result.times]
    if not drawn:
        raise ValueError("plot: results must have a case with a bandwidth, got overhead cases only")
    shares = {name for r in drawn for name, times in r.times.items() if times.share_of_stream is not None}
    names = [name for name in dict.fromkeys(n for r in drawn for n in r.times) if name in shares - {STREAM}]
    height = 0.8 / len(names)
    figure, axes = plt.subplots(figsize=(8, 1 + 0.28 * len(names) * len(drawn)), layout="constrained")
    others = cycle(_OTHERS)
    for index, name in enumerate(names):
        places, widths = [], []
        for row, result in enumerate(drawn):
            share = result.times[name].share_of_stream if name in result.times else None
            if share is not None:
                places.append(row + (index - (len(names) - 1) / 2) * height)
                widths.append(100 * share)
        colour = _COLOURS.get(name) or next(others)
        bars = axes.barh(places, widths, height * 0.92, label=name, color=colour)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
    axes.axvline(100, color=_COLOURS[STREAM], linewidth=1)
    axes.set_yticks(range(len(drawn)), [result.case for result in drawn])
    axes.invert_yaxis()
    axes.set_xlabel("% of the bandwidth of a plain loop over as many bytes (longer is faster)")
    axes.spines[["top", "right"]].set_visible(False)
    # A row of the legend holds as many names as fit the figure's width.
    columns = max(1, min(len(names), _LEGEND_WIDTH // (6 + max(map(len, names)))))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns, frameon=False)
    figure.supxlabel(caption, fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)
