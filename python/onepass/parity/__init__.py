"""Measures errors against float64 next to torch's: the harness of `onepass parity`, one module for each operation.

A module of an operation has ``DTYPES``, the dtypes it is measured in, and ``rows(dtypes, steps, device)``, which
yields a `harness.Row` for each tensor of each set of options.
"""

# The operations that `onepass parity` knows, and their modules.
OPS = {
    "optim": "onepass.parity.optim",
    "tail": "onepass.parity.tail",
    "batch_norm": "onepass.parity.batch_norm",
    "dropout": "onepass.parity.dropout",
    "cross_entropy": "onepass.parity.cross_entropy",
}
