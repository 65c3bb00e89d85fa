"""The kernels of onepass.augment against the float64 executor of the same records, and against torch's bits."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from augment_records import Case, pictures, rotation
from onepass import _native
from onepass.augment import _records
from reference import augment as reference

CSRC = Path(__file__).parents[1] / "csrc"
DTYPES = [torch.uint8, torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = ["NHWC", "NCHW"]
# Half a unit in the last place of values up to 4, and what float32 loses on the way.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.uint8: 0.5 / 255 + 1e-6}


def laid_out(images: torch.Tensor, layout: str) -> torch.Tensor:
    return images if layout == "NHWC" else images.permute(0, 3, 1, 2)


def assert_close(case: Case, images, layout="NHWC", dtype=torch.float32, channels_last=False) -> None:
    got = case.run(images, layout, dtype, channels_last).double().numpy()
    wanted = case.expected(images, layout)
    if dtype == torch.uint8:
        got, wanted = got / 255, np.clip(wanted, 0, 1)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE[dtype] * max(1, np.abs(wanted).max()))


@pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")
@pytest.mark.parametrize("name", ["ImageSample", "ImagePass", "ImageOp"])
def test_records_are_the_cores(name):
    text = (CSRC / "kernels" / "augment" / "augment.h").read_text()
    body = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL)[1]
    fields = []
    for declared in re.findall(r"double ([^;]+);", body):
        fields += [re.fullmatch(r"(\w+)(?:\[(\d+)\])?", part.strip()).groups() for part in declared.split(",")]
    dtype = {"ImageSample": _records.SAMPLE, "ImagePass": _records.PASS, "ImageOp": _records.OP}[name]
    assert [name for name, _ in fields] == list(dtype.names)
    assert [int(count or 1) for _, count in fields] == [
        int(np.prod(dtype[name].shape)) if dtype[name].shape else 1 for name in dtype.names
    ]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gather(dtype, layout, channels):
    draws = np.random.default_rng(channels)
    for trial in range(6):
        size, output = draws.integers(1, 41, 2), draws.integers(1, 41, 2)
        images = laid_out(pictures(2, size, channels, dtype, trial), layout)
        for kind in ("nearest", "bilinear", "floor"):
            for border in ("edge", "reflect", "symmetric"):
                case = Case(2, output)
                for i in range(2):
                    map = rotation(draws.uniform(-180, 180), size, output, draws.uniform(0.5, 2))
                    map[2] += draws.uniform(-0.5, 0.5)  # no pixel half way between two
                    map[5] += draws.uniform(-0.5, 0.5)
                    map[6:8] = draws.uniform(0, 0.01, 2) * draws.integers(0, 2)
                    case.gather(i, size, map, kind, border)
                assert_close(case, images, layout, channels_last=bool(trial % 2))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_resize(dtype, layout, kind, antialias):
    draws = np.random.default_rng(3)
    for trial in range(25):
        size, output = draws.integers(1, 41, 2), draws.integers(1, 41, 2)
        images = laid_out(pictures(2, size, int(draws.integers(1, 6)), dtype, trial), layout)
        case = Case(2, output)
        for i in range(2):
            left, right = sorted(draws.choice(size[1] + 1, 2, replace=False))
            top, bottom = sorted(draws.choice(size[0] + 1, 2, replace=False))
            case.resize(i, size, kind, antialias, (left, top, right, bottom), flip=bool(i))
        assert_close(case, images, layout, channels_last=bool(trial % 2))


OPERATIONS = {
    "brightness": [1.3],
    "contrast": [0.4],
    "saturation": [1.5],
    "hue": [0.2],
    "grayscale": [],
    "invert": [],
    "solarize": [0.5],
    "posterize": [8],
    "autocontrast": [],
    "equalize": [],
    "sharpness": [1.7],
    "clamp": [0.2, 0.7],
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name, channels):
    draws = np.random.default_rng(4)
    for trial in range(12):
        size = draws.integers(1, 41, 2)
        images = pictures(2, size, channels, DTYPES[trial % 2], trial)
        case = Case(2, size)
        for i in range(2):
            case.gather(i, size)
            case.op(i, name, OPERATIONS[name])
        assert_close(case, images)


def test_operations_follow_each_other():
    """Statistics are those of the image at their place in the list, also in a second pass."""
    size, middle, output = (33, 21), (29, 40), (17, 25)
    images = pictures(3, size, 3, torch.uint8)
    case = Case(3, output, passes=3, ops=6)
    for i in range(3):
        case.gather(i, size, rotation(20, size, middle), p=0, output=middle)
        case.op(i, "contrast", [0.7], p=0)
        case.op(i, "sharpness", [1.5], p=0)
        case.op(i, "brightness", [1.1], p=0)
        if i != 1:  # a pass that is left out
            case.resize(i, middle, flip=True, p=1, output=middle)
            case.op(i, "autocontrast", p=1)
        case.gather(i, middle, rotation(-35, middle, output, 1.3), border="reflect", p=2)
        case.op(i, "contrast", [1.4], p=2)
        case.op(i, "saturation", [0.5], p=2)
        case.op(i, "contrast", [0.8], p=2)
        case.op(i, "normalize", values=[0.5, 0.4, 0.3, 0.2, 0.3, 0.4], p=2)
    assert_close(case, images)


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("soft", [0, 1])
def test_blend(soft, power):
    draws = np.random.default_rng(5)
    for trial in range(40):
        size, output = draws.integers(1, 41, 2), draws.integers(1, 41, 2)
        map = rotation(draws.uniform(-180, 180), size, output, draws.uniform(0.5, 2))
        map[2] += draws.uniform(-0.5, 0.5)
        map[6:8] = draws.uniform(0, 0.01, 2) * draws.integers(0, 2)
        case = Case(1, output)
        case.gather(0, size, map)
        case.op(0, "blend", [*map, size[1], size[0], power, soft], draws.random(3))
        assert_close(case, pictures(1, size, 3, torch.float32, trial))


@pytest.mark.parametrize("mode", [0, 1])
def test_erase(mode):
    draws = np.random.default_rng(6)
    for trial in range(20):
        size = draws.integers(1, 41, 2)
        left, right = sorted(draws.choice(size[1] + 1, 2, replace=False))
        top, bottom = sorted(draws.choice(size[0] + 1, 2, replace=False))
        case = Case(1, size)
        case.gather(0, size)
        case.op(0, "erase", [left, top, right, bottom, mode, *draws.integers(0, 2**32, 6)], draws.random(3))
        assert_close(case, pictures(1, size, 3, torch.uint8, trial))


def test_noise_is_standard_normal():
    case = Case(1, (200, 300))
    case.gather(0, (200, 300))
    case.op(0, "erase", [0, 0, 300, 200, 1, 1, 2, 3, 4, 5, 6], [0] * 3)
    noise = case.run(pictures(1, (200, 300), 3, torch.uint8)).double()
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_stores(dtype, channels_last):
    """All places of an output are rounded and written, also those past the end of a line, or of a strip."""
    for size in ((3, 5), (7, 515), (2, 1040)):
        for channels in (1, 3, 4, 5):
            case = Case(2, size)
            for i in range(2):
                case.gather(i, size, [1, 0, 0.25, 0, 1, 0.5, 0, 0, 1])
            assert_close(case, pictures(2, size, channels, torch.uint8), dtype=dtype, channels_last=channels_last)


@pytest.mark.parametrize("size", [(224, 224), (97, 131)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("n", [2, 24])
def test_crop_flip_normalise_has_torchs_bits(n, channels_last, size):
    """24 images of 224 x 224 are stored past the caches."""
    images = pictures(n, size, 3, torch.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    case = Case(n, size)
    wanted = []
    column = [torch.tensor(v)[:, None, None] for v in (mean, std)]
    for i in range(n):
        x, y = i % 9 - 4, i * 5 % 9 - 4
        flip = i % 2 == 1
        map = [-1 if flip else 1, 0, size[1] - 1 + x if flip else x, 0, 1, y, 0, 0, 1]
        case.gather(i, size, map)
        case.op(i, "blend", [*map, size[1], size[0], 1, 1], [0.1, 0.2, 0.3])
        case.op(i, "normalize", values=mean + std)
        padded = torch.tensor([0.1, 0.2, 0.3])[:, None, None].expand(3, size[0] + 8, size[1] + 8).clone()
        padded[:, 4:-4, 4:-4] = images[i].permute(2, 0, 1).float() / 255
        cropped = (
            padded.flip(2)[:, 4 + y : 4 + y + size[0], 4 - x : 4 - x + size[1]]
            if flip
            else padded[:, 4 + y : 4 + y + size[0], 4 + x : 4 + x + size[1]]
        )
        wanted.append((cropped - column[0]) / column[1])
        if i % 3 == 0:
            case.op(i, "erase", [2, 5, 40, 30, 0], [7, 8, 9])
            wanted[-1][:, 5:30, 2:40] = torch.tensor([7.0, 8.0, 9.0])[:, None, None]
    exact = torch.stack(wanted)
    assert torch.equal(case.run(images, channels_last=channels_last), exact)
    assert torch.equal(case.run(images, dtype=torch.bfloat16, channels_last=channels_last), exact.bfloat16())
    assert torch.equal(case.run(images.permute(0, 3, 1, 2), "NCHW"), exact)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("partner", ["before", "any", "itself"])
def test_mixing(kind, partner):
    n, size = 9, (40, 30)
    draws = np.random.default_rng(7)
    images = pictures(n, size, 3, torch.uint8)
    case = Case(n, size)
    for i in range(n):
        case.gather(i, size, rotation(10 * i, size, size))
        case.op(i, "contrast", [0.5 + 0.1 * i])
        if i == 4:  # one that is not mixed
            continue
        case.samples[i]["mixing"] = _records.MIXINGS[kind]
        case.samples[i]["partner"] = {"before": (i - 1) % n, "any": draws.integers(n), "itself": i}[partner]
        case.samples[i]["lam"] = draws.random()
        for field, value in zip(("left", "top", "right", "bottom"), (3, 5, 3 + i, 35), strict=True):
            case.samples[i][field] = value
    assert_close(case, images)
    once = case.run(images)
    for threads in (2, 3):
        assert torch.equal(case.run(images, threads=threads), once)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "bool", "uint16"])
def test_masks(dtype):
    draws = np.random.default_rng(8)
    for kind in ("nearest", "floor"):
        for border in ("edge", "reflect", "symmetric"):
            size, output = draws.integers(1, 41, 2), draws.integers(1, 41, 2)
            masks = (draws.random((3, *size)) * 100).astype(dtype)[:, ::-1]
            case = Case(3, output)
            for i in range(3):
                map = rotation(draws.uniform(-180, 180), size, output, draws.uniform(0.5, 2))
                map[2] += draws.uniform(-0.5, 0.5)
                case.gather(i, size, map, kind, border)
                case.op(i, "blend", [*map, size[1], size[0], 2, 0], [1])
            records = {"passes": case.passes[:, :1], "ops": case.ops[:, :1], "values": case.values}
            made = np.zeros((3, *output), dtype)
            for given in (masks, list(masks)):
                _native.core.augment_masks(masks=given, output=made, threads=1, **records)
                wanted = reference.augment_masks(list(masks), case.passes, case.ops, case.values)
                np.testing.assert_array_equal(made, wanted)
