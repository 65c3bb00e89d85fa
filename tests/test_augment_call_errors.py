"""Each error of a call of onepass.augment names what is wrong, wanted and given; nothing has changed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from augment_setup import image
from onepass import augment as A

FLAT = image(2, 8, 9, 3)
BYTES = image(2, 8, 9, 3, dtype=torch.uint8)


def call(transforms, images=FLAT, *labels, **options):
    return lambda: A.Compose(transforms)(images, *labels, **options)


CALLS = [
    (
        call([], FLAT.double()),
        TypeError,
        "Compose: images must be uint8, float32, float16 or bfloat16, got torch.float64",
    ),
    (
        call([], FLAT.double().numpy()),
        TypeError,
        "Compose: images must be uint8, float32, float16 or bfloat16, got float64",
    ),
    (call([], FLAT[0]), ValueError, "Compose: images must have the dimensions N, H, W, C, got shape (8, 9, 3)"),
    (call([], "x"), TypeError, "Compose: images must be a tensor, an array or a list of them, got str"),
    (call([], FLAT[:0]), ValueError, "Compose: images must not be empty, got shape (0, 8, 9, 3)"),
    (call([], FLAT[:, :0]), ValueError, "Compose: images must not be empty, got shape (2, 0, 9, 3)"),
    (call([], []), ValueError, "Compose: images must have at least one, got none"),
    (
        call([], [FLAT[0], FLAT]),
        ValueError,
        "Compose: images[1] must have the dimensions H, W, C, got shape (2, 8, 9, 3)",
    ),
    (
        call([], [FLAT[0], BYTES[0]]),
        ValueError,
        "Compose: images must have one number of channels, dtype and device, got ",
    ),
    (
        call([], [FLAT[0], FLAT[0, :, :, :1]]),
        ValueError,
        "got 1 channels of torch.float32, 3 channels of torch.float32",
    ),
    (
        call([], [FLAT[0], FLAT[0, :7]]),
        ValueError,
        "Compose: transforms must give all samples one size, as Resize((height, width)) does, got (8, 9) and (",
    ),
    (call([], FLAT.clone().requires_grad_()), ValueError, "Compose: images must not require a gradient"),
    (call([], FLAT.to_sparse()), TypeError, "Compose: images must be dense, got layout torch.sparse_coo"),
    (
        call([A.RandomCrop(9)]),
        ValueError,
        "RandomCrop: size must be at most that of the image with its padding, (8, 9), got (9, 9)",
    ),
    (
        call([A.Pad(8, 0, "reflect")]),
        ValueError,
        "Pad: padding must be at most 7 with padding_mode='reflect' and images of height 8, got 8",
    ),
    (
        call([A.Pad((10, 1), 0, "symmetric")]),
        ValueError,
        "Pad: padding must be at most 9 with padding_mode='symmetric' and images of width 9, got 10",
    ),
    (
        call([A.RandomPerspective(0.5, 1.0)], image(1, 1, 9, 1)),
        ValueError,
        "RandomPerspective: images must be so large that no drawn corners fall together, got height 1 and width 9",
    ),
    (
        call([A.Resize(None, max_size=1)], image(1, 4, 9, 1)),
        ValueError,
        "Resize: the shorter side must become at least 1, got 0",
    ),
    (
        call([A.ColorJitter(0.1)], image(1, 4, 9, 4)),
        ValueError,
        "ColorJitter: images must have 1 or 3 channels, got 4",
    ),
    (
        call([A.RandomApply([A.RandomGrayscale()])], image(1, 4, 9, 2)),
        ValueError,
        "RandomGrayscale: images must have 1 or 3 channels, got 2",
    ),
    (
        call([A.RandAugment()], image(1, 4, 9, 2)),
        ValueError,
        "RandAugment: images must have 1 or 3 channels, got 2",
    ),
    (
        call([A.RandomRotation(5, fill=(1, 2))]),
        ValueError,
        "RandomRotation: fill must have 1 number or one for each of the 3 channels, got 2",
    ),
    (
        call([A.Normalize((0, 0), 1)]),
        ValueError,
        "Normalize: mean must have 1 number or one for each of the 3 channels, got 2",
    ),
    (
        call([A.RandomErasing(value=(1, 2))]),
        ValueError,
        "RandomErasing: value must have 1 number or one for each of the 3 channels, got 2",
    ),
    (
        call([A.RandomSolarize(1.5)]),
        ValueError,
        "RandomSolarize: threshold must be at most 1 at this place of the chain, got 1.5",
    ),
    (
        call([A.ToDtype(torch.float32)], BYTES),
        ValueError,
        "ToDtype: scale must be True for uint8 images, got False",
    ),
    (call([], ids=[1]), ValueError, "Compose: ids must have 2 numbers, one a sample, got shape (1,)"),
    (call([], ids=[1, -1]), ValueError, "Compose: ids must be at least 0 and below 2**64, got -1 to 1"),
    (call([], ids=torch.tensor([1, -1])), ValueError, "Compose: ids must be at least 0, got -1"),
    (call([], ids=[1, 0.5]), TypeError, "Compose: ids must be integers, got 0.5"),
    (call([], ids=torch.ones(2)), TypeError, "Compose: ids must be integers, got float32"),
    (call([], ids=3), TypeError, "Compose: ids must be a sequence of integers, got int"),
    (
        call([], ids=[0, 2**64]),
        ValueError,
        "Compose: ids must be at least 0 and below 2**64, got 0 to 18446744073709551616",
    ),
    (call([], epoch=-1), ValueError, "Compose: epoch must be at least 0 and below 2**32, got -1"),
    (call([], epoch=1.0), TypeError, "Compose: epoch must be an integer, got 1.0"),
    (
        call([], FLAT, torch.arange(3)),
        ValueError,
        "Compose: labels must have shape (2,) or (2, classes), got (3,)",
    ),
    (
        call([], FLAT, torch.ones(2)),
        TypeError,
        "Compose: labels of one dimension must be integers, got torch.float32",
    ),
    (
        call([A.MixUp(1.0, 5)], FLAT, torch.tensor([0, 5])),
        ValueError,
        "Compose: labels must be at least 0 and below 5, got 0 to 5",
    ),
    (call([A.CutMix(1.0, 5)], FLAT, torch.ones(2, 4)), ValueError, "Compose: labels must have 5 classes, got 4"),
    (call([], out=np.zeros((2, 3, 8, 9))), TypeError, "Compose: out must be a tensor, got ndarray"),
    (
        lambda: A.Compose([]).parameters([1], sizes=(1, 2, 3)),
        ValueError,
        "Compose: sizes must be (height, width), or 1 of them, got shape (3,)",
    ),
    (
        lambda: A.Compose([]).parameters([1], sizes=(0, 2)),
        ValueError,
        "Compose: sizes must be at least 1, got 0.0",
    ),
    (
        lambda: A.Compose([]).collate([(1, 2, 3, 4)]),
        ValueError,
        "Compose: samples must be (image,), (image, label) or (image, label, id), got lengths [4]",
    ),
]


@pytest.mark.parametrize(("run", "kind", "message"), CALLS, ids=[case[2][:60] for case in CALLS])
def test_calls_refuse(run, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        run()


OUTS = [
    (torch.zeros(2, 3, 8, 8), "Compose: out must have shape (2, 3, 8, 9), got (2, 3, 8, 8)"),
    (torch.zeros(2, 3, 8, 9).half(), "Compose: out must be torch.float32, got torch.float16"),
    (torch.zeros(2, 3, 8, 9, device="meta"), "Compose: out must be on cpu, got meta"),
    (torch.zeros(2, 3, 8, 9, requires_grad=True), "Compose: out must not require a gradient"),
    (torch.zeros(2, 3, 9, 8).mT, "Compose: out must be contiguous in torch.contiguous_format, got strides"),
]


@pytest.mark.parametrize(("out", "message"), OUTS, ids=[case[1][:50] for case in OUTS])
def test_wrong_buffers_stay_as_they_are(out, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        A.Compose([A.RandomInvert(1.0)])(FLAT, out=out)
    assert out.device.type == "meta" or not out.detach().any()


def test_a_refused_call_leaves_buffer_and_generator():
    out = torch.full((2, 3, 8, 9), 7.0)
    before = torch.get_rng_state()
    for wrong in ({"epoch": -1}, {"boxes": [1]}, {"masks": torch.zeros(2, 8, 9)}):
        with pytest.raises((TypeError, ValueError)):
            A.Compose([A.RandomInvert(1.0)], seed=0)(FLAT, out=out, **wrong)
    with pytest.raises(ValueError, match="RandomCrop: size"):
        A.Compose([A.RandomCrop(9)], seed=0)(FLAT, out=out)
    assert (out == 7).all()
    assert before.equal(torch.get_rng_state())
