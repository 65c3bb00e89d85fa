"""Measures errors against float64 next to torch's, and finds silent faults, in ours or in any implementation.

The functions here make tests for another package's test suite: one for each silent fault that `traps` describes,
and one for each set of options.

The modules are the harness of `onepass parity`, one for each operation. Each has ``DTYPES``, the dtypes it is
measured in, and ``rows(dtypes, steps, device)``, which yields a `harness.Row` for each tensor of each set of
options.
"""

from onepass.parity.case import Case, Finding
from onepass.parity.check import check_batch_norm, check_cross_entropy, check_dropout, check_optimizer

__all__ = [
    "OPS",
    "Case",
    "Finding",
    "check_batch_norm",
    "check_cross_entropy",
    "check_dropout",
    "check_optimizer",
]

# The operations that `onepass parity` knows, and their modules.
OPS = {
    "optim": "onepass.parity.optim",
    "tail": "onepass.parity.tail",
    "batch_norm": "onepass.parity.batch_norm",
    "norm": "onepass.parity.norm",
    "dropout": "onepass.parity.dropout",
    "cross_entropy": "onepass.parity.cross_entropy",
    "augment": "onepass.parity.augment",
}
