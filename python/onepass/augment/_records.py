"""Holds the records that say what the core does with each sample: structs of doubles, as in the core.

`csrc/kernels/augment/augment.h` has the same structs (ImageSample, ImagePass, ImageOp); a test compares them. The
parameters of an operation stand in `a`, in the order that the operation's name in OPS documents; what it has per
channel stands in a separate list of values, from `first` on.
"""

from __future__ import annotations

import numpy as np

_F8 = np.float64

SAMPLE = np.dtype(
    [
        ("mixing", _F8),  # a number of MIXINGS
        ("partner", _F8),  # an index in the batch
        ("lam", _F8),  # mixup: lam * own + (1 - lam) * partner's
        ("left", _F8),  # cutmix: the box of the partner's pixels, of the output; right and bottom exclusive
        ("top", _F8),
        ("right", _F8),
        ("bottom", _F8),
    ]
)
"""One row for each sample, shape (n,)."""

PASS = np.dtype(
    [
        ("kind", _F8),  # a number of KINDS
        ("height", _F8),  # of the output
        ("width", _F8),
        ("map", _F8, (9,)),  # from (x, y, 1) of the output to (X, Y, W) of the input, pixel indices
        ("interpolation", _F8),  # a number of INTERPOLATIONS
        ("antialias", _F8),  # resize only
        ("left", _F8),  # the box of the input that taps come from; right and bottom exclusive
        ("top", _F8),
        ("right", _F8),
        ("bottom", _F8),
        ("border", _F8),  # a number of BORDERS
    ]
)
"""One row for each pass of each sample, shape (n, P)."""

PARAMETERS = 14
"""Elements of `a` of an operation."""

OP = np.dtype(
    [
        ("kind", _F8),  # a number of OPS; 0 ends the list
        ("first", _F8),  # place in the list of values
        ("a", _F8, (PARAMETERS,)),
    ]
)
"""One row for each operation of each pass, shape (n, P, K)."""

MIXINGS = {"none": 0, "mixup": 1, "cutmix": 2}
KINDS = {"skip": 0, "gather": 1, "resize": 2}
INTERPOLATIONS = {"nearest": 0, "bilinear": 1, "floor": 2, "bicubic": 3}
BORDERS = {"edge": 0, "reflect": 1, "symmetric": 2}
OPS = {
    "end": 0,
    "blend": 1,  # a: map[9], width, height of the canvas, power, soft; values: fill, one each channel
    "brightness": 2,  # a: factor
    "contrast": 3,  # a: factor
    "saturation": 4,  # a: factor
    "hue": 5,  # a: shift
    "grayscale": 6,
    "invert": 7,
    "solarize": 8,  # a: threshold
    "posterize": 9,  # a: levels
    "autocontrast": 10,
    "equalize": 11,
    "sharpness": 12,  # a: factor
    "normalize": 13,  # values: means, then stds, one each channel
    "erase": 14,  # a: left, top, right, bottom, mode, and for noise key (2 words) and counter (4 words)
    "clamp": 15,  # a: least, greatest
}
ERASE_MODES = {"value": 0, "noise": 1}
"""value: values[first + c]. noise: a standard normal number for each element of the box.

Element (c, y, x) has the number e = (c * height + y) * width + x, with height and width of the box. Elements
4b .. 4b + 3 come from Philox4x32-10 with the key (a[5], a[6]) and the counter (a[7], a[8], a[9],
(a[10] + b) mod 2**32), words of 32 bits, by Box and Muller:

    u = (word 0 + 1) / 2**32,  w = word 1 / 2**32
    element 4b = sqrt(-2 log u) * cos(2 pi w),  element 4b + 1 = sqrt(-2 log u) * sin(2 pi w)

and likewise elements 4b + 2 and 4b + 3 from words 2 and 3.
"""
