"""Where the time of a step goes, from torch's profiler: by family of operations, and by operation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

__all__ = ["FAMILIES", "PRODUCTS", "outside", "split"]

_STEP = "onepass bench train: step"
_OPTIMIZER = "optimizer"
_COMPILED = "compiled kernels"
_ELEMENTWISE = "elementwise, copies, sums"
_REST = "Python and autograd"
# A family by the names of its operations, torch's and ours, forward and backward.
_NAMES = {
    "convolutions": r"conv",
    "attention": r"scaled_dot_product|flash_attention",
    "matrix products": r"^aten::(mm|addmm|bmm|baddbmm|matmul|linear)$|linear_pointwise|^aten::mkldnn_linear",
    "loss": r"cross_?entropy|nll_loss|log_softmax",
    "norms": r"batch_?norm|layer_?norm",
    "dropout": r"dropout|bernoulli",
    "activations": r"relu|threshold|gelu",
    "embedding": r"embedding",
}
# What neither of the two changes.
PRODUCTS = ("matrix products", "convolutions", "attention")
FAMILIES = (
    *PRODUCTS,
    *(name for name in _NAMES if name not in PRODUCTS),
    _OPTIMIZER,
    _COMPILED,
    _ELEMENTWISE,
    _REST,
)
# Operations that are shown by name take at least this share of the step.
_LEAST_SHARE = 0.001


def split(step: Callable[[], object]) -> dict[str, Any]:
    """Profiles one step.

    Args:
        step: The step.

    Returns:
        ``seconds`` of the step under the profiler; ``families``, seconds by family, which sum up to it;
        ``operations``, seconds by name of the operation, without those below 0.1 % of the step.
    """
    with profile(activities=[ProfilerActivity.CPU]) as recorded, record_function(_STEP):
        step()
    families = dict.fromkeys(FAMILIES, 0.0)
    operations: dict[str, float] = {}
    for event in recorded.events() or []:
        names = _with_ancestors(event)
        if _STEP in names:
            families[_family(names)] += event.self_cpu_time_total / 1e6
            operations[names[0]] = operations.get(names[0], 0.0) + event.self_cpu_time_total / 1e6
    total = sum(families.values())
    longest = sorted(operations.items(), key=lambda one: -one[1])
    shown = {name: seconds for name, seconds in longest if seconds >= _LEAST_SHARE * total}
    return {"seconds": total, "families": families, "operations": shown}


def outside(families: dict[str, float]) -> float:
    """Sums the seconds outside matrix products, convolutions and attention.

    Args:
        families: Seconds by family.
    """
    return sum(seconds for name, seconds in families.items() if name not in PRODUCTS)


def _with_ancestors(event: Any) -> list[str]:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def _family(names: list[str]) -> str:
    """Returns the family of an operation: that of itself, else of the nearest one that has called it."""
    if any(name.startswith("Optimizer.") for name in names):
        return _OPTIMIZER
    for name in names:
        for family, pattern in _NAMES.items():
            if re.search(pattern, name, re.IGNORECASE) and not name.startswith("autograd::engine"):
                return family
    if names[0].startswith("aten::"):
        return _ELEMENTWISE
    return _COMPILED if re.search(r"compiled", names[0], re.IGNORECASE) else _REST
