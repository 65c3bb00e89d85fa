"""Tables drawn from benchmarks/results/*.json, so that no page holds a typed measurement.

A page names a table in a comment, ``<!-- results: optim -->``, which `pages` fills in. README.md is also read
where nothing fills it in, so ``python docs/_site`` writes what stands there between ``<!-- drawn: NAME -->`` and
``<!-- end -->``, and a test compares the two.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable

from _site import augmentation, diagnosis, distributed, lab, peers, training
from _site.cases import CASES, HEADLINES
from _site.markdown import FOLDER, ROOT, grid, load, percent, ratio
from _site.source import source

__all__ = ["DRAWN", "FOLDER", "ROOT", "TABLES", "load", "redraw", "table"]


def bench(op: str, *beginnings: str) -> str:
    """The cases of one `onepass bench` whose names begin so; a column for each competitor of torch's."""
    chosen = [case for case in load(f"{op}-cpu")["results"] if case["case"].startswith(beginnings or ("",))]
    found = dict.fromkeys(name for case in chosen for name in case["competitors"])
    names = [name for name in found if name.partition(" (")[0] not in ("ours", "stream", "copy")]
    heads = ["work", *(quotient(name) for name in names), "onepass, ms", "of the bandwidth"]
    rows, notes = [], []
    for case in chosen:
        ours = case["competitors"]["ours"]
        others = [ratio(case["competitors"].get(name, {}).get("theirs_over_ours")) for name in names]
        words = CASES.get(case["case"], f"`{case['case']}`")
        rows.append([words, *others, f"{ours['seconds_50'] * 1e3:.3g}", percent(ours["share_of_stream"])])
        note = "; ".join(case["notes"]).replace("ours", "onepass")
        notes.append(re.sub(r"^kept for backward( beyond logits)?[:, ]*", "", note))
    if any(notes):
        heads.append("kept for backward")
        rows = [[*row, note] for row, note in zip(rows, notes, strict=True)]
    return grid(heads, rows) + "\n\n" + source(f"{op}-cpu")


def quotient(name: str) -> str:
    """The head of the column of a competitor, which may be one in a second state of the caches."""
    competitor, _, state = name.rstrip(")").partition(" (")
    return f"{competitor} / onepass" + (f", {state}" if state else "")


def monitor() -> str:
    """What a monitor adds to a training step, compared with other ways to look at it."""
    rows = []
    for case in load("monitor-cpu")["results"]:
        plain = case["competitors"]["nothing"]["seconds_50"]
        for name, one in case["competitors"].items():
            added = f"{one['seconds_50'] / plain:.3f}"
            rows.append(
                [CASES[case["case"]], name.replace("ours", "onepass"), f"{one['seconds_50'] * 20:.3g}", added]
            )
    return (
        grid(["training", "looked at by", "ms a step", "of a plain step"], rows) + "\n\n" + source("monitor-cpu")
    )


def headlines() -> str:
    """One row an operation, and how far its other cases lie from it."""
    rows = [training.headline()]
    for name, work, op, chosen, competitor in HEADLINES:
        cases = {case["case"]: case["competitors"] for case in load(f"{op}-cpu")["results"]}
        one = cases[chosen]
        fair = [c[competitor]["theirs_over_ours"] for c in cases.values() if competitor in c]
        rows.append(
            [
                f"{name} ([JSON](benchmarks/results/{op}-cpu.json))",
                work,
                f"**{ratio(one[competitor]['theirs_over_ours'])}**",
                percent(one["ours"]["share_of_stream"]),
                f"{ratio(min(fair))} to {ratio(max(fair))}",
            ]
        )
    return grid(["operation", "work", "torch / onepass", "of the bandwidth", "range of all cases"], rows)


def build() -> str:
    """How long a build from source takes, as one sentence."""
    made = load("build-times")
    cpu = [run["seconds"] for run in made["results"] if run["cuda_architectures"] is None]
    cuda = [run["seconds"] for run in made["results"] if run["cuda_architectures"] is not None]
    return (
        f"A build on {made['machine']['cores']} cores takes about {min(cpu):.0f} s without CUDA and "
        f"{min(cuda):.0f} to {max(cuda):.0f} s with it\n"
        "([build-times.json](benchmarks/results/build-times.json)); `pip install -v` shows what it is doing."
    )


def build_times() -> str:
    """Each build that was measured."""
    rows = [
        [f"`{run['command']}`", run["cuda_architectures"] or "none", f"{run['seconds']:.0f}"]
        for run in load("build-times")["results"]
    ]
    return grid(["command", "CUDA architectures", "seconds"], rows) + "\n\n" + source("build-times")


def precision() -> str:
    """What each way to keep half precision costs."""
    (case,) = [c for c in load("tail-cpu")["results"] if c["case"].startswith("precision")]
    others = {name: c for name, c in case["competitors"].items() if name not in ("ours", "stream")}
    cells = ["1", *(ratio(c["theirs_over_ours"]) for c in others.values())]
    return grid(["nearest", *others], [cells]) + "\n\n" + source("tail-cpu")


def state_formats() -> str:
    """The errors of formats of 8-bit states."""
    found = load("state-formats")["results"]
    short = [row for row in found if row["steps"] == found[0]["steps"]]
    long = [row for row in found if row["sigma"] == 0 and row["steps"] != found[0]["steps"]]
    head = [
        "format",
        *(f"error, sigma {row['sigma']:g}" for row in short),
        *(f"v, scale times {row['change']:g}, {row['steps']} steps" for row in long),
    ]
    rows = [
        [
            name,
            *(f"{row['formats'][name]['error']:.3g}" for row in short),
            *(f"{row['formats'][name]['second_moments']:.2f}" for row in long),
        ]
        for name in short[0]["formats"]
    ]
    return grid(head, rows) + "\n\n" + source("state-formats")


def telemetry() -> str:
    """What telemetry costs."""
    (case,) = [c for c in load("tail-cpu")["results"] if c["case"].startswith("telemetry")]
    times = {name: c["seconds_50"] * 1e3 for name, c in case["competitors"].items()}
    return (
        grid(
            ["telemetry off, ms", "on, ms", "on / off", "of the bandwidth, on"],
            [
                [
                    f"{times['off']:.1f}",
                    f"{times['ours']:.1f}",
                    ratio(1 / case["competitors"]["off"]["theirs_over_ours"]),
                    percent(case["competitors"]["ours"]["share_of_stream"]),
                ]
            ],
        )
        + "\n\n"
        + source("tail-cpu")
    )


def schedule() -> str:
    """A step of each scheduler: torch's time over ours."""
    found: dict[str, dict[str, str]] = {}
    for case in load("schedule-cpu")["results"]:
        name, _, groups = case["case"].partition("-")
        found.setdefault(name, {})[groups] = ratio(case["competitors"]["torch"]["theirs_over_ours"])
    kinds = ("1", "465-each", "465-same")
    rows = [[f"`{name}`", *(by.get(kind, "") for kind in kinds)] for name, by in found.items()]
    heads = ["torch / onepass", "1 group", "465 groups, a rate each", "465 groups, one rate"]
    return grid(heads, rows) + "\n\n" + source("schedule-cpu")


def landscape() -> str:
    """How many points the adaptive grid of a landscape evaluates, and how far its picture is from the full one."""
    rows = []
    for row in load("landscape")["results"]:
        options = row["options"]
        where = "principal directions" if "trajectory" in options else f"random, span {options.get('span', 1.0):g}"
        if "batch_norm" in options:
            where += f", statistics {options['batch_norm']}"
        count = row["evaluations"]
        errors = (row["largest_error"], row["mean_error"], row["largest_error_checked"])
        shown = [f"{100 * error:.2g} %" for error in errors]
        losses = f"{row['least_loss']:.2g} to {row['largest_loss']:.2g}"
        rows.append(
            [row["network"], where, losses, f"{count} of {row['full']} ({percent(count / row['full'])})", *shown]
        )
    heads = [
        "network",
        "plane",
        "losses",
        "evaluations",
        "largest error",
        "mean error",
        "largest error in its check",
    ]
    return f"{grid(heads, rows)}\n\n{source('landscape')}"


def lr_range() -> str:
    """The suggestions of the range test on the demo's network, and what training with them gives."""
    rows = []
    for name in ("adamw", "sgd"):
        made = load(f"lr-range-{name}-cpu")
        rules, grids = made["suggestions"], made["grid"]
        chosen = next(point for point in grids if point["lr"] == made["suggestion"])
        best = max((point for point in grids if point is not chosen), key=lambda point: point["accuracy"])
        steepest = rules["steepest"]
        rows.append(
            [
                {"adamw": "AdamW", "sgd": "SGD, momentum 0.9"}[name],
                f"{steepest['lr']:.2g} ({steepest['low']:.2g} to {steepest['high']:.2g})",
                f"{chosen['accuracy']:.1%}".replace("%", " %"),
                f"{best['accuracy']:.1%} at {best['lr']:.2g}".replace("%", " %"),
                f"{rules['valley']['lr']:.2g}",
                f"{rules['last_stable']['lr']:.2g}",
            ]
        )
    heads = [
        "",
        "suggested (of 3 seeds)",
        "its validation accuracy",
        "best of the grid",
        "`valley`",
        "`last_stable`",
    ]
    return grid(heads, rows) + "\n\n" + source("lr-range-adamw-cpu", "lr-range-sgd-cpu")


def verdicts(counts: Counter[str]) -> str:
    """How many tests ended how."""
    return ", ".join(f"{count} {verdict.lower()}" for verdict, count in counts.items())


def dropout_statistics() -> str:
    """The statistical tests of the masks."""
    found = load("dropout-statistics")
    figures = sum(2 + len(row["lag_sigmas"]) for row in found["results"])
    counts: Counter[str] = Counter()
    ends: dict[tuple[str, str, int], str] = {}
    for run in load("dropout-dieharder")["results"]:
        if run["run"] == "-Y 1":  # more samples until it is clear: the last verdict counts
            ends[run["stream"], run["test"], run["ntup"]] = run["assessment"]
        else:
            counts[run["assessment"]] += 1
    largest = f"{figures} figures, the largest {found['largest_sigmas']:.2f} standard deviations"
    rows = [
        ["keep rate and correlations", largest],
        ["dieharder", verdicts(counts)],
        [
            "the tests with a weak result, with more samples until it is clear (-Y 1)",
            verdicts(Counter(ends.values())),
        ],
    ]
    links = " and ".join(
        f"[{name}.json](../benchmarks/results/{name}.json)" for name in ("dropout-statistics", "dropout-dieharder")
    )
    return grid(["test", "result"], rows) + f"\n\nSource: {links}."


def parity() -> str:
    """The accuracy of each operation, by the rule of docs/numerics.md."""
    rows = []
    for op in ("optim", "tail", "batch_norm", "norm", "dropout", "cross_entropy", "augment"):
        found = load(f"parity-{op}-cpu")["rows"]
        worst = max(found, key=lambda row: row["share_of_limit"])
        where = f"{worst['rule']}, {worst['dtype']}, {worst['options']}, {worst['tensor']}".replace("|", "\\|")
        held = "all" if all(row["ok"] for row in found) else f"{sum(row['ok'] for row in found)}"
        link = f"[{op}](../benchmarks/results/parity-{op}-cpu.json)"
        rows.append([link, f"{len(found)}", held, percent(worst["share_of_limit"]), where])
    return grid(["operation", "comparisons", "within the limit", "largest share of the limit", "where"], rows)


def numbers(version: str) -> tuple[int, ...]:
    """A version's numbers, by which versions are sorted."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def torch_matrix() -> str:
    """The smoke suite on installed wheels: a row for each run of benchmarks/torch_matrix.py."""
    rows = []
    for path in (FOLDER / "torch-matrix").glob("*.json"):
        made = json.loads(path.read_text())
        facts, smoke = made["facts"], made["smoke"]
        torch, _, build = facts["torch"].partition("+")
        left_out = sum("compile" in name for name in smoke["not_passed"]["skipped"])
        verdict = f"{smoke['passed']} passed"
        verdict += "".join(f", {smoke[kind]} {kind}" for kind in ("failed", "skipped") if smoke[kind])
        rows.append(
            [
                f"{torch} ({build or 'CUDA ' + str(facts['torch_cuda'])})",
                facts["python"],
                facts["numpy"],
                f"[{verdict}](../benchmarks/results/torch-matrix/{path.name})",
                "layers" if left_out else "layers and steps",
                "" if "demo" not in made else "runs" if made["demo"]["exit"] == 0 else "fails",
                made["date"][:10],
                f"`{made['commit'][:7]}`",
            ]
        )
    rows.sort(key=lambda row: [numbers(cell) for cell in row[:3]])
    heads = ["torch", "Python", "numpy", "smoke suite", "`torch.compile`", "`onepass demo`", "date", "commit"]
    return grid(heads, rows)


TABLES: dict[str, Callable[[], str]] = {
    "torch_matrix": torch_matrix,
    "headlines": lambda: headlines().replace("(benchmarks/", "(../benchmarks/"),
    "build_times": build_times,
    "optim": lambda: bench("optim"),
    "tail": lambda: bench("tail", "tail-"),
    "clip": lambda: bench("tail", "clip-"),
    "precision": precision,
    "telemetry": telemetry,
    "batch_norm": lambda: bench("batch_norm"),
    "norm": lambda: bench("norm"),
    "dropout": lambda: bench("dropout"),
    "cross_entropy": lambda: bench("cross_entropy"),
    "monitor": monitor,
    "schedule": schedule,
    "lr_range": lr_range,
    "landscape": landscape,
    "dropout_statistics": dropout_statistics,
    "state_formats": state_formats,
    "parity": parity,
    "peers_run": peers.what_ran,
    "peers_traps": peers.traps,
    "peers_trap_sums": peers.trap_sums,
    "peers_accuracy": peers.accuracy,
    "peers_refused": peers.refused,
    "peers_speed": peers.speed,
    "peers_bandwidth": peers.bandwidth,
    "train": lambda: training.steps() + "\n\n" + source(*training.NAMES),
    "train_kept": lambda: training.steps(training.KEPT) + "\n\n" + source(*training.NAMES),
    "train_outside": lambda: training.outside() + "\n\n" + source(*training.NAMES),
    "train_memory": lambda: training.memory() + "\n\n" + source(*training.NAMES),
    "train_users": lambda: training.users() + "\n\n" + source(*training.NAMES),
    **augmentation.TABLES,
    **diagnosis.TABLES,
    **distributed.TABLES,
    **lab.TABLES,
}
DRAWN = {"headlines": headlines, "build": build}


def table(name: str) -> str:
    """The table of that name as Markdown, for a page in docs/."""
    if name not in TABLES:
        raise KeyError(f"results: the table must be one of {', '.join(TABLES)}, got {name}")
    return TABLES[name]()


def redraw(readme: str) -> str:
    """README's text with everything between the comments drawn again."""
    return re.sub(
        r"(<!-- drawn: (\w+) -->\n)(?:.*?\n)??(<!-- end -->)",
        lambda match: f"{match[1]}{DRAWN[match[2]]()}\n{match[3]}",
        readme,
        flags=re.DOTALL,
    )
