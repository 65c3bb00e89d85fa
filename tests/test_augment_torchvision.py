"""Each transform by itself gives what torchvision's function gives with the same parameters.

The float64 executor carries out the records next to torchvision on float64 images, and the core is close to it;
uint8 images, which torchvision rounds, are at most 1 apart.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from augment_setup import exact, image, torchvision
from augment_torchvision import (
    affine,
    applied,
    centered,
    cropped,
    erased,
    flipped,
    jittered,
    padded,
    resized,
    resized_crop,
    rotated,
    warped,
)
from onepass import augment as A
from tolerance import (
    IMAGE_FILTER_ATOL,
    IMAGE_FLOAT32_ATOL,
    IMAGE_FLOAT64_ATOL,
    IMAGE_HUE_ATOL,
    IMAGE_PERSPECTIVE_ATOL,
)

N, C = 6, 3
IDS = range(100, 100 + N)


GEOMETRY = {
    "horizontal flip": (lambda: A.RandomHorizontalFlip(), flipped(-1), 0),
    "vertical flip": (lambda: A.RandomVerticalFlip(), flipped(-2), 0),
    "rotation": (lambda: A.RandomRotation(40, "bilinear"), rotated, IMAGE_FLOAT64_ATOL),
    "rotation, nearest": (lambda: A.RandomRotation(40, fill=0.25), rotated, IMAGE_FLOAT64_ATOL),
    "rotation, fill": (
        lambda: A.RandomRotation(180, "bilinear", fill=[0.1, 0.5, 0.9]),
        rotated,
        IMAGE_FLOAT64_ATOL,
    ),
    "rotation, no fill": (lambda: A.RandomRotation(40, "bilinear", fill=None), rotated, IMAGE_FLOAT64_ATOL),
    "rotation, center": (lambda: A.RandomRotation(40, "bilinear", center=[3, 20.5]), rotated, IMAGE_FLOAT64_ATOL),
    "quarters": (lambda: A.RandomRotation((90, 90)), rotated, 0),
    "halves": (lambda: A.RandomRotation((180, 180), "bilinear"), rotated, 0),
    "back": (lambda: A.RandomRotation((-90, -90)), rotated, 0),
    "affine": (
        lambda: A.RandomAffine(30, (0.2, 0.3), (0.7, 1.4), 20, "bilinear", 0.5),
        affine,
        IMAGE_FLOAT64_ATOL,
    ),
    "affine, nearest": (
        lambda: A.RandomAffine(30, (0.2, 0.3), (0.7, 1.4), (-9, 9, -20, 5)),
        affine,
        IMAGE_FLOAT64_ATOL,
    ),
    "affine, center": (
        lambda: A.RandomAffine(30, center=(0, 5), interpolation="bilinear"),
        affine,
        IMAGE_FLOAT64_ATOL,
    ),
    "perspective": (lambda: A.RandomPerspective(0.6, 0.7, fill=0.5), warped, IMAGE_PERSPECTIVE_ATOL),
    "resized crop": (lambda: A.RandomResizedCrop((9, 11)), resized_crop, IMAGE_FILTER_ATOL),
    "resized crop, large": (lambda: A.RandomResizedCrop(60), resized_crop, IMAGE_FILTER_ATOL),
    "resized crop, bicubic": (
        lambda: A.RandomResizedCrop(20, interpolation="bicubic"),
        resized_crop,
        IMAGE_FILTER_ATOL,
    ),
    "resized crop, plain": (lambda: A.RandomResizedCrop(12, antialias=False), resized_crop, IMAGE_FILTER_ATOL),
    "resized crop, nearest": (lambda: A.RandomResizedCrop(12, interpolation="nearest"), resized_crop, 0),
    "resize": (lambda: A.Resize((13, 40)), resized, IMAGE_FILTER_ATOL),
    "resize, short side": (lambda: A.Resize(11), resized, IMAGE_FILTER_ATOL),
    "resize, both bounds": (lambda: A.Resize(15, max_size=17), resized, IMAGE_FILTER_ATOL),
    "resize, long side": (lambda: A.Resize(None, max_size=10), resized, IMAGE_FILTER_ATOL),
    "resize, bicubic": (lambda: A.Resize((13, 40), "bicubic"), resized, IMAGE_FILTER_ATOL),
    "resize, bicubic, plain": (lambda: A.Resize((13, 40), "bicubic", antialias=False), resized, IMAGE_FILTER_ATOL),
    "resize, plain": (lambda: A.Resize((13, 40), antialias=False), resized, IMAGE_FILTER_ATOL),
    "resize, nearest": (lambda: A.Resize((13, 40), "nearest"), resized, 0),
    "resize, nearest exact": (lambda: A.Resize((12, 52), "nearest-exact"), resized, 0),
    "crop": (lambda: A.RandomCrop((20, 15)), cropped, 0),
    "crop, padding": (lambda: A.RandomCrop(26, padding=(1, 2, 3, 4), fill=0.5), cropped, 0),
    "crop, reflect": (lambda: A.RandomCrop(26, padding=7, padding_mode="reflect"), cropped, 0),
    "crop, symmetric": (lambda: A.RandomCrop(26, padding=7, padding_mode="symmetric"), cropped, 0),
    "crop, edge": (lambda: A.RandomCrop(26, padding=7, padding_mode="edge"), cropped, 0),
    "crop, if needed": (lambda: A.RandomCrop((40, 50), pad_if_needed=True), cropped, 0),
    "pad": (lambda: A.Pad((1, 2), fill=[0.25, 0.5, 0.75]), padded, 0),
    "pad, edge": (lambda: A.Pad(3, padding_mode="edge"), padded, 0),
    "center crop": (lambda: A.CenterCrop((11, 12)), centered, 0),
    "center crop, small": (lambda: A.CenterCrop((31, 20)), centered, 0),
}


def parameters(train, size):
    """Yields the parameters of each sample by their last names."""
    table = train.parameters(IDS, sizes=size)
    for k in range(N):
        yield {name.rpartition(".")[2]: float(column[k]) for name, column in table.items()}


def near(train, images, ids):
    """What the records say, in float64; the core's float32 is close to it."""
    made, ours = exact(train, images, ids=ids), train(images, ids=ids)
    ours = ours[0] if isinstance(ours, tuple) else ours
    torch.testing.assert_close(ours.double(), made, rtol=0, atol=IMAGE_FLOAT32_ATOL)
    return made


def check(make, call, tolerance, size, dtype=torch.float64):
    transform = make()
    train = A.Compose([transform], seed=0, layout="NCHW")
    images = image(N, C, *size)
    made = near(train, images, IDS)
    for one, drawn, ours in zip(images.to(dtype), parameters(train, size), made, strict=True):
        wanted = call(one, drawn, transform)
        assert wanted.shape == ours.shape
        torch.testing.assert_close(ours, wanted.double(), rtol=0, atol=tolerance, msg=f"{drawn}")


@pytest.mark.parametrize("size", [(24, 26), (25, 25)], ids=str)
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_torchvisions(name, size):
    torchvision()
    check(*GEOMETRY[name], size)


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_of_uint8_is_one_apart_at_most(name):
    torchvision()
    make, call, _ = GEOMETRY[name]
    size = (24, 26)
    transform = make()
    # Fills are in units of the image.
    if isinstance(getattr(transform, "fill", None), (float, list)):
        transform.fill = [255 * f for f in np.atleast_1d(transform.fill)]
        transform._fill = tuple(transform.fill)
    train = A.Compose([transform], seed=0, layout="NCHW", dtype=torch.uint8)
    images = image(N, C, *size, dtype=torch.uint8)
    if "bicubic" in name:
        # torchvision limits to 0 .. 255 between its two directions, too: no overshoot may come so far.
        images = images // 2 + 64
    made = train(images, ids=IDS)
    assert made.dtype == torch.uint8
    for one, drawn, ours in zip(images, parameters(train, size), made, strict=True):
        far = (ours.double() - call(one, drawn, transform).double()).abs().max()
        assert far <= 1, drawn


COLOR = {
    "brightness": (lambda: A.ColorJitter(0.9), jittered),
    "contrast": (lambda: A.ColorJitter(contrast=0.9), jittered),
    "saturation": (lambda: A.ColorJitter(saturation=0.9), jittered),
    "hue": (lambda: A.ColorJitter(hue=0.5), jittered),
    "jitter": (lambda: A.ColorJitter(0.4, 0.4, 0.4, 0.2), jittered),
    "grayscale": (lambda: A.RandomGrayscale(0.5), applied("rgb_to_grayscale", 3)),
    "invert": (lambda: A.RandomInvert(), applied("invert")),
    "solarize": (lambda: A.RandomSolarize(0.4), applied("solarize", 0.4)),
    "posterize": (lambda: A.RandomPosterize(3), applied("posterize", 3)),
}


@pytest.mark.parametrize("name", COLOR)
def test_color_is_torchvisions(name):
    torchvision()
    make, call = COLOR[name]
    check(make, call, IMAGE_HUE_ATOL if name in ("hue", "jitter") else IMAGE_FLOAT64_ATOL, (9, 8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", [A.RandAugment, A.TrivialAugmentWide])
def test_policies_are_torchvisions(policy, channels):
    """Each operation with its magnitude, next to torchvision's own table and functions."""
    v2 = torchvision()
    theirs = getattr(v2, policy.__name__)
    options = {"num_ops": 1} if policy is A.RandAugment else {}
    train = A.Compose([policy(**options)], seed=3, layout="NCHW")
    size, n = (24, 26), 200
    images = image(n, channels, *size).double().float()
    made = near(train, images, range(n))
    table = train.parameters(range(n), sizes=size)
    operation, magnitude = (next(v for k, v in table.items() if w in k) for w in ("operation", "magnitude"))
    names = list(theirs._AUGMENTATION_SPACE)
    seen = set()
    for one, ours, k, m in zip(images.double(), made, operation, magnitude, strict=True):
        name = names[int(k)]
        steps, signed = theirs._AUGMENTATION_SPACE[name]
        known = steps(31, *size)
        if known is not None:
            known = known[9:10] if policy is A.RandAugment else known
            assert np.abs(known.numpy() - (abs(m) if signed else m)).min() < 1e-4
        seen.add(name)
        value = math.trunc(m) if name == "Posterize" else m
        wanted = theirs()._apply_image_or_video_transform(one, name, float(value), "nearest", {"others": None})
        torch.testing.assert_close(ours, wanted, rtol=0, atol=IMAGE_FLOAT64_ATOL, msg=f"{name} {m}")
    assert seen == set(names)


def test_erasing_is_torchvisions():
    torchvision()
    check(lambda: A.RandomErasing(0.8, value=[0.25, 0.5, 0.75]), erased, 0, (24, 26))


@pytest.mark.parametrize("kind", [A.MixUp, A.CutMix])
def test_mixing_is_torchvisions(kind):
    v2 = torchvision()
    train = A.Compose([kind(0.7)], seed=0, layout="NCHW")
    images = image(N, C, 12, 14)
    made = near(train, images, IDS)
    target = train(images, torch.arange(N), ids=IDS)[1]
    theirs = getattr(v2, kind.__name__)(num_classes=N)
    for k, drawn in enumerate(parameters(train, (12, 14))):
        box = tuple(int(drawn[s]) for s in ("left", "top", "right", "bottom")) if kind is A.CutMix else None
        given = {"labels": torch.arange(N), "batch_size": N, "lam": drawn["lam"]}
        wanted = theirs.transform(images.double(), {**given, "box": box, "lam_adjusted": drawn["lam"]})
        torch.testing.assert_close(made[k], wanted[k], rtol=0, atol=IMAGE_FLOAT64_ATOL)
        labels = theirs.transform(given["labels"], {**given, "lam_adjusted": drawn["lam"]})
        first, second, lam = target
        ours = torch.zeros(N).index_add(0, torch.stack([first[k], second[k]]), torch.stack([lam[k], 1 - lam[k]]))
        torch.testing.assert_close(ours, labels[k])
