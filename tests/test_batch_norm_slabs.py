"""Tensors that are taken a slab of channels at a time: by a thread each, or beyond the caches by all of them.

A channel's results depend on the channel alone, so they must be what a call with few channels gives, which takes
neither way.
"""

from __future__ import annotations

import pytest
import torch

from batch_norm_setup import DTYPES, Inputs, Options, inputs, ours
from conftest import Backend

# Planes whose lines do and do not begin with theirs; channels that a byte of the bit mask does and does not part.
SHAPES = ((3, 24, 233, 101), (3, 13, 256, 160), (40, 600, 9, 11), (4100, 515))
# Kept by a thread, with a bit mask in slabs of 2, 8 and 8 channels, and not with one.
KEPT = ((8, 64, 14, 14), (16, 72, 7, 7), (20, 80, 9, 11), (20, 81, 9, 11))
OPTIONS = (Options(), Options(relu=True), Options(relu=True, residual=True))
CPU = Backend("cpu", torch.device("cpu"))


def pair(value: torch.Tensor, c: int) -> torch.Tensor:
    """Returns channels c and c + 1. Only one would look like a batch of one, which is cut in other tiles."""
    return value[:, c : c + 2] if value.dim() > 1 else value[c : c + 2]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtypes", [DTYPES[0], DTYPES[2], DTYPES[4]], ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES + KEPT, ids=["x".join(map(str, shape)) for shape in SHAPES + KEPT])
def test_channels_are_as_if_alone(shape, layout, dtypes, options):
    if shape in SHAPES:  # wide enough that the narrow types, too, are more than a slab
        shape = (shape[0] * (1 if dtypes[0].itemsize == 4 else 2), *shape[1:])
    given = inputs(shape, *dtypes)
    together = ours(given, options, CPU, layout)
    for c in {0, shape[1] // 3, shape[1] // 2, shape[1] - 2}:
        alone = ours(Inputs(*(pair(value, c) for value in vars(given).values())), options, CPU)
        for name, value in vars(alone).items():
            assert torch.equal(pair(getattr(together, name), c), value), f"{name} of channel {c}"
