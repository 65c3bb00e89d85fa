"""What the kernels of onepass.augment read and write: no byte outside of images and outputs, in any layout."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from augment_records import Case, pictures, rotation
from tolerance import IMAGE_FILTER_ATOL, IMAGE_GUARDED_ATOL

PAGE = mmap.PAGESIZE
POSIX = os.name == "posix"


class Guarded:
    """Arrays that end where a page begins, or begin where one ends, that nobody may read or write."""

    def __init__(self) -> None:
        self.kept: list[mmap.mmap] = []

    def array(self, shape, dtype, at_end: bool) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pages = -(-size // PAGE)
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        self.kept.append(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for guard in (address, address + (pages + 1) * PAGE):
            assert protect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0) == 0
        begin = PAGE + (pages * PAGE - size if at_end else 0)
        return np.frombuffer(memory, dtype, int(np.prod(shape)), begin).reshape(shape)


@pytest.mark.skipif(not POSIX, reason="needs mprotect")
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_nothing_outside_is_touched(channels, at_end):
    """A wrong access ends the process."""
    draws = np.random.default_rng(channels)
    for height in range(1, 41):
        size = (height, int(draws.integers(1, 41)))
        guarded = Guarded()
        source = guarded.array((1, *size, channels), np.uint8, at_end)
        source[:] = pictures(1, size, channels, torch.uint8, height).numpy()
        cases = []
        for map in (
            rotation(float(draws.uniform(-180, 180)), size, size, 0.8),
            [1, 0, 3, 0, 1, -2, 0, 0, 1],
            [-1, 0, size[1] - 1, 0, 1, 0, 0, 0, 1],
            [1, 0, 0, 0, -1, size[0] - 1, 0, 0, 1],
        ):
            case = Case(1, size)
            case.gather(0, size, map)
            case.op(0, "normalize", values=[0.5] * channels + [0.25] * channels)
            cases.append(case)
        resized = Case(1, (int(draws.integers(1, 41)), int(draws.integers(1, 41))))
        resized.resize(0, size)
        for case in (*cases, resized):
            made = guarded.array((1, *case.size, channels), np.float32, at_end)
            case.run_into(made.transpose(0, 3, 1, 2), source)
            np.testing.assert_allclose(
                made.transpose(0, 3, 1, 2), case.expected(source), rtol=0, atol=IMAGE_GUARDED_ATOL
            )
            planes = guarded.array((1, channels, *case.size), np.float32, at_end)
            case.run_into(planes, source)
            np.testing.assert_array_equal(planes, made.transpose(0, 3, 1, 2))
        planar = guarded.array((1, channels, *size), np.uint8, at_end)
        planar[:] = source.transpose(0, 3, 1, 2)
        for case in (*cases, resized):
            assert torch.equal(case.run(planar, "NCHW"), case.run(source))


def _batch():
    """A case that takes every way through the kernels."""
    size, output = (61, 83), (48, 70)
    case = Case(12, output, passes=2, ops=8)
    for i in range(12):
        if i % 4 == 0:
            case.gather(i, size, [1, 0, 5, 0, 1, 7, 0, 0, 1])
        elif i % 4 == 1:
            case.gather(i, size, rotation(30 * i, size, output, 1.1), p=0)
            case.op(i, "blend", [*rotation(30 * i, size, output, 1.1), 83, 61, 2, 1], [0.1, 0.2, 0.3])
            for name, a in (("contrast", 0.7), ("hue", 0.1), ("saturation", 1.3), ("sharpness", 1.4)):
                case.op(i, name, [a])
        elif i % 4 == 2:
            case.resize(i, size, kind="bicubic" if i == 2 else "bilinear", output=size)
            case.gather(i, size, rotation(-20, size, output), "nearest", "reflect", p=1)
        else:
            case.resize(i, size)
            case.op(i, "autocontrast")
            case.op(i, "posterize", [16])
        last = 1 if i % 4 == 2 else 0
        case.op(i, "normalize", values=[0.5, 0.4, 0.3, 0.2, 0.3, 0.4], p=last)
        case.op(i, "erase", [3, 4, 20, 30, 1, 1, 2, 3, 4, 5, i], [0, 0, 0], p=last)
        case.samples[i]["mixing"] = i % 3
        case.samples[i]["partner"] = (i - 1) % 12
        case.samples[i]["lam"] = 0.3
        case.samples[i]["right"], case.samples[i]["bottom"] = 30, 20
    return case, pictures(12, size, 3, torch.uint8)


SCRIPT = """
import hashlib, torch
from test_augment_memory import _batch
case, images = _batch()
for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.uint8):
    for source, layout in ((images, "NHWC"), (images.permute(0, 3, 1, 2).contiguous(), "NCHW")):
        made = case.run(source, layout, dtype, channels_last=dtype == torch.float32)
        print(hashlib.sha256(made.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest())
"""


def test_same_bits_on_every_instruction_set():
    from test_isa import runs_here

    printed = {}
    for isa in runs_here():
        environment = dict(os.environ, ONEPASS_ISA=isa, PYTHONPATH=os.pathsep.join(sys.path))
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed[isa] = done.stdout
        lines = done.stdout.split()
        assert lines[0::2] == lines[1::2]  # NHWC and NCHW
    assert len(set(printed.values())) == 1


def test_same_bits_for_any_threads_and_batch():
    case, images = _batch()
    whole = case.run(images)
    for threads in (2, 5, 32):
        assert torch.equal(case.run(images, threads=threads), whole)
    case.samples["mixing"] = 0
    whole = case.run(images)
    for i in range(12):
        one = Case(1, case.size)
        one.samples, one.passes, one.ops, one.values = (
            case.samples[i : i + 1],
            case.passes[i : i + 1],
            case.ops[i : i + 1],
            case.values,
        )
        assert torch.equal(one.run(images[i : i + 1])[0], whole[i])


def test_any_strides():
    case, images = _batch()
    wanted = case.run(images)
    array = images.numpy()
    read_only = array.copy()
    read_only.flags.writeable = False
    wide = np.zeros((12, 61, 83, 5), np.uint8)
    wide[..., 1:4] = array
    turned = np.ascontiguousarray(array[:, ::-1, ::-1])[:, ::-1, ::-1]
    swapped = np.ascontiguousarray(array.transpose(2, 1, 3, 0)).transpose(3, 1, 0, 2)
    for given in (array, read_only, wide[..., 1:4], turned, swapped, list(array), tuple(images)):
        assert torch.equal(case.run(given), wanted)
    planar = images.permute(0, 3, 1, 2)
    for given in (planar, planar.contiguous(), list(planar), planar.contiguous().numpy()):
        assert torch.equal(case.run(given, "NCHW"), wanted)


def test_images_of_many_sizes():
    sizes = [(1, 1), (7, 90), (64, 3), (33, 32)]
    images = [pictures(1, size, 3, torch.uint8, i)[0] for i, size in enumerate(sizes)]
    case = Case(4, (20, 30))
    for i, size in enumerate(sizes):
        case.resize(i, size)
    made = case.run(images)
    np.testing.assert_allclose(made.numpy(), case.expected(images), rtol=0, atol=IMAGE_FILTER_ATOL)
