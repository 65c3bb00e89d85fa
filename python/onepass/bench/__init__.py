"""Measures speed next to torch's: the harness of `onepass bench`, and one module for each operation.

A module of an operation has ``cases(device)``, which lists each `Case`: shapes and setup only. The harness does
the timing, the quantiles, the files and the pictures. A user's file has the same function (docs/bench.md).
"""

from onepass.bench.case import OURS, STREAM, Case, Prepared
from onepass.bench.entrants import Entrant, Entry, difference
from onepass.bench.harness import Result, Times, measure

__all__ = [
    "OPS",
    "OURS",
    "STREAM",
    "Case",
    "Entrant",
    "Entry",
    "Prepared",
    "Result",
    "Times",
    "difference",
    "measure",
]

# The operations that `onepass bench` knows, and their modules.
OPS = {
    "optim": "onepass.bench.optim",
    "tail": "onepass.bench.tail",
    "batch_norm": "onepass.bench.batch_norm",
    "norm": "onepass.bench.norm",
    "dropout": "onepass.bench.dropout",
    "cross_entropy": "onepass.bench.cross_entropy",
    "schedule": "onepass.bench.schedule",
    "augment": "onepass.bench.augment",
    "monitor": "onepass.bench.monitor",
    "train": "onepass.bench.train",
    "distributed": "onepass.bench.distributed",
}
