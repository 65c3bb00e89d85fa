"""The norm of the gradients on one device, in one pass of the core."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from onepass import _native

__all__ = ["FACTOR", "NONFINITE", "NORM", "measure"]

# Places in the control tensor (csrc/math/clip.h, StepControl): the factor that clips, the norm, and how many
# elements are infinite or nan.
FACTOR, NORM, NONFINITE = 0, 2, 3


def measure(
    function: str,
    grads: list[Tensor],
    order: float = 2.0,
    max_norm: float = math.inf,
    written: Callable[[list[Tensor]], None] | None = None,
) -> tuple[Tensor, bool]:
    """Computes the norm of gradients.

    Args:
        function: What errors call the caller.
        grads: At least one, all on one device.
        order: The order of the norm.
        max_norm: The largest norm that is left as it is.
        written: Also scales the gradients, and is called with them if it does.

    Returns:
        The control tensor, float64, and whether a gradient is float64.
    """
    device = grads[0].device
    control = torch.zeros(_native.core.control_size, dtype=torch.float64, device=device)
    workspace = functools.partial(torch.empty, dtype=torch.float64, device=device)
    has_double: bool = _native.core.grad_norm(
        function, grads, order, max_norm, written, control, workspace, torch.get_num_threads()
    )
    return control, has_double
