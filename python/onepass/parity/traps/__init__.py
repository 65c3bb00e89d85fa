"""The trap suites: each silent fault of docs/traps.md that concerns any implementation as a case of its own."""

from __future__ import annotations

from onepass.parity.traps import (
    batch_norm,
    cross_entropy,
    dropout,
    optim_formula,
    optim_gradients,
    optim_memory,
    optim_state,
)
from onepass.parity.traps.trap import Trap

__all__ = ["LAYER_TRAPS", "OPTIMIZER_TRAPS", "Trap"]

OPTIMIZER_TRAPS: list[Trap] = [
    *optim_formula.TRAPS,
    *optim_gradients.TRAPS,
    *optim_memory.TRAPS,
    *optim_state.TRAPS,
]
LAYER_TRAPS: dict[str, list[Trap]] = {
    "batch_norm": batch_norm.TRAPS,
    "dropout": dropout.TRAPS,
    "cross_entropy": cross_entropy.TRAPS,
}
