"""Transforms next to torchvision's chain in float32, both against the same formulas in float64: the pixels.

Where torchvision is not installed, torch's side is its formulas in torch's operations; the options name which it
is. A chain of warps is measured against one resampling by the product of the maps; torchvision resamples each
time. The transforms have fixed parameters. Each step is another batch of uint8 images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass import _torchvision
from onepass import augment as A
from onepass.parity import augment_torch as formulas
from onepass.parity.harness import Row, Tally

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_SIZE = (37, 53)
_COUNT = 4
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TURN, _TILT = 13.0, -29.0
_ZOOM, _SHEAR = 0.9, 7.0
_LARGER, _SMALLER = (61, 80), (17, 20)


@dataclass(frozen=True)
class Rule:
    """Describes what is computed."""

    name: str
    options: str
    ours: Callable[[], list[Any]]
    """Makes our chain."""
    exact: Callable[[Tensor], Tensor]
    """The formula, in float64."""
    torchs: Callable[[Tensor], Tensor]
    """torch's operations, in float32."""
    vision: Callable[[Any, Tensor], Tensor]
    """torchvision's functions, in float32; takes torchvision.transforms.v2."""


def _alike(
    name: str,
    options: str,
    ours: Callable[[], list[Any]],
    formula: Callable[[Tensor], Tensor],
    vision: Callable[[Any, Tensor], Tensor],
) -> Rule:
    """Makes a rule of one formula, which torch computes in float32 and the reference in float64."""
    return Rule(name, options, ours, formula, formula, vision)


def _normalised(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(part, dtype=x.dtype)[:, None, None] for part in (_MEAN, _STD))
    return (x - mean) / std


def _resized(x: Tensor, size: tuple[int, int], mode: str, antialias: bool) -> Tensor:
    resized = F.interpolate(x, size, mode=mode, antialias=antialias)
    return _limited(resized) if mode == "bicubic" else resized


def _limited(x: Tensor) -> Tensor:
    """Limits to 0 .. 1 what a cubic filter overshoots, as torchvision does with uint8 images."""
    return x.clamp(0, 1)


def _rotation(x: Tensor, angle: float = _TURN) -> Tensor:
    return formulas.warp(x, _turned(x, angle))


def _turned(x: Tensor, angle: float) -> Tensor:
    # A rotation's positive angles are against the clock, an affine transform's with it.
    return formulas.affine_map((x.shape[-2], x.shape[-1]), -angle)


def _tilted(x: Tensor) -> Tensor:
    return formulas.affine_map((x.shape[-2], x.shape[-1]), _TILT, _ZOOM, _SHEAR)


def _one_warp(x: Tensor) -> Tensor:
    return _normalised(formulas.compose_warps(x.flip(-1), _turned(x, _TURN), _tilted(x)))


def _two_warps(x: Tensor) -> Tensor:
    return _normalised(formulas.warp(_rotation(x.flip(-1)), _tilted(x)))


def _tilt_options() -> dict[str, Any]:
    return {"scale": (_ZOOM, _ZOOM), "shear": (_SHEAR, _SHEAR), "interpolation": "bilinear"}


def _vision_rotation(v2: Any, x: Tensor) -> Tensor:
    found: Tensor = v2.functional.rotate(x, _TURN, interpolation=v2.InterpolationMode.BILINEAR, fill=0)
    return found


def _vision_tilt(v2: Any, x: Tensor) -> Tensor:
    bilinear = v2.InterpolationMode.BILINEAR
    found: Tensor = v2.functional.affine(x, _TILT, [0, 0], _ZOOM, [_SHEAR, 0.0], interpolation=bilinear, fill=0)
    return found


def _vision_chain(v2: Any, x: Tensor) -> Tensor:
    x = _vision_tilt(v2, _vision_rotation(v2, v2.functional.horizontal_flip(x)))
    found: Tensor = v2.functional.normalize(x, list(_MEAN), list(_STD))
    return found


def _resize(options: str, size: tuple[int, int], mode: str, antialias: bool) -> Rule:
    return _alike(
        "Resize",
        options,
        lambda: [A.Resize(size, interpolation=mode, antialias=antialias)],
        lambda x: _resized(x, size, mode, antialias),
        lambda v2, x: _limited(
            v2.functional.resize(x, list(size), v2.InterpolationMode(mode), antialias=antialias)
        ),
    )


def _jitter(name: str, factor: float, formula: Callable[[Tensor, float], Tensor]) -> Rule:
    return _alike(
        "ColorJitter",
        f"{name} {factor:g}",
        lambda: [A.ColorJitter(**{name: (factor, factor)})],
        partial(_with, formula, factor),
        lambda v2, x: getattr(v2.functional, f"adjust_{name}")(x, factor),
    )


def _with(formula: Callable[[Tensor, float], Tensor], number: float, x: Tensor) -> Tensor:
    return formula(x, number)


RULES = (
    _alike(
        "Normalize",
        "ImageNet's",
        lambda: [A.Normalize(_MEAN, _STD)],
        _normalised,
        lambda v2, x: v2.functional.normalize(x, list(_MEAN), list(_STD)),
    ),
    _resize("bilinear, antialiased, smaller", _SMALLER, "bilinear", True),
    _resize("bicubic, antialiased, smaller", _SMALLER, "bicubic", True),
    _resize("bilinear, larger", _LARGER, "bilinear", False),
    _resize("bicubic, larger", _LARGER, "bicubic", False),
    _alike(
        "RandomRotation",
        f"{_TURN:g} degrees, bilinear",
        lambda: [A.RandomRotation((_TURN, _TURN), interpolation="bilinear")],
        _rotation,
        _vision_rotation,
    ),
    _alike(
        "RandomAffine",
        f"{_TILT:g} degrees, scale {_ZOOM:g}, shear {_SHEAR:g}",
        lambda: [A.RandomAffine((_TILT, _TILT), **_tilt_options())],
        lambda x: formulas.warp(x, _tilted(x)),
        _vision_tilt,
    ),
    _jitter("brightness", 1.3, formulas.brightness),
    _jitter("contrast", 0.7, formulas.contrast),
    _jitter("saturation", 1.4, formulas.saturation),
    _jitter("hue", 0.1, formulas.hue),
    _jitter("hue", -0.2, formulas.hue),
    _alike(
        "RandomGrayscale",
        "p 1",
        lambda: [A.RandomGrayscale(1.0)],
        lambda x: formulas.grey(x).expand_as(x),
        lambda v2, x: v2.functional.rgb_to_grayscale(x, 3),
    ),
    _alike(
        "RandomInvert",
        "p 1",
        lambda: [A.RandomInvert(1.0)],
        lambda x: 1 - x,
        lambda v2, x: v2.functional.invert(x),
    ),
    _alike(
        "RandomSolarize",
        "threshold 100",
        lambda: [A.RandomSolarize(100.0, 1.0)],
        lambda x: formulas.solarize(x, 100 / 255),
        lambda v2, x: v2.functional.solarize(x, 100 / 255),
    ),
    _alike(
        "RandomPosterize",
        "3 bits",
        lambda: [A.RandomPosterize(3, 1.0)],
        lambda x: formulas.posterize(x, 3),
        lambda v2, x: v2.functional.posterize(x, 3),
    ),
    Rule(
        "chain",
        "flip, rotation, affine, normalise",
        lambda: [
            A.RandomHorizontalFlip(1.0),
            A.RandomRotation((_TURN, _TURN), interpolation="bilinear"),
            A.RandomAffine((_TILT, _TILT), **_tilt_options()),
            A.Normalize(_MEAN, _STD),
        ],
        _one_warp,
        _two_warps,
        _vision_chain,
    ),
)


def rows(dtypes: Sequence[torch.dtype], steps: int, device: torch.device) -> Iterator[Row]:
    """Measures every rule in every dtype of the result.

    Args:
        dtypes: Dtypes of the results, from `DTYPES`.
        steps: How many batches, at least 1.
        device: Where ours runs; torch's side and float64 run on the CPU.

    Yields:
        A row for the pixels.
    """
    try:
        v2 = _torchvision.load()
    except ImportError:
        v2 = None
    for rule in RULES:
        for dtype in dtypes:
            yield _measure(rule, dtype, steps, device, v2)


def _measure(rule: Rule, dtype: torch.dtype, steps: int, device: torch.device, v2: Any) -> Row:
    generator = torch.Generator().manual_seed(0)
    chain = A.Compose(rule.ours(), seed=0, dtype=dtype)
    tally = Tally()
    for step in range(1, steps + 1):
        images = torch.randint(0, 256, (_COUNT, *_SIZE, 3), generator=generator, dtype=torch.uint8)
        planes = images.permute(0, 3, 1, 2)
        ours = chain(images.to(device), ids=torch.arange(_COUNT), epoch=step)
        narrow = planes.float() / 255
        theirs = rule.torchs(narrow) if v2 is None else rule.vision(v2, narrow)
        tally.add(step, ours.cpu(), theirs.to(dtype), rule.exact(planes.double() / 255))
    whose = "torch" if v2 is None else "torchvision"
    return tally.row(rule.name, str(dtype).removeprefix("torch."), f"{rule.options}; {whose}", "pixels")
