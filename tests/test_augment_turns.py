"""Rotations that go from bytes to the output in registers: the bits of the usual way, on every instruction set."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from augment_records import Case, pictures, rotation

MEAN_STD = [0.485, 0.456, 0.406, 0.229, 0.224, 0.225]
DTYPES = (torch.float32, torch.bfloat16)
# Sampled values in float32 next to float64, after a division by a quarter: values and errors of positions are four
# times as large.
TURNED_ATOL = 3e-5


def turned(size, output, seed, *, normalises=True, erases=False, n=3) -> Case:
    """Samples that are turned, padded and blended, as random crops and rotations make them."""
    draws = np.random.default_rng(seed)
    case = Case(n, output, ops=5)
    for i in range(n):
        map = rotation(float(draws.uniform(-40, 40)), size, output, float(draws.uniform(0.6, 1.6)))
        case.gather(i, size, map)
        for _ in range(int(draws.integers(0, 3))):
            moved = [*map[:2], map[2] + draws.uniform(-3, 3), *map[3:5], map[5] + draws.uniform(-3, 3), 0, 0, 1]
            power = int(draws.integers(0, 3))
            fill = draws.uniform(0, 1, 3) * draws.integers(0, 2)
            case.op(i, "blend", [*moved, size[1], size[0], power, 1], list(fill))
        if normalises:
            case.op(i, "normalize", values=MEAN_STD)
        if erases:
            case.op(i, "erase", [1, 2, output[1] // 2, output[0] // 2, 0], [0.5, 0.25, 0])
    return case


def assert_usual_bits(case: Case, images: torch.Tensor) -> None:
    """Images in planes take the usual way; so do those of the reference."""
    planes = images.permute(0, 3, 1, 2).contiguous()
    np.testing.assert_allclose(case.run(images).double().numpy(), case.expected(images), rtol=0, atol=TURNED_ATOL)
    for dtype in DTYPES:
        for channels_last in (False, True):
            made = case.run(images, "NHWC", dtype, channels_last)
            assert torch.equal(made, case.run(planes, "NCHW", dtype, channels_last))


@pytest.mark.parametrize("erases", [False, True])
@pytest.mark.parametrize("normalises", [False, True])
def test_turns_have_the_bits_of_the_usual_way(normalises, erases):
    draws = np.random.default_rng(0)
    for seed in range(25):
        size, output = draws.integers(1, 90, 2), draws.integers(1, 90, 2)
        size, output = tuple(map(int, size)), tuple(map(int, output))
        case = turned(size, output, seed, normalises=normalises, erases=erases)
        assert_usual_bits(case, pictures(3, size, 3, torch.uint8, seed))


@pytest.mark.parametrize("width", [224, 216])
def test_large_turns_have_the_bits_of_the_usual_way(width):
    """They are stored past the caches, as lines or by way of a buffer."""
    case = turned((150, 170), (224, width), 1, n=16)
    assert_usual_bits(case, pictures(16, (150, 170), 3, torch.uint8))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("border", ["edge", "reflect"])
def test_turns_of_resized_pixels_have_the_bits_of_planes(border, channels):
    """What a resize leaves for the next pass is kept pixel by pixel where its input was."""
    draws = np.random.default_rng(channels)
    for seed in range(12):
        size, between, output = (tuple(map(int, draws.integers(1, 70, 2))) for _ in range(3))
        case = Case(2, output, passes=2)
        for i in range(2):
            case.resize(i, size, output=between)
            turn = rotation(float(draws.uniform(-180, 180)), between, output, 0.9)
            case.gather(i, between, turn, "bilinear" if i == 0 else "nearest", border, p=1)
            case.op(i, "normalize", values=[0.5] * channels + [0.25] * channels, p=1)
        for dtype in (torch.uint8, torch.float32):
            images = pictures(2, size, channels, dtype, seed)
            made = case.run(images)
            assert torch.equal(made, case.run(images.permute(0, 3, 1, 2).contiguous(), "NCHW"))
            np.testing.assert_allclose(
                made.double().numpy()[:1], case.expected(images)[:1], rtol=0, atol=TURNED_ATOL
            )


@pytest.mark.parametrize("std", [0.0, -1.0, 1e-30, float(np.float32(2) - np.float32(2) ** -23)])
@pytest.mark.parametrize("mean", [0.0, 1e-10, 1e30])
def test_terms_without_a_safe_product_are_divided(mean, std):
    case = Case(1, (20, 33))
    case.gather(0, (20, 33), rotation(11, (20, 33), (20, 33)))
    case.op(0, "normalize", values=[mean] * 3 + [std] * 3)
    images = pictures(1, (20, 33), 3, torch.uint8)
    planes = case.run(images.permute(0, 3, 1, 2).contiguous(), "NCHW")
    torch.testing.assert_close(case.run(images), planes, rtol=0, atol=0, equal_nan=True)


def hashes() -> str:
    found = hashlib.sha256()
    for seed in range(4):
        case = turned((61, 83), (48, 70), seed)
        for dtype in DTYPES:
            made = case.run(pictures(3, (61, 83), 3, torch.uint8), "NHWC", dtype)
            found.update(made.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def test_same_bits_on_every_instruction_set():
    from test_isa import runs_here

    printed = set()
    for isa in runs_here():
        environment = dict(os.environ, ONEPASS_ISA=isa, PYTHONPATH=os.pathsep.join(sys.path))
        script = "import test_augment_turns as t; print(t.hashes())"
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.add(done.stdout)
    assert len(printed) == 1
