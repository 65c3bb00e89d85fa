"""Shows what the two trainings recorded: figures, a table for the terminal, a picture."""

from __future__ import annotations

from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from onepass.demo.model import Score
from onepass.demo.train import OURS, TORCH, Run

_COLOURS = {TORCH: "#8fbfd8", OURS: "#d1495b"}
# The loss jumps from batch to batch; the picture shows the mean over this many of the last batches.
_SMOOTHING = 25


def figures(runs: dict[str, Run]) -> dict[str, Any]:
    """Collects everything the table and the picture show, as numbers.

    Args:
        runs: What `train` returned.

    Returns:
        A dict for JSON. Times in seconds, memory in bytes; `loss_difference` is the largest difference of the two
        losses at one step.
    """
    ours, theirs = runs[OURS], runs[TORCH]
    differences = [abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True)]
    return {
        "trainings": {name: _figures_of(run) for name, run in runs.items()},
        "loss_difference": max(differences),
        "loss_difference_first_epoch": max(differences[: len(differences) // len(ours.validation)]),
        "update_theirs_over_ours": median(theirs.update_seconds) / median(ours.update_seconds),
    }


def _figures_of(run: Run) -> dict[str, Any]:
    return {
        "train": _score_figures(run.train),
        "validation": [_score_figures(score) for score in run.validation],
        "losses": run.losses,
        "lrs": run.lrs,
        "update_seconds": run.update_seconds,
        "update_seconds_median": median(run.update_seconds),
        "update_seconds_total": sum(run.update_seconds),
        "step_seconds_median": median(run.step_seconds),
        "step_seconds_total": sum(run.step_seconds),
        "kept_bytes": run.kept_bytes,
        "average": _score_figures(run.average),
        "skipped_steps": run.skipped_steps,
    }


def _score_figures(score: Score | None) -> dict[str, float]:
    return {} if score is None else score._asdict()


def table(shown: dict[str, Any]) -> Table:
    """Makes a table with a column for each training.

    Args:
        shown: What `figures` returned.
    """
    names = list(shown["trainings"])
    columns = [shown["trainings"][name] for name in names]
    result = Table(box=SIMPLE)
    result.add_column("")
    for name in names:
        result.add_column(name, justify="right", style="bold" if name == OURS else None)
    for part, scores in (
        ("train", [column["train"] for column in columns]),
        ("validation", [column["validation"][-1] for column in columns]),
    ):
        result.add_row(f"{part} loss", *(f"{score['loss']:.6f}" for score in scores))
        result.add_row(f"{part} accuracy", *(f"{score['accuracy']:.2%}" for score in scores))
        result.add_row(f"{part} calibration error", *(f"{score['calibration_error']:.2%}" for score in scores))
    averages = [column["average"] for column in columns]
    if all(averages):
        result.add_row("validation accuracy, average", *(f"{score['accuracy']:.2%}" for score in averages))
    result.add_row("skipped steps", *(str(column["skipped_steps"]) for column in columns))
    result.add_row("optimizer step, median", *(f"{c['update_seconds_median'] * 1e3:.3f} ms" for c in columns))
    result.add_row("optimizer steps, total", *(f"{c['update_seconds_total']:.3f} s" for c in columns))
    result.add_row("training step, median", *(f"{c['step_seconds_median'] * 1e3:.3f} ms" for c in columns))
    result.add_row("kept for backward", *(f"{c['kept_bytes'] / 2**20:.2f} MiB" for c in columns))
    result.add_row(
        "share of training time",
        *(f"{c['update_seconds_total'] / c['step_seconds_total']:.1%}" for c in columns),
    )
    return result


def summary(shown: dict[str, Any], layers: str) -> str:
    """Writes the lines below the table.

    Args:
        shown: What `figures` returned.
        layers: As in `Plan`.
    """
    why = (
        "The two round differently in the last bit, and training amplifies that, as it does between two machines."
        if layers == "torch"
        else "The two draw different dropout masks, so their curves are alike but not the same."
    )
    return (
        f"The optimizer step of {TORCH} takes {shown['update_theirs_over_ours']:.2f} times as long as that of "
        f"{OURS}.\n"
        f"Largest difference of the two losses at one step: {shown['loss_difference']:.2g} (in the first epoch "
        f"{shown['loss_difference_first_epoch']:.2g}).\n"
        f"{why}"
    )


def plot(shown: dict[str, Any], caption: str, path: Path) -> None:
    """Draws both loss curves over the learning rate, the validation accuracy and the times of the optimizer steps.

    Args:
        shown: What `figures` returned.
        caption: A line below the picture: the optimizer, the machine and the versions.
        path: Where the picture goes.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # The loss above the rate, accuracy and time to the right of them.
    layout: dict[str, Any] = {"height_ratios": (3, 1), "figsize": (13, 4), "layout": "constrained"}
    figure, drawn = plt.subplot_mosaic("LAT;RAT", **layout)
    axes_of: dict[str, Any] = dict(drawn)
    loss, rate, accuracy, time = (axes_of[name] for name in "LRAT")
    for name, one in shown["trainings"].items():
        # A wide pale line below a thin dashed one: where the curves coincide, both are visible.
        line = {"color": _COLOURS[name], "label": name}
        line |= {"linewidth": 1.5, "linestyle": "--"} if name == OURS else {"linewidth": 5}
        smooth = _running_mean(one["losses"])
        loss.plot(range(1, len(smooth) + 1), smooth, **line)
        rate.plot(range(1, len(one["lrs"]) + 1), one["lrs"], **line)
        epochs = range(1, len(one["validation"]) + 1)
        accuracy.plot(epochs, [100 * score["accuracy"] for score in one["validation"]], **line)
        milliseconds = sorted(1e3 * seconds for seconds in one["update_seconds"])
        shares = [100 * (i + 1) / len(milliseconds) for i in range(len(milliseconds))]
        time.plot(milliseconds, shares, color=_COLOURS[name], linewidth=2, label=name)
    loss.set(title="training loss", yscale="log")
    loss.sharex(rate)
    loss.tick_params(labelbottom=False)
    rate.set(ylabel="rate", xlabel=f"step (loss: mean of the last {_SMOOTHING})")
    rate.spines[["top", "right"]].set_visible(False)
    accuracy.set(title="validation accuracy", xlabel="epoch", ylabel="%")
    accuracy.xaxis.get_major_locator().set_params(integer=True)
    # The few steps that the system interrupted would squeeze all others to the left.
    slowest = max(quantiles(one["update_seconds"], n=100)[-1] for one in shown["trainings"].values())
    time.set(
        title="time of an optimizer step", xlabel="at most ms", ylabel="% of the steps", xlim=(0, 1e3 * slowest)
    )
    for axes in (loss, accuracy, time):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.supxlabel(caption, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _running_mean(values: list[float]) -> list[float]:
    windows = (values[max(0, i + 1 - _SMOOTHING) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
