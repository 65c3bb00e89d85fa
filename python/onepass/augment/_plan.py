"""Makes the plan of a batch: the core composes what transforms ask for, and gives records of it.

Transforms call the methods of the plan (`Geometry`) in the order of the chain. `csrc/kernels/augment/batch_plan.h`
says when a further pass begins.
"""

from __future__ import annotations

from typing import Any

from onepass import _native
from onepass.augment._arrays import Floats, Number

__all__ = ["COMMUTES", "FIXED", "POINTWISE", "WHOLE", "Records", "new_plan"]

COMMUTES, POINTWISE, WHOLE, FIXED = range(4)
"""What an operation is to a later map: linear in the pixels; a function of one pixel, which interpolation must not
precede; a function of all pixels, which a crop must not precede; bound to the coordinates, as a box is. The core's
Level."""

Records = tuple[Floats, Floats, Floats, Floats]
"""What the core takes: samples, passes and operations, whose last dimension has the fields of `_records.py`, and
the list of values."""


def new_plan(
    n: int, heights: Number, widths: Number, channels: int, unit: float = 1.0, masks: bool = False
) -> Any:
    """Returns the plan of a batch in which nothing is planned: `AugmentPlan` of the core.

    Args:
        n: How many samples there are.
        heights: Of all images, or of each, (n,).
        widths: Likewise.
        channels: Of all images.
        unit: What 1.0 is called in fills and thresholds: 255 for uint8.
        masks: Whether this is the plan of masks: nearest pixels, one map, and no operations but fills.
    """
    return _native.core.AugmentPlan(n, heights, widths, channels, unit, masks)
