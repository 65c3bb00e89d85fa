"""Counts what dropout draws: keep rates, correlations between neighbours and between calls, and writes a JSON.

    python benchmarks/dropout_statistics.py --draws 1000000000 --output benchmarks/results/dropout-statistics.json

Each figure is told in standard deviations of independent draws; exit status 1 if one lies outside of 4.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onepass.bench import machine
from onepass.nn.functional import dropout

P = (0.1, 0.25, 0.5, 0.9, 1 / 3)
LAGS = (1, 2, 3, 4, 8, 15, 16, 17, 64, 256, 1024, 65536)
LIMIT = 4
_CHUNK = 2**24


def centred(p: float, seed: int, ones: Tensor) -> Tensor:
    """The mask of a call, minus its expectation, over its standard deviation."""
    kept = dropout(ones, p, seed=seed, scaling="test_time")
    return kept.sub_(1 - p).div_((p * (1 - p)) ** 0.5)


def measure(p: float, draws: int, chunk: int = _CHUNK) -> dict[str, object]:
    """All figures of one p, over calls of `chunk` elements with successive seeds."""
    ones = torch.ones(chunk)
    calls = -(-draws // ones.numel())
    kept, before = 0.0, None
    sums = dict.fromkeys(LAGS, 0.0)
    between = 0.0
    for seed in range(calls):
        z = centred(p, seed, ones)
        kept += float(z.sum(dtype=torch.float64))
        for lag in LAGS:
            if lag < z.numel():
                sums[lag] += float(_product(z[lag:], z[:-lag]))
        if before is not None:
            between += float(_product(z, before))
        before = z
    numel = ones.numel()
    return {
        "p": p,
        "draws": calls * numel,
        "keep_rate_sigmas": kept / (calls * numel) ** 0.5,
        "lag_sigmas": {lag: sums[lag] / (calls * (numel - lag)) ** 0.5 for lag in LAGS if lag < numel},
        "next_seed_sigmas": between / ((calls - 1) * numel) ** 0.5 if calls > 1 else 0.0,
    }


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The sum of products; in float64 between rows of a thousand, whose sums float32 holds well."""
    rows = a.numel() // 1024 * 1024
    products = (a[:rows].view(-1, 1, 1024) @ b[:rows].view(-1, 1024, 1)).sum(dtype=torch.float64)
    return products + (a[rows:].double() @ b[rows:].double())


def worst(found: list[dict[str, Any]]) -> float:
    """The largest figure of all, without its sign."""
    figures: list[float] = []
    for one in found:
        figures += [one["keep_rate_sigmas"], one["next_seed_sigmas"], *one["lag_sigmas"].values()]
    return max(abs(figure) for figure in figures)


def main(arguments: list[str]) -> int:
    """Runs the command; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10**9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    found = [measure(p, options.draws) for p in P]
    for one in found:
        print(one)
    largest = worst(found)
    print(f"largest: {largest:.2f} standard deviations")
    if options.output:
        record = {**machine.record(torch.get_num_threads()), "largest_sigmas": largest, "results": found}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if largest > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
