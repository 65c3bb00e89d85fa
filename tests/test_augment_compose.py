"""Chains: where passes begin, what the order means, and that one resampling is closer to the truth than two."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from augment_setup import exact, image, torchvision
from augment_torchvision import chain
from onepass import augment as A
from onepass.augment._plan import new_plan
from tolerance import FLOAT64, IMAGE_FILTER_ATOL, IMAGE_PERSPECTIVE_ATOL

N = 5
IDS = range(40, 40 + N)

# Chains that interpolate once in each pass, so that they give the very values of torchvision's chain: list of
# transforms, and the number of passes that they take.
EQUAL = {
    "crop, flip, normalize": ([A.RandomCrop(20, 2), A.RandomHorizontalFlip(), A.Normalize(0.5, 0.25)], 1),
    "crop, rotation": ([A.RandomCrop(20), A.RandomRotation(30, "bilinear")], 1),
    "padding, crop, rotation": ([A.RandomCrop(24, 2, fill=0.5), A.RandomRotation(30, "bilinear", fill=0.25)], 1),
    "reflection, rotation": ([A.Pad(5, 0, "reflect"), A.RandomRotation(30)], 1),
    "reflection, bilinear": ([A.RandomCrop(24, 3, padding_mode="reflect"), A.RandomRotation(30, "bilinear")], 2),
    "reflection twice": ([A.Pad(3, 0, "reflect"), A.Pad(4, 0, "symmetric")], 2),
    "edge, resize": ([A.Pad(3, padding_mode="edge"), A.Resize((13, 12))], 2),
    "edge, rotation": ([A.RandomCrop(24, 3, padding_mode="edge"), A.RandomRotation(30, "bilinear")], 2),
    "edge, enlarging": ([A.Pad(3, padding_mode="edge"), A.Resize((40, 43))], 2),
    "padding, edge": ([A.Pad(3, 0.5), A.Pad(2, padding_mode="edge")], 2),
    "flip, rotation, flip": (
        [A.RandomVerticalFlip(), A.RandomRotation(30, "bilinear", fill=0.5), A.RandomHorizontalFlip()],
        1,
    ),
    "quarter, crop": ([A.RandomRotation((90, 90)), A.RandomCrop(13), A.RandomRotation((-90, -90))], 1),
    "resize, crop": ([A.Resize(17), A.CenterCrop(16), A.RandomHorizontalFlip()], 1),
    "flips, resize, flip": ([A.RandomHorizontalFlip(), A.Resize((13, 12)), A.RandomVerticalFlip()], 1),
    "quarter, resize": ([A.RandomRotation((90, 90)), A.Resize((13, 12))], 2),
    "resize, quarter": ([A.Resize((13, 13)), A.RandomRotation((90, 90))], 2),
    "resize, rotation": ([A.Resize((13, 12)), A.RandomRotation(30, "bilinear")], 2),
    "rotation, resize": ([A.RandomRotation(30, "bilinear"), A.Resize((13, 12))], 2),
    "resize, padding": ([A.Resize((13, 12)), A.Pad(2, 0.5)], 2),
    "padding, enlarging": ([A.Pad(2, 0.5), A.Resize((40, 43))], 1),
    "padding, crop, enlarging": ([A.RandomCrop(24, 2, fill=0.5), A.Resize((40, 43))], 1),
    "small center, enlarging": ([A.CenterCrop((30, 20)), A.Resize((40, 43))], 1),
    "resize twice": ([A.Resize((13, 12)), A.Resize((10, 9), "bicubic")], 2),
    "padding, resize": ([A.Pad(2, 0.5), A.Resize((13, 12))], 2),
    "contrast, crop": ([A.ColorJitter(contrast=0.9), A.CenterCrop(9)], 2),
    "contrast, flip": ([A.ColorJitter(contrast=0.9), A.RandomHorizontalFlip()], 1),
    "crop, contrast": ([A.CenterCrop(9), A.ColorJitter(contrast=0.9)], 1),
    "contrast, padding": ([A.ColorJitter(contrast=0.9), A.Pad(2, 0.5)], 2),
    "posterize, rotation": ([A.RandomPosterize(2, 1.0), A.RandomRotation(30, "bilinear")], 2),
    "posterize, nearest": ([A.RandomPosterize(2, 1.0), A.RandomRotation(30, fill=0.5)], 1),
    "normalize, rotation": ([A.Normalize(0.5, 0.25), A.RandomRotation(30, "bilinear", fill=0.5)], 1),
    "rotation, normalize": ([A.RandomRotation(30, "bilinear", fill=0.5), A.Normalize(0.5, 0.25)], 1),
    "solarize, resize": ([A.RandomSolarize(0.5), A.Resize((13, 12))], 2),
    "erasing, flip": ([A.RandomErasing(1.0, value=[0.5, 0.25, 1.0]), A.RandomHorizontalFlip(1.0)], 2),
    "erasing, crop": ([A.RandomErasing(1.0, value=[0.5, 0.25, 1.0]), A.CenterCrop(13)], 2),
    "invert, erasing": ([A.RandomInvert(), A.RandomErasing(1.0, value=[0.5, 0.25, 1.0])], 1),
    "gray, perspective": ([A.RandomGrayscale(0.5), A.RandomPerspective(0.5, 1.0, fill=0.5)], 1),
    "nearest, flip": ([A.Resize((40, 31), "nearest"), A.RandomHorizontalFlip(), A.RandomCrop(9)], 1),
}


@pytest.mark.parametrize("name", EQUAL)
def test_chain_is_torchvisions(name):
    torchvision()
    transforms, passes = EQUAL[name]
    train = A.Compose(transforms, seed=1, layout="NCHW")
    images = image(N, 3, 24, 26)
    ours, theirs = exact(train, images, ids=IDS), chain(train, images.double(), IDS)
    # torchvision's perspective has float32 coefficients; the rest is float64, but for scales of resize.
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=IMAGE_PERSPECTIVE_ATOL if "perspective" in name else IMAGE_FILTER_ATOL
    )
    assert passes_of(train, 24, 26) == passes


def passes_of(train, height, width):
    plan = new_plan(N, float(height), float(width), 3)
    with np.errstate(all="raise"):
        train._chain.plan(train._chain.draw(train.seed, np.arange(40, 40 + N).astype(np.uint64), 0), [plan])
    return plan.records()[1].shape[1]


def wave(x, y):
    """A smooth image, whose value is known everywhere."""
    return torch.stack(
        [(0.21 * x + 0.13 * y).sin(), (0.17 * x - 0.24 * y).cos(), (0.3 * x).sin() * (0.2 * y).cos()]
    )


RESAMPLED = {
    "crop, rotation": [A.RandomResizedCrop(64, scale=(0.3, 0.9)), A.RandomRotation(20, "bilinear")],
    "rotation, affine": [
        A.RandomRotation(20, "bilinear"),
        A.RandomAffine(20, (0.1, 0.1), (0.9, 1.3), 9, "bilinear"),
    ],
    "affine, perspective, rotation": [
        A.RandomAffine(10, scale=(1.1, 1.3), interpolation="bilinear"),
        A.RandomPerspective(0.2, 1.0),
        A.RandomHorizontalFlip(),
        A.RandomRotation(10, "bilinear"),
    ],
    "rotation, enlarging": [A.RandomRotation(20, "bilinear"), A.Resize(90)],
}


@pytest.mark.parametrize("name", RESAMPLED)
def test_one_resampling_is_closer_than_a_chain(name):
    """The exact positions come from torchvision's own chain: images of the coordinates it samples exactly.

    At the edges of intermediate images it does not, as it goes on with the last pixel; these do not count.
    """
    torchvision()
    train = A.Compose(RESAMPLED[name], seed=2, layout="NCHW")
    y, x = torch.meshgrid(torch.arange(60.0).double(), torch.arange(64.0).double(), indexing="ij")
    places, ours_placed = both(train, torch.stack([x, y, 1 + 0 * x]).expand(N, 3, 60, 64))
    theirs, ours = both(train, wave(x, y).expand(N, 3, 60, 64))
    counted = (places[:, 2] > 1 - 1e-9) & ((places - ours_placed).abs().amax(1) < 1e-3)
    assert counted.double().mean() > 0.3
    truth = torch.stack([wave(*place[:2]) for place in places])
    mine, chained = ((one - truth).abs().movedim(1, -1)[counted] for one in (ours, theirs))
    assert mine.square().mean() < 0.7 * chained.square().mean()
    assert mine.max() < chained.max()


def both(train, images):
    """What torchvision's chain makes of images, and what one pass does."""
    return chain(train, images, IDS), exact(train, images.float(), ids=IDS)


def test_one_resampling_of_a_batch_takes_one_pass():
    train = A.Compose(RESAMPLED["affine, perspective, rotation"], seed=0)
    assert passes_of(train, 60, 64) == 1


def test_fills_are_in_the_units_of_their_place():
    images = torch.full((1, 1, 4, 4), 102, dtype=torch.uint8)
    normalize, to_float = A.Normalize(0.5, 0.25), A.ToDtype(torch.float32, scale=True)
    for transforms, border in (
        ([A.Pad(1, 51), normalize], (0.2 - 0.5) / 0.25),
        ([normalize, A.Pad(1, 51)], 51),
        ([to_float, A.Pad(1, 0.5), normalize], 0),
        ([to_float, normalize, A.Pad(1, -2)], -2),
    ):
        made = exact(A.Compose(transforms, layout="NCHW"), images)
        wanted = torch.full((1, 1, 6, 6), border, dtype=torch.float64)
        wanted[..., 1:-1, 1:-1] = (0.4 - 0.5) / 0.25
        torch.testing.assert_close(made, wanted, **FLOAT64)


def test_evaluation_leaves_out_what_is_random():
    chain_ = [A.Resize(20), A.CenterCrop(16), A.RandomHorizontalFlip(1.0), A.Normalize(0.5, 0.5), A.MixUp()]
    images = image(N, 3, 24, 26)
    made = exact(A.Compose(chain_, train=False, layout="NCHW"), images)
    wanted = exact(A.Compose([*chain_[:2], chain_[3]], layout="NCHW"), images)
    assert made.equal(wanted)
    with pytest.raises(
        ValueError, match=r"^Compose: transforms must give images a size .* RandomCrop\(size=\(8, 8\)"
    ):
        A.Compose([A.RandomCrop(8)], train=False)


def test_choices_apply_to_samples():
    train = A.Compose(
        [
            A.RandomChoice([A.RandomInvert(1.0), A.RandomSolarize(0.5, 1.0)]),
            A.RandomApply([A.RandomCrop(24)], 0.5),
        ],
        seed=0,
        layout="NCHW",
    )
    images = image(40, 1, 24, 24)
    made = exact(train, images, ids=range(40))
    table = train.parameters(range(40), sizes=(24, 24))
    choice = table["0.RandomChoice.choice"]
    assert {0, 1} == set(choice)
    values = images.double()
    wanted = torch.where(torch.tensor(choice == 0)[:, None, None, None] | (values >= 0.5), 1 - values, values)
    torch.testing.assert_close(made, wanted, **FLOAT64)
    assert np.isnan(table["1.0.RandomCrop.top"]).sum() == (table["1.RandomApply.applied"] == 0).sum() > 0
    assert np.isnan(table["0.0.RandomInvert.applied"]).sum() == (choice == 1).sum()


def test_samples_may_take_different_numbers_of_passes():
    """Reducing samples filter in a pass of their own; enlarging ones fuse."""
    train = A.Compose([A.RandomResizedCrop(16), A.RandomRotation(30, "bilinear")], seed=0, layout="NCHW")
    images = image(30, 3, 24, 26)
    made = exact(train, images, ids=range(30))
    one_by_one = torch.cat([exact(train, images[k : k + 1], ids=[k]) for k in range(30)])
    assert made.equal(one_by_one)
    sizes = train.parameters(range(30), sizes=(24, 26))
    reduces = (sizes["0.RandomResizedCrop.height"] > 16) | (sizes["0.RandomResizedCrop.width"] > 16)
    assert 0 < reduces.sum() < 30
