"""Tables of `onepass bench augment`, and of demos with augmentation."""

from __future__ import annotations

from _site.cases import CASES
from _site.markdown import grid, load, percent, ratio
from _site.source import source

__all__ = ["TABLES"]

RIVALS = ("torch", "torchvision", "opencv", "albumentations", "kornia")


def augment() -> str:
    """The cases of `onepass bench augment` with rivals, and the rivals' versions."""
    rows, versions = [], ""
    for case in load("augment-cpu")["results"]:
        times = case["competitors"]
        if not times.keys() & set(RIVALS):
            continue
        ours = times["ours"]
        others = [ratio(times.get(name, {}).get("theirs_over_ours")) for name in RIVALS]
        share, taps = ours["share_of_stream"], times.get("taps")
        of_taps = "" if taps is None else percent(taps["seconds_50"] / ours["seconds_50"])
        cells = [f"{ours['seconds_50'] * 1e3:.3g}", "" if share is None else percent(share), of_taps]
        rows.append([CASES[case["case"]], *others, *cells])
        versions = case["notes"][0]
    heads = [
        "work",
        *(f"{name} / onepass" for name in RIVALS),
        "onepass, ms",
        "of the bandwidth",
        "of a loop over the taps",
    ]
    return grid(heads, rows) + f"\n\n{versions[:1].upper()}{versions[1:]}. " + source("augment-cpu")


def augment_pairs() -> str:
    """Ours compared with ours, of the same file."""
    rows = []
    for case in load("augment-cpu")["results"]:
        pair = [name for name in case["competitors"] if name not in ("ours", *RIVALS, "stream")]
        if len(pair) == 1:
            ours, other = case["competitors"]["ours"], case["competitors"][pair[0]]
            milliseconds = (f"{one['seconds_50'] * 1e3:.3g}" for one in (ours, other))
            rows.append([CASES[case["case"]], *milliseconds, ratio(other["theirs_over_ours"])])
    heads = ["work", "ms", "compared with, ms", "the other / this"]
    return grid(heads, rows) + "\n\n" + source("augment-cpu")


def demo_augment() -> str:
    """The demo's accuracies with and without augmentation, by seed."""
    found: dict[int, dict[bool, tuple[float, float]]] = {}
    for run in load("demo-augment")["results"]:
        accuracies = run["validation_accuracy"][-1], run["train_accuracy"]
        found.setdefault(run["seed"], {})[run["augment"]] = accuracies
    pairs = [(one[False][0], one[True][0], one[False][1], one[True][1]) for one in found.values()]
    columns = list(zip(*pairs, strict=True))
    rows = [
        [str(seed), *(f"{100 * value:.1f} %" for value in pair)] for seed, pair in zip(found, pairs, strict=True)
    ]
    rows.append(["mean", *(f"{100 * sum(column) / len(column):.2f} %" for column in columns)])
    return (
        grid(
            ["seed", *(f"{part}, {how}" for part in ("validation", "training") for how in ("without", "with"))],
            rows,
        )
        + "\n\n"
        + source("demo-augment")
    )


TABLES = {"augment": augment, "augment_pairs": augment_pairs, "demo_augment": demo_augment}
