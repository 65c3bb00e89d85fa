"""The CUDA kernels of onepass.augment: the bits of the CPU's, for all passes, operations, dtypes and layouts."""

from __future__ import annotations

import importlib
from functools import partial

import numpy as np
import pytest
import torch

from augment_records import IDENTITY, Case, pictures, rotation
from conftest import Backend
from onepass import _native
from onepass.augment import _call

on_gpu = pytest.mark.parametrize("backend", ["simt", "cuda"], indirect=True)
DTYPES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
PROJECTION = (0.9, 0.1, 0.5, -0.05, 1.1, -1.0, 0.004, -0.003, 1.0)
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def call(core, device, case, images, layout="NHWC", dtype=torch.float32, channels_last=False):
    """Carries out the records of a case on a device; images: a tensor, or a list of tensors or arrays."""
    moved = (
        images.to(device)
        if isinstance(images, torch.Tensor)
        else [
            one if device.type == "cpu" else torch.as_tensor(np.ascontiguousarray(one)).to(device)
            for one in images
        ]
    )
    channels = images[0].shape[-1 if layout == "NHWC" else 0]
    output = torch.full((len(images), channels, *case.size), 77, dtype=dtype, device=device)
    if channels_last:
        output = output.to(memory_format=torch.channels_last)
    core.augment(
        images=moved,
        layout=layout,
        output=output,
        samples=case.samples,
        passes=case.passes,
        ops=case.ops,
        values=case.values,
        threads=1,
        allocate=partial(_call.device_memory, device),
    )
    return output.cpu()


def assert_same(backend: Backend, case: Case, images, **how) -> torch.Tensor:
    """Compares the bits of the backend with those of the CPU's kernels."""
    expected = call(importlib.import_module("onepass._core"), torch.device("cpu"), case, images, **how)
    got = call(_native.core, backend.device, case, images, **how)
    nans = got.isnan() & expected.isnan() if got.is_floating_point() else torch.zeros_like(got, dtype=torch.bool)
    size = BITS[got.element_size()]
    same = (got.contiguous().view(size) == expected.contiguous().view(size)) | nans
    assert same.all(), f"{int((~same).sum())} of {same.numel()} elements, first at {(~same).nonzero()[0].tolist()}"
    return got


def every(n: int, size, map, kind="bilinear", border="edge", **how) -> Case:
    case = Case(n, (23, 37))
    for i in range(n):
        case.gather(i, size, map, kind, border, **how)
    return case


@on_gpu
@pytest.mark.parametrize("border", ["edge", "reflect", "symmetric"])
@pytest.mark.parametrize("kind", ["nearest", "bilinear", "floor"])
@pytest.mark.parametrize("map", ["turn", "projection", "shift"])
def test_gathers(backend: Backend, map, kind, border):
    size = (19, 26)
    maps = {
        "turn": rotation(31, size, (23, 37), 1.2),
        "projection": PROJECTION,
        "shift": (-1, 0, 30, 0, 1, -9, 0, 0, 1),
    }
    case = every(2, size, maps[map], kind, border, box=(2, 1, 24, 18))
    for dtype in DTYPES:
        assert_same(backend, case, pictures(2, size, 3, dtype))


@on_gpu
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
def test_channels_layouts_and_stores(backend: Backend, channels, layout):
    size = (11, 14)
    case = every(2, size, rotation(-12, size, (23, 37)))
    for i in range(2):
        case.op(
            i,
            "normalize",
            values=[0.1 * c + 0.2 for c in range(channels)] + [0.5 + 0.1 * c for c in range(channels)],
        )
        case.op(i, "erase", (3, 4, 9, 12), values=[0.3 * c for c in range(channels)])
    for dtype in DTYPES:
        images = pictures(2, size, channels, torch.uint8)
        images = images if layout == "NHWC" else images.permute(0, 3, 1, 2).contiguous()
        for last in (False, True):
            assert_same(backend, case, images, layout=layout, dtype=dtype, channels_last=last)


@on_gpu
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(61, 90), (9, 8), (40, 20)], ids=str)
def test_resizes(backend: Backend, size, antialias, kind):
    case = Case(3, (23, 17))
    case.resize(0, size, kind, antialias)
    case.resize(1, size, kind, antialias, box=(1, 2, size[1] - 3, size[0] - 1), flip=True)
    case.gather(2, size)
    for dtype in DTYPES:
        for channels in (3, 4) if dtype == torch.uint8 else (3,):
            assert_same(backend, case, pictures(3, size, channels, dtype))


OPS = [
    ("brightness", (1.4,), 0),
    ("contrast", (0.6,), 0),
    ("contrast", (1.7,), 0),
    ("saturation", (1.5,), 0),
    ("hue", (0.3,), 0),
    ("hue", (-0.45,), 0),
    ("grayscale", (), 0),
    ("invert", (), 0),
    ("solarize", (0.4,), 0),
    ("posterize", (8,), 0),
    ("autocontrast", (), 0),
    ("equalize", (), 0),
    ("sharpness", (1.8,), 0),
    ("normalize", (), 2),
    ("erase", (5, 2, 30, 20, 0), 1),
    ("erase", (5, 2, 30, 20, 1, 123456789, 4000000000, 7, 0, 3, 65536), 1),
    ("clamp", (0.2, 0.7), 0),
    *(
        ("blend", (*rotation(25, (19, 26), (23, 37)), 26, 19, power, soft), 1)
        for power in (0, 1, 2)
        for soft in (0, 1)
    ),
    ("blend", (*PROJECTION, 26, 19, 2, 1), 1),
]


@on_gpu
@pytest.mark.parametrize(("name", "a", "lists"), OPS, ids=[f"{k}-{op[0]}" for k, op in enumerate(OPS)])
def test_operations(backend: Backend, name, a, lists):
    size = (19, 26)
    for channels in (3, 1):
        case = every(2, size, rotation(10, size, (23, 37)))
        case.op(0, name, a, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9][: lists * channels])
        case.op(1, "brightness", (0.8,))
        case.op(1, name, a, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9][: lists * channels])
        images = pictures(2, size, channels, torch.uint8)
        assert_same(backend, case, images)
        # Values beyond 0 .. 1, and zeros of both signs.
        wide = images.float() / 100 - 0.5
        wide[:, :, ::3] = 0.0
        wide[:, :, 1::3] = -0.0
        assert_same(backend, case, wide)


@on_gpu
def test_statistics_of_flat_and_small_images(backend: Backend):
    """Equal values, too few of them for a histogram, and images without an inner pixel."""
    for size in ((1, 1), (2, 40), (40, 2), (3, 3), (17, 16)):
        case = Case(4, size, ops=1)
        for i, name in enumerate(("contrast", "autocontrast", "equalize", "sharpness")):
            case.gather(i, size)
            case.op(i, name, (1.5,) if name in ("contrast", "sharpness") else ())
        assert_same(backend, case, pictures(4, size, 3, torch.uint8))
        assert_same(backend, case, torch.full((4, *size, 3), 0.25))


def many_stages(n: int) -> Case:
    """Samples of one to seven stages."""
    case = Case(n, (21, 25), passes=3, ops=5)
    for i in range(n):
        if i % 4 == 0:
            case.gather(i, (30, 33), rotation(8 * i, (30, 33), (21, 25)), p=2)
            case.op(i, "invert", p=2)
        if i % 4 == 1:
            case.resize(i, (30, 33), "bicubic", output=(40, 18), p=0)
            case.op(i, "contrast", (0.5,), p=0)
            case.gather(i, (40, 18), rotation(20, (40, 18), (21, 25)), p=1)
            for name in ("autocontrast", "equalize"):
                case.op(i, name, p=1)
            case.op(i, "sharpness", (0.4,), p=1)
            case.op(i, "hue", (0.2,), p=1)
        if i % 4 == 2:
            case.gather(i, (30, 33), output=(50, 20), border="symmetric", map=(1, 0, -4, 0, 1, -9, 0, 0, 1), p=0)
            case.resize(i, (50, 20), antialias=True, p=2)
            case.op(i, "equalize", p=2)
            case.op(i, "contrast", (1.5,), p=2)
        if i % 4 == 3:
            case.resize(i, (30, 33), "nearest", p=1)
            case.op(i, "sharpness", (2.0,), p=1)
            case.op(i, "saturation", (0.3,), p=1)
    return case


@on_gpu
@pytest.mark.parametrize("mixing", [0, 1, 2])
def test_samples_of_different_stages_are_mixed(backend: Backend, mixing):
    n = 9
    case = many_stages(n)
    for i in range(n):
        record = case.samples[i]
        record["mixing"] = (mixing + i // 4) % 3
        record["partner"] = (i - 1) % n if mixing else (5 * i + 3) % n
        record["lam"] = 0.1 + 0.09 * i
        record["left"], record["top"], record["right"], record["bottom"] = i, 2, 15 + i, 17
    for channels in (3, 1):
        assert_same(backend, case, pictures(n, (30, 33), channels, torch.uint8), dtype=torch.bfloat16)
    assert_same(backend, case, pictures(n, (30, 33), 3, torch.float32), channels_last=True)


@on_gpu
def test_lists_of_images_of_any_strides(backend: Backend):
    sizes = [(9, 14), (33, 21), (1, 1), (16, 40)]
    images = [pictures(1, size, 3, torch.uint8, seed)[0].numpy() for seed, size in enumerate(sizes)]
    images[0], images[1] = images[0][::-1, ::-1], np.asfortranarray(images[1])
    images[3] = images[3][:, ::2, ::-1]
    case = Case(4, (12, 10))
    for i, image in enumerate(images):
        size = image.shape[:2]
        if i % 2:
            case.resize(i, size)
        else:
            case.gather(i, size, rotation(30, size, case.size))
    assert_same(backend, case, images)


def call_masks(core, device, case, masks):
    moved = [torch.as_tensor(one).to(device) for one in masks]
    output = torch.full((len(masks), *case.size), 7, dtype=moved[0].dtype, device=device)
    core.augment_masks(
        masks=moved,
        output=output,
        passes=case.passes,
        ops=case.ops,
        values=case.values,
        threads=1,
        allocate=partial(_call.device_memory, device),
    )
    return output.cpu()


@on_gpu
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_masks(backend: Backend, dtype):
    sizes = [(19, 26), (8, 50), (40, 3)]
    masks = [torch.randint(-100 if dtype.is_signed else 0, 101, size).to(dtype) for size in sizes]
    case = Case(3, (23, 37), ops=2)
    for i, size in enumerate(sizes):
        map = (IDENTITY, rotation(40, size, case.size), PROJECTION)[i]
        case.gather(i, size, map, ("nearest", "floor", "nearest")[i], ("edge", "reflect", "symmetric")[i])
        case.op(i, "blend", (*map, size[1], size[0], (1, 0, 2)[i], 0), [5])
        case.op(i, "blend", (*IDENTITY, 30, 20, 2, 0), [99])
    expected = call_masks(importlib.import_module("onepass._core"), torch.device("cpu"), case, masks)
    assert call_masks(_native.core, backend.device, case, masks).equal(expected)


@on_gpu
def test_memory_is_asked_for_once_and_checked(backend: Backend):
    """The output stays as it was when there is none, or too little, or it is on another device."""
    case = many_stages(4)
    images, output = pictures(4, (30, 33), 3, torch.uint8).to(backend.device), torch.zeros(4, 3, *case.size)
    output = output.to(backend.device)
    records = {"samples": case.samples, "passes": case.passes, "ops": case.ops, "values": case.values}
    given = {"images": images, "layout": "NHWC", "output": output, **records, "threads": 1}
    asked = []

    def lend(table, workspace, short=(0, 0)):
        asked.append((len(table), workspace))
        lent = _call.device_memory(backend.device, table, workspace)
        return tuple(one[: len(one) - less] for one, less in zip(lent, short, strict=True))

    with pytest.raises(TypeError, match="augment: allocate must be given"):
        _native.core.augment(**given)
    with pytest.raises(ValueError, match=r"augment: table must hold \d+ bytes one after the other, got shape"):
        _native.core.augment(**given, allocate=partial(lend, short=(1, 0)))
    with pytest.raises(ValueError, match=r"augment: workspace must hold \d+ bytes one after the other, got shape"):
        _native.core.augment(**given, allocate=partial(lend, short=(0, 1)))
    with pytest.raises(TypeError, match="augment: allocate must return a table and a workspace, got NoneType"):
        _native.core.augment(**given, allocate=lambda *_: None)
    if backend.device.type == "cuda":
        with pytest.raises(ValueError, match="augment: table must be on cuda:0 like images, got cpu"):
            _native.core.augment(**given, allocate=partial(_call.device_memory, torch.device("cpu")))
    assert not output.any()
    asked.clear()
    _native.core.augment(**given, allocate=lend)
    assert len(asked) == 1
    assert output.any()


@on_gpu
def test_launches_are_captured_in_a_graph(backend: Backend):
    """A replay carries out the same records on what the images hold then; nothing waits, nothing is allocated."""
    case = many_stages(5)
    case.samples["mixing"], case.samples["partner"], case.samples["lam"] = 1, np.roll(np.arange(5), 1), 0.3
    first, second = (pictures(5, (30, 33), 3, torch.uint8, seed) for seed in (0, 1))
    expected = call(importlib.import_module("onepass._core"), torch.device("cpu"), case, second)
    images, output = first.to(backend.device), torch.zeros(5, 3, *case.size, device=backend.device)
    memory = []

    def lend(table, workspace):
        memory.extend([] if memory else _call.device_memory(backend.device, table, workspace))
        return tuple(memory)

    records = {"samples": case.samples, "passes": case.passes, "ops": case.ops, "values": case.values}

    def step():
        _native.core.augment(images=images, layout="NHWC", output=output, **records, threads=1, allocate=lend)

    step()
    if backend.name == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    else:
        graph = _native.core.Graph()
        graph.begin()
        step()
        graph.end()
    output.zero_()
    images.copy_(second)
    graph.replay()
    assert output.cpu().equal(expected)
