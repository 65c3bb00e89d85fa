"""Tables of `onepass bench distributed`."""

from __future__ import annotations

import math

from _site.cases import CASES
from _site.markdown import grid, load, ratio
from _site.source import source

__all__ = ["TABLES"]


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


TABLES = {
    "distributed_optim": lambda: distributed("fsdp2", "shards"),
    "distributed_scaling": distributed_scaling,
    "distributed_sync": lambda: distributed("sync"),
}
