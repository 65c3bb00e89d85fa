"""Speed beside torch's: the harness of `onepass bench` and one module an operation.

A module of an operation has ``cases(device)``, which lists its `harness.Case`s: shapes and setup only. Timing,
quantiles, files and pictures are the harness's.
"""

# The operations that `onepass bench` knows, and their modules.
OPS = {
    "optim": "onepass.bench.optim",
    "tail": "onepass.bench.tail",
    "batch_norm": "onepass.bench.batch_norm",
    "dropout": "onepass.bench.dropout",
    "cross_entropy": "onepass.bench.cross_entropy",
    "schedule": "onepass.bench.schedule",
}
