"""Tables of `onepass bench train`: whole steps, what is outside products in them, page faults and memory."""

from __future__ import annotations

from typing import Any

from _site.cases import CASES
from _site.markdown import grid, load, percent, ratio

KEPT = " (freed memory kept)"
RIVALS = ("torch", "torch-fused", "compile", "compile-fused", "ours-compile")
# A run each, so that each is short enough for a quiet machine.
WORKS = ("gpt", "resnet18-channels_last", "resnet18-nchw", "resnet18-bfloat16-channels_last", "mlp", "chain")
NAMES = tuple(f"train-{work}-cpu" for work in WORKS)


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Each case of the files: its words, and its competitors."""
    return [(CASES[case["case"]], case["competitors"]) for name in NAMES for case in load(name)["results"]]


def rivals(found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The competitors of ours that were timed."""
    return [name for name in RIVALS if any(name in times for _, times in found)]


def quotient(times: dict[str, Any], above: str, below: str) -> float | None:
    """The median over the rounds of one competitor's time divided by another's."""
    if above not in times or below not in times:
        return None
    pairs = zip(times[above]["seconds"], times[below]["seconds"], strict=True)
    ratios = sorted(first / second for first, second in pairs)
    middle = len(ratios) // 2
    return ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2


def heads(*columns: str) -> list[str]:
    """The heads of a table with a row for each training."""
    return ["training", *columns]


def steps(state: str = "") -> str:
    """Whole steps in one state of malloc."""
    rows, found = [], cases()
    for words, times in found:
        ours = f"ours{state}"
        others = [ratio(quotient(times, name + state, ours)) for name in rivals(found)]
        rows.append([words, *others, f"{times[ours]['seconds_50'] * 1e3:.3g}"])
    names = (f"{name.replace('ours', 'onepass')} / onepass" for name in rivals(found))
    return grid(heads(*names, "onepass, ms"), rows)


def outside() -> str:
    """The time outside products: ours in ms with the default malloc, and the others' divided by it."""
    rows, found = [], cases()
    for words, times in found:
        own = times["ours"]["figures"]["outside_seconds"]
        share = own / sum(times["ours"]["figures"]["families"].values())
        others = [
            ratio(times[name]["figures"]["outside_seconds"] / own) if name in times else ""
            for name in rivals(found)
        ]
        rows.append([words, *others, f"{own * 1e3:.3g}", percent(share)])
    names = (f"{name.replace('ours', 'onepass')} / onepass" for name in rivals(found))
    return grid(heads(*names, "onepass, ms", "of its step"), rows)


def memory() -> str:
    """Page faults and peaks of resident memory in both states of malloc, and what backward keeps."""
    rows = []
    for words, times in cases():
        for name in ("ours", "torch", "torch-fused"):
            if name not in times:
                continue
            default, kept = (times[name + state]["figures"] for state in ("", KEPT))
            rows.append(
                [
                    words,
                    name.replace("ours", "onepass"),
                    *(f"{one['page_faults']:,.0f}" for one in (default, kept)),
                    *(f"{one['peak_bytes'] / 2**20:,.0f}" for one in (default, kept)),
                    f"{default['kept_bytes'] / 2**20:.1f}",
                    f"{default['first_step_seconds']:.2f}",
                ]
            )
    columns = (
        "page faults a step, default malloc",
        "freed memory kept",
        "peak of resident memory, MiB, default malloc",
        "freed memory kept",
        "kept for backward, MiB",
        "first step, s",
    )
    return grid(heads("made of", *columns), rows)


def headline() -> list[str]:
    """The row of README: the small GPT, and the range over all models that have an optimizer."""
    found = [(words, times) for words, times in cases() if "torch-fused" in times]
    fair = [quotient(times, "torch", "ours") or 0.0 for _, times in found]
    link = "(benchmarks/results/train-gpt-cpu.json)"
    return [
        f"whole training step ([JSON]{link})",
        "small GPT, 1,024 tokens, AdamW; default malloc",
        f"**{ratio(fair[0])}**",
        "",
        f"{ratio(min(fair))} to {ratio(max(fair))}",
    ]


def users() -> str:
    """Onepass with freed memory kept, next to torch as users have it."""
    rows = [
        [
            words,
            ratio(quotient(times, "torch", "ours")),
            ratio(quotient(times, f"torch{KEPT}", f"ours{KEPT}")),
            ratio(quotient(times, "torch", f"ours{KEPT}")),
            ratio(quotient(times, "torch", f"torch{KEPT}")),
        ]
        for words, times in cases()
    ]
    columns = (
        "torch / onepass, default malloc",
        "both with freed memory kept",
        "torch by default / onepass with freed memory kept",
        "torch by default / torch with freed memory kept",
    )
    return grid(heads(*columns), rows)
