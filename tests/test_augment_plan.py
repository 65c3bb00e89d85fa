"""The core's plan of a batch has the records of the one in numpy (reference/augment_plan.py), for any chain."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from augment_setup import structured
from onepass import _native
from onepass import augment as A
from onepass.augment._plan import new_plan
from onepass.augment._records import OPS
from reference.augment_plan import Plan

FILTERS = ("nearest", "nearest-exact", "bilinear", "bicubic")


def geometric(r: random.Random):
    """Draws a transform that moves pixels, or a list of them that share a number."""
    side, pair = r.randint(3, 30), (r.randint(3, 30), r.randint(3, 30))
    way = {"interpolation": r.choice(["nearest", "bilinear"]), "fill": r.choice([0, None, 7.5, [1.0, 2.0, 3.0]])}
    return r.choice(
        [
            A.Resize(r.choice([pair, side]), r.choice(FILTERS), antialias=r.choice([True, False])),
            A.CenterCrop(pair),
            A.Pad((1, 2, 3, 0), r.choice([0, [1.0, 2.0, 3.0]])),
            A.Pad(2, 0, r.choice(["edge", "reflect", "symmetric"])),
            A.RandomCrop(pair, r.choice([None, 2, (1, 4)]), True, 7.5),
            A.RandomCrop(3, 4, padding_mode=r.choice(["constant", "edge"])),
            A.RandomResizedCrop(
                pair, (0.2, 1.0), interpolation=r.choice(FILTERS), antialias=r.choice([True, False])
            ),
            A.RandomHorizontalFlip(),
            A.RandomVerticalFlip(),
            A.RandomRotation(
                r.choice([15, 180, (90, 90), (180, 180), (-90, -90)]), expand=r.random() < 0.3, **way
            ),
            A.RandomRotation(15, center=(3.0, 4.5), **way),
            A.RandomAffine(r.choice([0, 10]), (0.1, 0.2), r.choice([None, (0.8, 1.2)]), (0, 5, -3, 3), **way),
            A.RandomPerspective(0.3, 0.6, **way),
        ]
    )


def pointwise(r: random.Random):
    """Draws a transform of values, a policy, or a box."""
    return r.choice(
        [
            A.ColorJitter(0.2, r.choice([None, 0.3]), 0.2, 0.1),
            A.RandomGrayscale(0.4),
            A.RandomSolarize(0.5),
            A.RandomPosterize(r.randint(2, 8)),
            A.RandomErasing(0.7, value=r.choice([0, "random", [0.5, 0.25, 0.125]])),
            A.RandAugment(3, interpolation=r.choice(["nearest", "bilinear"])),
            A.TrivialAugmentWide(fill=1.0),
        ]
    )


def drawn_chain(r: random.Random):
    def one():
        return geometric(r) if r.random() < 0.7 else pointwise(r)

    chain = [one() for _ in range(r.randint(0, 4))]
    if r.random() < 0.3:
        chain.append(r.choice([A.RandomApply([one(), one()], 0.6), A.RandomChoice([one(), one()])]))
    if r.random() < 0.6:
        chain.insert(r.randint(0, len(chain)), A.Normalize([0.1, 0.2, 0.3], 0.5))
    if r.random() < 0.3:
        chain.append(r.choice([A.MixUp(0.2), A.CutMix(), A.RandomChoice([A.MixUp(), A.CutMix()])]))
    return chain


# Maps in float64 by two programs: on some machines numpy's products of maps are not fused, and roundings of large
# entries are left where they cancel.
PLANNED_MAPS = {"rtol": 1e-12, "atol": 1e-10}


def planned(make, chain, heights, widths, masks):
    """Returns what both plans of a chain say of it: the records, or the error."""
    train = A.Compose(chain, seed=5)
    n = len(heights)
    plan, other = make(n, heights, widths, 3, 255.0), make(n, heights, widths, 1, 1.0, True)
    plans = [plan, other] if masks else [plan]
    try:
        train._chain.plan(train._chain.draw(5, np.arange(n).astype(np.uint64), 3), plans)
    except ValueError as error:
        return str(error)
    return [(np.array(one.height), np.array(one.width), one.records()) for one in plans]


def same(ours, theirs):
    """Compares records; the sign of a zero in a map counts for nothing."""
    for (height, width, mine), (other_height, other_width, records) in zip(ours, theirs, strict=True):
        assert np.array_equal(height, other_height)
        assert np.array_equal(width, other_width)
        for one, other in zip(structured(mine), records, strict=True):
            assert one.shape == other.shape
            for name in one.dtype.names or ():
                if name in ("map", "a"):
                    np.testing.assert_allclose(one[name], other[name], **PLANNED_MAPS)
                else:
                    assert np.array_equal(one[name], other[name]), name
            assert one.dtype.names or np.array_equal(one, other)


@pytest.mark.parametrize("masks", [False, True], ids=["images", "masks"])
@pytest.mark.parametrize("alike", [True, False], ids=["batch", "list"])
def test_records_are_those_of_the_plan_in_numpy(alike, masks):
    passes, errors = set(), 0
    for seed in range(150):
        r = random.Random(seed)
        chain = drawn_chain(r)
        heights, widths = np.array([[float(r.randint(9, 40)) for _ in range(6)] for _ in range(2)])
        if alike:
            heights[:], widths[:] = heights[0], r.choice([heights[0], widths[0]])
        ours = planned(new_plan, chain, heights, widths, masks)
        theirs = planned(lambda n, *rest: Plan(*rest), chain, heights, widths, masks)
        if isinstance(theirs, str):
            assert ours == theirs, chain
            errors += 1
        else:
            same(ours, theirs)
            passes.add(ours[0][2][1].shape[1])
    assert {1, 2, 3} <= passes
    assert errors < 75


def test_all_samples_of_one_size_are_a_number():
    records = [new_plan(3, *sizes, 3).records() for sizes in ((7.0, 9.0), (np.full(3, 7.0), np.full(3, 9.0)))]
    assert all(np.array_equal(one, other) for one, other in zip(*records, strict=True))


def test_strides_and_dtypes_of_numbers():
    """Numbers come as they are: every second one, of another dtype, one for all."""
    plans = [new_plan(3, 7.0, 9.0, 3) for _ in range(3)]
    plans[0].crop(np.array([1.0, 2.0, 0.0]), np.array([1.0, 0.0, 2.0]), 4.0, 5.0)
    plans[1].crop(np.array([1.0, 9.0, 2.0, 9.0, 0.0])[::2], np.array([1, 0, 2], np.int8), 4, np.float32(5))
    packed = np.zeros(3, [("pad", "i1"), ("top", "f8")])
    packed["top"] = 1.0, 2.0, 0.0
    plans[2].crop(packed["top"], np.array([1.0, 0.0, 2.0])[::1], np.full(3, 4.0), np.array(5.0))
    for plan in plans[1:]:
        assert np.array_equal(plan.records()[1], plans[0].records()[1])


def test_records_outlive_the_plan():
    plan = new_plan(64, 7.0, 9.0, 3)
    plan.op(OPS["normalize"], values=(0.5, 0.25))
    records = plan.records()
    kept = [one.copy() for one in records]
    del plan
    junk = [np.full(9000, 7.0) for _ in range(50)]
    assert all(np.array_equal(one, other) for one, other in zip(records, kept, strict=True))
    assert len(junk) == 50


def test_draws_are_numpys():
    u = np.random.default_rng(0).random((50, 6))
    u[0], sizes = 0.0, np.arange(50.0) + 20
    core = _native.core
    assert np.array_equal(core.augment_between(u[:, 2], -3.5, 9.25), -3.5 + 12.75 * u[:, 2])
    assert np.array_equal(core.augment_places(u[:, 1], sizes, 17), np.floor(u[:, 1] * (sizes - 17 + 1)))
    assert np.array_equal(core.augment_applied(u[:, 0], 0.3), (u[:, 0] < 0.3).astype(float))
    applied, on = (u[:, 3] < 0.5).astype(float), u[:, 4] < 0.5
    assert np.array_equal(core.augment_chosen(applied, None), applied != 0)
    assert np.array_equal(core.augment_chosen(applied, on), (applied != 0) & on)


@pytest.mark.parametrize("on", [None, np.arange(9) % 2 == 0], ids=["all", "some"])
@pytest.mark.parametrize("resized", [True, False])
def test_turns_are_multiples_of_90_degrees(resized, on):
    angles = np.array([0.0, 90.0, -90.0, 180.0, 270.0, 45.0, 720.0, np.nextafter(90, 0), -360.0])
    high, wide = np.full(9, 5.0), np.array([5.0, 5.0, 6.0, 6.0, 5.0, 5.0, 6.0, 5.0, 5.0])
    clockwise, exact, rest = _native.core.augment_turns(angles, high, wide, resized, on)
    rows = np.ones(9, bool) if on is None else on
    turned = angles % 360
    wanted = rows & ((turned % 180 == 0) | ((turned % 90 == 0) & (resized | (high == wide))))
    assert np.array_equal(clockwise, -turned)
    assert np.array_equal(exact, wanted)
    assert np.array_equal(rest, rows & ~wanted)
    assert _native.core.augment_turns(angles + 1, high, wide, resized, on)[1:] == (None, on)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_ids_are_words(dtype):
    ids = torch.tensor([5, 0, 127, 9, 3], dtype=dtype)
    for given in (ids, ids[::2], ids.numpy(), ids.numpy()[::-2]):
        made = _native.core.augment_ids(given)
        assert made.dtype == np.uint64
        assert made.tolist() == list(map(int, given))
    assert _native.core.augment_ids(ids[None]) is None
    assert _native.core.augment_ids(np.array([2**64 - 1], np.uint64)).tolist() == [2**64 - 1]
