"""torchvision's functions with the parameters that our transforms draw: call(image, parameters, transform)."""

from __future__ import annotations

import itertools

import torch

from augment_setup import torchvision
from onepass import augment as A


def functional():
    return torchvision().functional


def mode_of(name):
    return torchvision().InterpolationMode(name)


def rotated(x, p, t):
    return functional().rotate(x, p["angle"], mode_of(t.interpolation), center=t.center, fill=t.fill)


def affine(x, p, t):
    shift, shear = [p["translate_x"], p["translate_y"]], [p["shear_x"], p["shear_y"]]
    way = mode_of(t.interpolation)
    return functional().affine(x, p["angle"], shift, p["scale"], shear, way, fill=t.fill, center=t.center)


def warped(x, p, t):
    if not p["applied"]:
        return x
    h, w = x.shape[-2:]
    ends = [[int(p[f"x{k}"]), int(p[f"y{k}"])] for k in range(4)]
    starts = [[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]]
    return functional().perspective(x, starts, ends, mode_of(t.interpolation), fill=t.fill)


def resized_crop(x, p, t):
    box = [int(p[k]) for k in ("top", "left", "height", "width")]
    return functional().resized_crop(x, *box, list(t.size), mode_of(t.interpolation), antialias=t.antialias)


def resized(x, p, t):
    size = None if t.size is None else [t.size] if isinstance(t.size, int) else list(t.size)
    return functional().resize(x, size, mode_of(t.interpolation), t.max_size, t.antialias)


def cropped(x, p, t):
    sides = [
        int(p.get(f"pad_{side}", own))
        for side, own in zip(("left", "top", "right", "bottom"), t._sides, strict=True)
    ]
    x = functional().pad(x, sides, t.fill, t.padding_mode) if any(sides) else x
    return functional().crop(x, int(p["top"]), int(p["left"]), *t.size)


def padded(x, p, t):
    return functional().pad(x, list(t._sides), t.fill, t.padding_mode)


def centered(x, p, t):
    return functional().center_crop(x, list(t.size))


def jittered(x, p, t):
    f = functional()
    steps = [f.adjust_brightness, f.adjust_contrast, f.adjust_saturation, f.adjust_hue]
    names = ("brightness", "contrast", "saturation", "hue")
    for k in list(itertools.permutations(range(4)))[int(p["order"])]:
        x = steps[k](x, p[names[k]]) if names[k] in p else x
    return x


def applied(function, *arguments):
    return lambda x, p, t: getattr(functional(), function)(x, *arguments) if p["applied"] else x


def flipped(axis):
    return lambda x, p, t: x.flip(axis) if p["applied"] else x


def erased(x, p, t):
    box = (int(p[name]) for name in ("top", "left", "height", "width"))
    value = torch.tensor(t._value, dtype=x.dtype)[:, None, None]
    return functional().erase(x, *box, value) if p["applied"] else x


CALLS = {
    A.RandomHorizontalFlip: flipped(-1),
    A.RandomVerticalFlip: flipped(-2),
    A.RandomRotation: rotated,
    A.RandomAffine: affine,
    A.RandomPerspective: warped,
    A.RandomResizedCrop: resized_crop,
    A.Resize: resized,
    A.RandomCrop: cropped,
    A.Pad: padded,
    A.CenterCrop: centered,
    A.ColorJitter: jittered,
    A.RandomGrayscale: applied("rgb_to_grayscale", 3),
    A.RandomInvert: applied("invert"),
    A.RandomSolarize: lambda x, p, t: applied("solarize", t.threshold)(x, p, t),
    A.RandomPosterize: lambda x, p, t: applied("posterize", t.bits)(x, p, t),
    A.Normalize: lambda x, p, t: functional().normalize(x, list(t._mean), list(t._std)),
    A.RandomErasing: erased,
}


def chain(train, images, ids):
    """Carries out the chain of a Compose by torchvision, image (C, H, W) by image."""
    made = []
    for k, one in enumerate(images):
        table = train.parameters([ids[k]], sizes=tuple(one.shape[-2:]))
        for place, transform in enumerate(train.transforms):
            own = {name.split(".")[2]: float(v[0]) for name, v in table.items() if name.startswith(f"{place}.")}
            one = CALLS[type(transform)](one, own, transform)
        made.append(one)
    return torch.stack(made)
