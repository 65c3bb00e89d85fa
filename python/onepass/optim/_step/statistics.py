"""What `statistics()` of an optimizer returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class GroupStatistics(NamedTuple):
    """What the last step did to one param group. All are float64 of shape (), on the parameters' device.

    Nothing waits for a GPU until a value is looked at.
    """

    grad_norm: Tensor
    """2-norm of the unscaled gradients, before clipping."""
    param_norm: Tensor
    """2-norm of the values after the step, of the parameters that have a gradient."""
    update_norm: Tensor
    """2-norm of the change of those values, as it was stored."""
    nonfinite: Tensor
    """Elements of the gradients that are infinite or nan."""
    lost_updates: Tensor
    """Elements whose gradient is not zero and whose value is what it was: updates rounded to nothing."""
