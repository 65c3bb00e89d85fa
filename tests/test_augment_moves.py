"""Crops and flips of bytes, padded, normalised and mixed: the bits of torch's own operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from augment_records import Case
from onepass.augment import _records

MEANS, STDS = (0.485, 0.456, 0.406, 0.5), (0.229, 0.224, 0.225, 0.5)


def _axis(draws, size: int, output: int) -> tuple[int, int]:
    """Draws the direction and offset of an axis that begins or ends outside of the image, by a few places."""
    direction = int(draws.choice([-1, 1]))
    shift = int(draws.integers(-5, max(1, size - output + 5)))
    return direction, shift if direction > 0 else shift + output - 1


def _values(image: torch.Tensor, axes, output, fill, normalize: bool) -> torch.Tensor:
    """Makes one sample as (H, W, C) by indexing."""
    (sx, tx), (sy, ty) = axes
    x, y = torch.arange(output[1]) * sx + tx, torch.arange(output[0]) * sy + ty
    height, width, channels = image.shape
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None]
    v = image[y.clamp(0, height - 1)][:, x.clamp(0, width - 1)].float() / 255
    if fill is not None:
        v = torch.where(inside[..., None], v, torch.tensor(fill[:channels], dtype=torch.float32))
    if normalize:
        v = (v - torch.tensor(MEANS[:channels])) / torch.tensor(STDS[:channels])
    return v


def _mixed(case: Case, own: list[torch.Tensor]) -> list[torch.Tensor]:
    results = []
    for i, sample in enumerate(case.samples):
        other, v = own[int(sample["partner"])], own[i].clone()
        if sample["mixing"] == _records.MIXINGS["mixup"]:
            lam = torch.tensor(sample["lam"], dtype=torch.float32)
            v = lam * v + torch.tensor(1 - sample["lam"], dtype=torch.float32) * other
        elif sample["mixing"] == _records.MIXINGS["cutmix"]:
            box = tuple(slice(int(sample[a]), int(sample[b])) for a, b in (("top", "bottom"), ("left", "right")))
            v[box] = other[box]
        results.append(v)
    return results


def _check(n, size, output, channels, *, fill, normalize, mixing, dtype, last, seed) -> None:
    draws = np.random.default_rng(seed)
    images = torch.from_numpy(draws.integers(0, 256, (n, *size, channels), dtype=np.uint8))
    case = Case(n, output)
    own = []
    for i in range(n):
        (sx, tx), (sy, ty) = axes = [_axis(draws, s, o) for s, o in zip(size[::-1], output[::-1], strict=True)]
        map = [sx, 0, tx, 0, sy, ty, 0, 0, 1]
        case.gather(i, size, map, "nearest")
        if fill is not None:
            case.op(i, "blend", [*map, size[1], size[0], 1, 0], fill[:channels])
        if normalize:
            case.op(i, "normalize", values=[*MEANS[:channels], *STDS[:channels]])
        own.append(_values(images[i], axes, output, fill, normalize))
        sample = case.samples[i]
        sample["mixing"] = _records.MIXINGS[mixing]
        sample["partner"], sample["lam"] = (i - 1) % n, draws.random()
        sample["left"], sample["right"] = np.sort(draws.integers(0, output[1] + 1, 2))
        sample["top"], sample["bottom"] = np.sort(draws.integers(0, output[0] + 1, 2))
    wanted = torch.stack(_mixed(case, own)).permute(0, 3, 1, 2)
    wanted = (wanted * 255).round().clamp(0, 255).to(dtype) if dtype == torch.uint8 else wanted.to(dtype)
    got = case.run(images, dtype=dtype, channels_last=last)
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.uint8: torch.uint8}[dtype]
    assert torch.equal(got.contiguous().view(bits), wanted.contiguous().view(bits)), (size, output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("last", [True, False], ids=["channels_last", "planes"])
def test_bits_of_small_images(last, channels, mixing, dtype):
    draws = np.random.default_rng(channels)
    fills = [None, (0, 0, 0, 0), (7 / 255, 1, 128 / 255, 0.2), (0.123, 0.456, 0.3, 0.9)]
    for trial in range(24):
        size, output = draws.integers(1, 41, 2).tolist(), draws.integers(1, 71, 2).tolist()
        if trial % 3 == 0:
            output[1] = 16 * (1 + trial % 4)
        if trial % 4 == 0:
            size[1] = output[1] + 3
        normalize = dtype != torch.uint8 and trial % 5 != 0
        _check(
            3,
            size,
            output,
            channels,
            fill=fills[trial % 4],
            normalize=normalize,
            mixing=mixing,
            dtype=dtype,
            last=last,
            seed=trial,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mixing", ["none", "mixup"])
@pytest.mark.parametrize("last", [True, False], ids=["channels_last", "planes"])
@pytest.mark.parametrize("width", [224, 217])
def test_bits_of_outputs_past_the_caches(width, last, mixing, dtype):
    """Whole lines are stored past the caches, also where rows begin within one."""
    fill = (0, 0, 0) if width == 224 else (0.123, 0.456, 0.3)
    _check(
        32, (224, 224), (224, width), 3, fill=fill, normalize=True, mixing=mixing, dtype=dtype, last=last, seed=1
    )


@pytest.mark.parametrize("std", [0.229, 1.0, -0.5, 1e-30, 1e30, 3.0])
@pytest.mark.parametrize("mean", [0.0, 0.485, -1.0, 1e-20, 1e20])
def test_all_bytes_get_the_bits_of_divisions(mean, std):
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 8, 32, 1)
    case = Case(1, (8, 32))
    case.gather(0, (8, 32), kind="nearest")
    case.op(0, "normalize", values=[mean, std])
    wanted = ((image.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    for dtype, bits in ((torch.float32, torch.int32), (torch.bfloat16, torch.int16)):
        got = case.run(image, dtype=dtype)
        assert torch.equal(got.view(bits), wanted.to(dtype).contiguous().view(bits))
