"""What the binding of onepass.augment refuses: it names the argument, wanted and got, and writes nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from augment_records import Case, pictures
from onepass import _native

SIZE = (6, 7)


def call(**changes):
    """Makes a call that is right but for what changes."""
    case = Case(2, SIZE)
    for i in range(2):
        case.gather(i, SIZE)
    given = {
        "images": pictures(2, SIZE, 3, torch.uint8),
        "layout": "NHWC",
        "output": torch.full((2, 3, *SIZE), 5.0),
        "samples": case.samples,
        "passes": case.passes,
        "ops": case.ops,
        "values": case.values,
        "threads": 1,
        **changes,
    }
    return given, lambda: _native.core.augment(**given)


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"),
    [
        ("images", torch.zeros(2, 6, 7, 3, dtype=torch.float64), TypeError, "images must be torch.uint8"),
        ("images", torch.zeros(6, 7, 3, dtype=torch.uint8), ValueError, "images must have 4 dimensions"),
        ("images", torch.zeros(2, 0, 7, 3, dtype=torch.uint8), ValueError, "images must have pixels"),
        ("images", [], ValueError, "images must hold an image"),
        ("images", [torch.zeros(6, 7, 3)] * 3, ValueError, "output must hold 3 images like images, got 2"),
        ("images", [torch.zeros(6, 7, 3), torch.zeros(6, 7, 4)], ValueError, "images[1] must have 3 channels"),
        ("images", [torch.zeros(6, 7, 3), torch.zeros(6, 7)], ValueError, "images[1] must have 3 dimensions"),
        ("images", [torch.zeros(6, 7, 3), torch.zeros(6, 7, 3).half()], TypeError, "must be torch.float32 like"),
        ("images", [torch.zeros(6, 7, 3), "a"], TypeError, "images[1] must be a torch.Tensor or a numpy.ndarray"),
        ("layout", "HWC", ValueError, 'layout must be "NHWC" or "NCHW", got "HWC"'),
        ("output", torch.zeros(2, 4, 6, 7), ValueError, "output must have 3 channels like images, got 4"),
        ("output", torch.zeros(2, 3, 6, 7, dtype=torch.float64), TypeError, "output must be torch.uint8"),
        ("output", torch.zeros(2, 3, 7, 6).mT, ValueError, "output must be contiguous or channels_last"),
        ("output", torch.zeros(2, 3, 5, 7), ValueError, "must end with the output's 5 x 7, got 6 x 7"),
        ("samples", np.zeros(13), ValueError, "samples must hold 2 records of 56 bytes"),
        ("samples", np.zeros(14, np.float32), TypeError, "samples must be records of 7 float64 fields"),
        ("passes", np.zeros(37), ValueError, "passes must hold the same number of records"),
        ("values", np.zeros(3, np.float32), TypeError, "values must be"),
    ],
)
def test_arguments(argument, value, error, message):
    given, run = call(**{argument: value})
    with pytest.raises(error, match=re.escape(message)) as caught:
        run()
    assert str(caught.value).startswith("augment: ")
    if argument != "output":
        assert (given["output"] == 5).all()


def test_read_only_output():
    output = np.zeros((2, 3, *SIZE), np.float32)
    output.flags.writeable = False
    with pytest.raises(ValueError, match="output must be writable"):
        call(output=output)[1]()


def test_output_in_an_images_memory():
    memory = torch.zeros(2 * 3 * 6 * 7 * 2)
    images, output = memory[: 2 * 6 * 7 * 3].view(2, 6, 7, 3), memory[100 : 100 + 2 * 3 * 6 * 7].view(2, 3, 6, 7)
    with pytest.raises(ValueError, match="images and output must not share memory"):
        call(images=images, output=output)[1]()
    with pytest.raises(ValueError, match="memory"):
        call(images=list(images), output=output)[1]()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("left", -1, "passes.left of sample 1 must be a whole number from 0 to 6, got -1"),
        ("right", 8, "passes.right of sample 1"),
        ("bottom", 0, "passes.bottom of sample 1"),
        ("top", np.nan, "passes.top of sample 1"),
        ("height", 0, "passes.height of sample 1"),
        ("kind", 3, "passes.kind of sample 1"),
        ("kind", 0, "passes of sample 1 must hold a pass"),
        ("interpolation", 3, "must be 0, 1 or 2 for a gather"),
        ("border", 0.5, "passes.border of sample 1"),
        ("map", np.inf, "passes.map of sample 1 must be finite"),
    ],
)
def test_passes(field, value, message):
    given, run = call()
    given["passes"][1][field] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        run()
    assert (given["output"] == 5).all()


@pytest.mark.parametrize(
    ("kind", "first", "message"),
    [
        (16, 0, "ops.kind of sample 1"),
        (13, 1, "ops.first of sample 1 must be a whole number from 0 to 0"),
        (1, -1, "ops.first of sample 1"),
    ],
)
def test_ops(kind, first, message):
    given, run = call(values=np.zeros(6))
    given["ops"][1, 0, 0]["kind"], given["ops"][1, 0, 0]["first"] = kind, first
    with pytest.raises(ValueError, match=re.escape(message)):
        run()


@pytest.mark.parametrize(("field", "value"), [("mixing", 3), ("partner", 2), ("partner", -1)])
def test_samples(field, value):
    given, run = call()
    given["samples"][1]["mixing"] = 1
    given["samples"][1][field] = value
    with pytest.raises(ValueError, match=f"samples.{field} of sample 1"):
        run()


def test_colors_need_colors():
    given, run = call(images=torch.zeros(2, 6, 7, 2), output=torch.zeros(2, 2, 6, 7))
    given["ops"][0, 0, 0]["kind"] = 5
    with pytest.raises(ValueError, match="images must have 1 or 3 channels for op 5 of sample 0, got 2"):
        run()


def test_masks():
    case = Case(1, SIZE)
    case.gather(0, SIZE, kind="bilinear")
    given = {"passes": case.passes, "ops": case.ops, "values": case.values, "threads": 1}
    masks, output = np.zeros((1, *SIZE), np.uint8), np.zeros((1, *SIZE), np.uint8)
    with pytest.raises(ValueError, match="must be a gather with interpolation 0 or 2"):
        _native.core.augment_masks(masks=masks, output=output, **given)
    case.passes["interpolation"] = 0
    with pytest.raises(TypeError, match=r"output must be torch\.uint8 like masks, got torch\.int16"):
        _native.core.augment_masks(masks=masks, output=output.astype(np.int16), **given)
    with pytest.raises(TypeError, match="masks must have elements of 1, 2, 4 or 8 bytes"):
        _native.core.augment_masks(masks=masks.astype(np.complex128), output=output, **given)
    with pytest.raises(TypeError, match=r"masks must hold integers or bools, got torch\.float32"):
        _native.core.augment_masks(masks=masks.astype(np.float32), output=output, **given)
    with pytest.raises(TypeError, match="arguments must come by name"):
        _native.core.augment_masks(masks)
