"""Tables drawn from benchmarks/results/*.json, so that no page holds a typed measurement.

A page names a table in a comment, ``<!-- results: optim -->``, which `pages` fills in. README.md is also read
where nothing fills it in, so ``python docs/_site`` writes what stands there between ``<!-- drawn: NAME -->`` and
``<!-- end -->``, and a test compares the two.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from _site import diagnosis, lab, peers, training
from _site.cases import CASES, HEADLINES
from _site.markdown import FOLDER, ROOT, grid, load, percent, ratio

__all__ = ["DRAWN", "FOLDER", "ROOT", "TABLES", "load", "redraw", "table"]


def source(*names: str) -> str:
    """How and when the figures were made, a line for each file, or for all that were made alike."""
    links: dict[str, list[str]] = {}
    for name in names:
        made = load(name)
        facts = [made["machine"]["cpu"], f"{made['machine']['cores']} cores"]
        facts += [f"threads: {made['threads']}"] if "threads" in made else []
        facts += [made["versions"][key] for key in ("isa",) if key in made["versions"]]
        facts += [f"torch {made['versions']['torch']}"] if "torch" in made["versions"] else []
        commit, _, dirty = made["commit"].partition("-")
        facts += [malloc(made)] if "op" in made else []
        facts += [made["date"][:10], f"commit `{commit[:7]}`" + ("-dirty" if dirty else "")]
        links.setdefault(", ".join(facts), []).append(f"[{name}.json](../benchmarks/results/{name}.json)")
    return "\n\n".join(f"Source: {', '.join(files)}. {facts}." for facts, files in links.items())


def malloc(made: dict[str, Any]) -> str:
    """Which of the two states of malloc a run of `onepass bench` was in."""
    # Older files have what the command started again with.
    default = "kept" if made["environment"].get("MALLOC_MMAP_MAX_") == "0" else "default"
    state = made["malloc"]["freed_memory"] if "malloc" in made else default
    if made["op"] == "train":
        return "default malloc, and freed memory kept where the table says so"
    return "freed memory kept" if state == "kept" else "default malloc"


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


def distributed(*beginnings: str) -> str:
    """Steps on two ranks: of ours, of their parts, and of torch's."""
    chosen = [case for case in load("distributed-cpu")["results"] if case["case"].startswith(beginnings)]
    names = [name for name in dict.fromkeys(n for case in chosen for n in case["competitors"]) if name != "ours"]
    rows = []
    for case in chosen:
        times = case["competitors"]
        others = [ratio(times.get(name, {}).get("theirs_over_ours")) for name in names]
        rows.append([CASES[case["case"]], f"{times['ours']['seconds_50'] * 1e3:.3g}", *others])
    heads = ["work of each rank", "onepass, ms", *(f"{name} / onepass" for name in names)]
    return grid(heads, rows) + "\n\n" + source("distributed-cpu")


def distributed_scaling() -> str:
    """What more ranks cost, reckoned from what two have measured."""
    cases = {case["case"]: case["competitors"] for case in load("distributed-cpu")["results"]}
    messages = {name: one["seconds_50"] * 1e6 for name, one in cases["messages"].items()}
    numbers = 8 * (4 + 2 * 256)
    rows = [
        [
            f"{ranks:,}",
            f"{16e9 / ranks / 1e9:.3g} GB",
            f"{messages['all-reduce'] * math.log2(ranks):.0f}",
            f"{numbers * ranks / 1e6:.3g} MB",
            f"{messages['merge'] * ranks / 1024:.0f}",
        ]
        for ranks in (2, 8, 64, 1024)
    ]
    heads = [
        "ranks",
        "AdamW, 1e9 float32 parameters: parameters, gradients, states of a rank",
        "all-reduce of a step with a norm, us",
        "SyncBatchNorm of 256 channels: received each way",
        "merged in, us",
    ]
    apart = (cases["shards-500x4096"][name]["seconds_50"] for name in ("ours", "local"))
    each = (next(apart) - next(apart)) / 500 * 1e6
    return (
        grid(heads, rows)
        + f"\n\nHost work of a step: {each:.2g} us for each sharded parameter, for any number of ranks.\n\n"
        + source("distributed-cpu")
    )


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
    for op in ("optim", "tail", "batch_norm", "dropout", "cross_entropy", "augment"):
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
    "dropout": lambda: bench("dropout"),
    "cross_entropy": lambda: bench("cross_entropy"),
    "augment": augment,
    "augment_pairs": augment_pairs,
    "monitor": monitor,
    "distributed_optim": lambda: distributed("fsdp2", "shards"),
    "distributed_scaling": distributed_scaling,
    "distributed_sync": lambda: distributed("sync"),
    "demo_augment": demo_augment,
    "schedule": schedule,
    "lr_range": lr_range,
    "landscape": landscape,
    "dropout_statistics": dropout_statistics,
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
    **diagnosis.TABLES,
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
