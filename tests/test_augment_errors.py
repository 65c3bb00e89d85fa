"""Each error of a transform of onepass.augment names transform, argument, what is wanted and what was given."""

from __future__ import annotations

import math
import re

import pytest
import torch

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


@pytest.mark.parametrize(("make", "kind", "message"), TRANSFORMS, ids=[case[2][:60] for case in TRANSFORMS])
def test_transforms_refuse(make, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        make()
