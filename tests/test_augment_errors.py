"""Each error of onepass.augment names transform, argument, what is wanted and what was given; nothing has changed."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from augment_setup import image
from onepass import augment as A

NAN, INF = math.nan, math.inf

# A call that must fail, the kind of error, and its message.
TRANSFORMS = [
    (lambda: A.Resize(0), ValueError, "Resize: size must be at least 1, got 0"),
    (lambda: A.Resize((1, 2, 3)), ValueError, "Resize: size must have 1 or 2 numbers, got (1, 2, 3)"),
    (lambda: A.Resize(2.5), TypeError, "Resize: size must be a number or a sequence of 1 or 2 numbers, got 2.5"),
    (lambda: A.Resize((2.5, 1)), TypeError, "Resize: size must be an integer, got 2.5"),
    (lambda: A.Resize(None), ValueError, "Resize: max_size must be an integer if size is None, got None"),
    (lambda: A.Resize(8, max_size=8), ValueError, "Resize: max_size must exceed size, 8, got 8"),
    (
        lambda: A.Resize((8, 9), max_size=20),
        ValueError,
        "Resize: max_size must be None if size is (height, width), got 20",
    ),
    (
        lambda: A.Resize(8, "lanczos"),
        ValueError,
        "Resize: interpolation must be one of nearest, nearest-exact, bilinear, ",
    ),
    (
        lambda: A.CenterCrop("8"),
        TypeError,
        "CenterCrop: size must be a number or a sequence of 1 or 2 numbers, got '8'",
    ),
    (lambda: A.CenterCrop(-1), ValueError, "CenterCrop: size must be at least 1, got -1"),
    (
        lambda: A.CenterCrop(True),
        TypeError,
        "CenterCrop: size must be a number or a sequence of 1 or 2 numbers, got True",
    ),
    (lambda: A.Pad(-1), ValueError, "Pad: padding must be at least 0, got -1"),
    (lambda: A.Pad((1, 2, 3)), ValueError, "Pad: padding must have 1 or 2 or 4 numbers, got (1, 2, 3)"),
    (lambda: A.Pad(1.0), TypeError, "Pad: padding must be a number or a sequence of 1 or 2 or 4 numbers, got 1.0"),
    (
        lambda: A.Pad(1, 0, "wrap"),
        ValueError,
        "Pad: padding_mode must be one of constant, edge, reflect, symmetric, got 'wrap'",
    ),
    (
        lambda: A.Pad(1, (1, 2, 3), "edge"),
        ValueError,
        "Pad: fill must be one number with padding_mode='edge', got 3 numbers",
    ),
    (lambda: A.Pad(1, NAN), ValueError, "Pad: fill must be finite, got nan"),
    (lambda: A.Pad(1, ()), ValueError, "Pad: fill must have a number for each channel, got ()"),
    (lambda: A.RandomCrop(0), ValueError, "RandomCrop: size must be at least 1, got 0"),
    (lambda: A.RandomCrop(8, padding=-2), ValueError, "RandomCrop: padding must be at least 0, got -2"),
    (
        lambda: A.RandomCrop(8, padding_mode="no"),
        ValueError,
        "RandomCrop: padding_mode must be one of constant, edge,",
    ),
    (
        lambda: A.RandomResizedCrop(8, 0.5),
        TypeError,
        "RandomResizedCrop: scale must be a sequence of 2 numbers, got 0.5",
    ),
    (
        lambda: A.RandomResizedCrop(8, (0.5, 0.1)),
        ValueError,
        "RandomResizedCrop: scale must be (least, greatest) from 0 to inf, got (0.5, 0.1)",
    ),
    (
        lambda: A.RandomResizedCrop(8, ratio=(0, 1)),
        ValueError,
        "RandomResizedCrop: ratio must be positive, got (0, 1)",
    ),
    (
        lambda: A.RandomResizedCrop(8, scale=(NAN, 1)),
        ValueError,
        "RandomResizedCrop: scale must be finite, got nan",
    ),
    (
        lambda: A.RandomHorizontalFlip(1.5),
        ValueError,
        "RandomHorizontalFlip: p must be at least 0 and at most 1, got 1.5",
    ),
    (lambda: A.RandomVerticalFlip("x"), TypeError, "RandomVerticalFlip: p must be a number, got 'x'"),
    (lambda: A.RandomVerticalFlip(NAN), ValueError, "RandomVerticalFlip: p must be finite, got nan"),
    (
        lambda: A.RandomRotation(-5),
        ValueError,
        "RandomRotation: degrees must be at least 0 if it is one number, got -5",
    ),
    (
        lambda: A.RandomRotation((5, 1)),
        ValueError,
        "RandomRotation: degrees must be (least, greatest), got (5, 1)",
    ),
    (
        lambda: A.RandomRotation((1, 2, 3)),
        ValueError,
        "RandomRotation: degrees must have 2 numbers, got (1, 2, 3)",
    ),
    (lambda: A.RandomRotation(INF), ValueError, "RandomRotation: degrees must be finite, got inf"),
    (
        lambda: A.RandomRotation(5, "bicubic"),
        ValueError,
        "RandomRotation: interpolation must be one of nearest, bilinear, got 'bicubic'",
    ),
    (
        lambda: A.RandomRotation(5, center=(1, 2, 3)),
        ValueError,
        "RandomRotation: center must have 2 numbers, got (1, 2, 3)",
    ),
    (
        lambda: A.RandomAffine(5, (0.1, 1.5)),
        ValueError,
        "RandomAffine: translate must be at least 0 and at most 1, got 1.5",
    ),
    (
        lambda: A.RandomAffine(5, 0.1),
        TypeError,
        "RandomAffine: translate must be a sequence of 2 numbers, got 0.1",
    ),
    (lambda: A.RandomAffine(5, scale=(0, 1)), ValueError, "RandomAffine: scale must be positive, got (0, 1)"),
    (
        lambda: A.RandomAffine(5, shear=(1, 2, 3)),
        ValueError,
        "RandomAffine: shear must have 2 or 4 numbers, got (1, 2, 3)",
    ),
    (
        lambda: A.RandomPerspective(1.5),
        ValueError,
        "RandomPerspective: distortion_scale must be at least 0 and at most 1, got 1.5",
    ),
    (
        lambda: A.ColorJitter(-0.1),
        ValueError,
        "ColorJitter: brightness must be at least 0 if it is one number, got -0.1",
    ),
    (
        lambda: A.ColorJitter(contrast=(2, 1)),
        ValueError,
        "ColorJitter: contrast must be (least, greatest) from 0 to inf, got (2, 1)",
    ),
    (
        lambda: A.ColorJitter(hue=0.6),
        ValueError,
        "ColorJitter: hue must be (least, greatest) from -0.5 to 0.5, got (-0.6, 0.6)",
    ),
    (lambda: A.ColorJitter(saturation="x"), TypeError, "ColorJitter: saturation must be a number, got 'x'"),
    (lambda: A.RandomSolarize(NAN), ValueError, "RandomSolarize: threshold must be finite, got nan"),
    (lambda: A.RandomPosterize(9), ValueError, "RandomPosterize: bits must be from 0 to 8, got 9"),
    (lambda: A.RandomPosterize(1.5), TypeError, "RandomPosterize: bits must be an integer, got 1.5"),
    (lambda: A.Normalize(0.5, (0.1, 0)), ValueError, "Normalize: std must not be 0, got (0.1, 0)"),
    (lambda: A.Normalize("x", 1), TypeError, "Normalize: mean must be a number, got 'x'"),
    (lambda: A.Normalize(0.5, 1, True), ValueError, "Normalize: inplace must be False, got True"),
    (
        lambda: A.ToDtype(torch.uint8),
        ValueError,
        "ToDtype: dtype must be torch.float32, bfloat16 or float16, got torch.uint8",
    ),
    (
        lambda: A.RandomErasing(value="noise"),
        ValueError,
        "RandomErasing: value must be numbers or 'random', got 'noise'",
    ),
    (
        lambda: A.RandomErasing(scale=(0.1, 1.2)),
        ValueError,
        "RandomErasing: scale must be (least, greatest) from 0 to 1, got (0.1, 1.2)",
    ),
    (lambda: A.RandomErasing(inplace=True), ValueError, "RandomErasing: inplace must be False, got True"),
    (lambda: A.MixUp(0), ValueError, "MixUp: alpha must be positive, got 0"),
    (lambda: A.CutMix(1.0, 0), ValueError, "CutMix: num_classes must be at least 1, got 0"),
    (lambda: A.RandomApply([]), ValueError, "RandomApply: transforms must have at least one, got none"),
    (
        lambda: A.RandomApply(A.RandomInvert()),
        TypeError,
        "RandomApply: transforms must be a sequence, got RandomInvert(p=0.5)",
    ),
    (
        lambda: A.RandomApply([abs]),
        TypeError,
        "RandomApply: transforms must be transforms of onepass.augment, got <built-in",
    ),
    (
        lambda: A.RandomChoice([A.RandomInvert()], [1, 2]),
        ValueError,
        "RandomChoice: p must have 1 numbers, one a transform, got 2",
    ),
    (
        lambda: A.RandomChoice([A.RandomInvert()], [0]),
        ValueError,
        "RandomChoice: p must have numbers of at least 0, not all 0, got [0]",
    ),
    (
        lambda: A.RandomChoice([A.MixUp(), A.RandomInvert()]),
        ValueError,
        "RandomChoice: transforms must all be MixUp or CutMix, or none",
    ),
    (lambda: A.RandAugment(-1), ValueError, "RandAugment: num_ops must be at least 0, got -1"),
    (lambda: A.RandAugment(2, 31), ValueError, "RandAugment: magnitude must be from 0 to 30, got 31"),
    (
        lambda: A.TrivialAugmentWide(1),
        ValueError,
        "TrivialAugmentWide: num_magnitude_bins must be at least 2, got 1",
    ),
    (
        lambda: A.Compose(A.RandomInvert()),
        TypeError,
        "Compose: transforms must be a sequence, got RandomInvert(p=0.5)",
    ),
    (
        lambda: A.Compose([A.MixUp(), A.RandomInvert()]),
        ValueError,
        "Compose: MixUp must be the last transform, got RandomInvert after it",
    ),
    (
        lambda: A.Compose([A.RandomApply([A.Normalize(0, 1)])]),
        ValueError,
        "Normalize: it must stand in Compose itself, ",
    ),
    (lambda: A.Compose([], seed=-1), ValueError, "Compose: seed must be at least 0 and below 2**64, got -1"),
    (
        lambda: A.Compose([], dtype=torch.float64),
        ValueError,
        "Compose: dtype must be torch.float32, bfloat16, float16 or uint8, got torch.float64",
    ),
    (
        lambda: A.Compose([A.ToDtype(torch.float16)], dtype=torch.float32),
        ValueError,
        "Compose: dtype must be that of ToDtype, torch.float16, or None, got torch.float32",
    ),
    (
        lambda: A.Compose([], memory_format=torch.preserve_format),
        ValueError,
        "Compose: memory_format must be torch.contiguous_format",
    ),
    (lambda: A.Compose([], layout="CHW"), ValueError, "Compose: layout must be 'NHWC' or 'NCHW', got 'CHW'"),
]

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
        "Compose: transforms must give all samples one size, as Resize((height, width)) does, got (8, 9) and (7, 9)",
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


@pytest.mark.parametrize(("make", "kind", "message"), TRANSFORMS, ids=[case[2][:60] for case in TRANSFORMS])
def test_transforms_refuse(make, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        make()


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
