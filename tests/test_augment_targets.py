"""Masks, boxes and keypoints go along with the images by torchvision's conventions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from augment_setup import image, torchvision
from onepass import augment as A
from tolerance import COORDINATES, SPOT_ATOL

N, SIZE = 6, (24, 26)
IDS = range(70, 70 + N)


def names(train, k, size=SIZE):
    """The parameters of sample k: place -> name -> number."""
    table = train.parameters([IDS[k]], sizes=size)
    found: dict[str, dict[str, float]] = {}
    for name, column in table.items():
        if name != "id":
            place, _, key = name.split(".")
            found.setdefault(place, {})[key] = float(column[0])
    return found


def theirs(name, value, p, t):
    """What torchvision makes of a mask, boxes or points (its own classes of tensors)."""
    f = torchvision().functional
    if name == "rotation":
        return f.rotate(value, p["angle"], expand=t.expand, fill=t.fill)
    if name == "affine":
        shear = [p["shear_x"], p["shear_y"]]
        return f.affine(value, p["angle"], [p["translate_x"], p["translate_y"]], p["scale"], shear, fill=t.fill)
    if name == "perspective":
        h, w = SIZE
        ends = [[int(p[f"x{k}"]), int(p[f"y{k}"])] for k in range(4)]
        starts = [[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]]
        return f.perspective(value, starts, ends, fill=t.fill)
    if name == "resized crop":
        box = (int(p[k]) for k in ("top", "left", "height", "width"))
        return f.resized_crop(value, *box, list(t.size), antialias=True)
    if name == "crop":
        value = f.pad(value, list(t._sides), t.fill) if any(t._sides) else value
        return f.crop(value, int(p["top"]), int(p["left"]), *t.size)
    if name == "resize":
        return f.resize(value, list(t.size))
    if name == "center crop":
        return f.center_crop(value, list(t.size))
    flip = f.horizontal_flip if name == "horizontal flip" else f.vertical_flip
    return flip(value) if p["applied"] else value


CASES = {
    "rotation": A.RandomRotation(60, "bilinear", fill=3),
    "affine": A.RandomAffine(30, (0.2, 0.3), (0.7, 1.4), 20, fill=7),
    "perspective": A.RandomPerspective(0.5, 1.0),
    "resized crop": A.RandomResizedCrop((17, 19)),
    "crop": A.RandomCrop(25, padding=4, fill=9),
    "resize": A.Resize((13, 40)),
    "center crop": A.CenterCrop((11, 12)),
    "horizontal flip": A.RandomHorizontalFlip(),
    "vertical flip": A.RandomVerticalFlip(),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_masks_are_torchvisions(name, dtype):
    tv_tensors = torchvision("torchvision.tv_tensors")
    train = A.Compose([CASES[name]], seed=0)
    masks = image(N, *SIZE, dtype=torch.uint8).to(dtype)
    _, made = train(image(N, *SIZE, 3), ids=IDS, masks=masks)
    assert made.dtype == dtype
    for k in range(N):
        wanted = theirs(name, tv_tensors.Mask(masks[k]), names(train, k).get("0", {}), CASES[name])
        other = (made[k] != wanted.as_subclass(torch.Tensor)).double().mean()
        # Their perspective is rounded to float32, so that a pixel halfway between two may go the other way.
        assert other <= (0.02 if name == "perspective" else 0), k


def some_boxes():
    torch.manual_seed(0)
    corner = torch.rand(N, 8, 2) * torch.tensor([20.0, 18.0])
    return [torch.cat([one, one + torch.rand(8, 2) * 6 + 0.5], dim=1) for one in corner]


@pytest.mark.parametrize("name", CASES)
def test_boxes_are_torchvisions(name):
    tv_tensors = torchvision("torchvision.tv_tensors")
    train = A.Compose([CASES[name]], seed=0)
    boxes = some_boxes()
    _, made = train(image(N, *SIZE, 3), ids=IDS, boxes=boxes)
    assert isinstance(made, A.Boxes)
    for k in range(N):
        given = tv_tensors.BoundingBoxes(boxes[k], format="XYXY", canvas_size=SIZE)
        wanted = theirs(name, given, names(train, k).get("0", {}), CASES[name])
        kept, flags = torchvision().functional.sanitize_bounding_boxes(wanted)
        assert made.kept[k].equal(flags)
        # float32 on their side, with coordinates up to 40.
        torch.testing.assert_close(made.boxes[k], kept.as_subclass(torch.Tensor), **COORDINATES)


@pytest.mark.parametrize("name", CASES)
def test_keypoints_are_torchvisions(name):
    tv_tensors = torchvision("torchvision.tv_tensors")
    train = A.Compose([CASES[name]], seed=0)
    points = [box.reshape(4, 4, 2) for box in some_boxes()]
    _, made = train(image(N, *SIZE, 3), ids=IDS, keypoints=points)
    assert isinstance(made, A.Keypoints)
    for k in range(N):
        given = tv_tensors.KeyPoints(points[k], canvas_size=SIZE)
        wanted = theirs(name, given, names(train, k).get("0", {}), CASES[name]).as_subclass(torch.Tensor)
        torch.testing.assert_close(made.points[k], wanted, **COORDINATES)
        assert made.inside[k].shape == (4, 4)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("size", [(20, 20), (24, 26)], ids=str)
def test_quarter_turns_move_boxes_as_torchvision_does(quarters, size):
    tv_tensors = torchvision("torchvision.tv_tensors")
    train = A.Compose([A.RandomRotation((90 * quarters, 90 * quarters), expand=True)], seed=0)
    box = torch.tensor([[2.0, 3.0, 9.0, 5.0]])
    x, made, points = train(image(1, *size, 3), boxes=[box], keypoints=[box.reshape(2, 2)])
    given = tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=size)
    wanted = torchvision().functional.rotate(given, 90.0 * quarters, expand=True)
    assert tuple(x.shape[-2:]) == wanted.canvas_size
    torch.testing.assert_close(made.boxes[0], wanted.as_subclass(torch.Tensor), **COORDINATES)
    given = tv_tensors.KeyPoints(box.reshape(2, 2), canvas_size=size)
    wanted = torchvision().functional.rotate(given, 90.0 * quarters, expand=True)
    torch.testing.assert_close(points.points[0], wanted.as_subclass(torch.Tensor), **COORDINATES)


def test_a_chain_moves_masks_with_the_image():
    """An image that is its own mask, by nearest pixels, and colors that do not touch the mask."""
    train = A.Compose(
        [A.RandomCrop(20, 3, fill=5), A.RandomHorizontalFlip(), A.RandomRotation(40, fill=5), A.RandomInvert(0.0)],
        seed=0,
        dtype=torch.uint8,
    )
    masks = image(N, *SIZE, dtype=torch.uint8)
    x, made = train(masks[..., None], ids=IDS, masks=masks)
    assert x[:, 0].equal(made)


def test_boxes_of_a_chain_follow_a_spot():
    """A bright spot stays in the middle of its box."""
    train = A.Compose(
        [A.RandomResizedCrop(40, (0.5, 0.9)), A.RandomHorizontalFlip(), A.RandomRotation(20, "bilinear")]
    )
    images = torch.zeros(N, 40, 50, 1)
    images[:, 18:23, 25:30] = 1
    x, boxes = train(images, ids=IDS, boxes=[torch.tensor([[25.0, 18.0, 30.0, 23.0]])] * N)
    y_of, x_of = torch.meshgrid(torch.arange(40.0) + 0.5, torch.arange(40.0) + 0.5, indexing="ij")
    for one, box in zip(x[:, 0], boxes.boxes, strict=True):
        middle = torch.stack([(one * x_of).sum(), (one * y_of).sum()]) / one.sum()
        torch.testing.assert_close((box[0, :2] + box[0, 2:]) / 2, middle, rtol=0, atol=SPOT_ATOL)


def test_lists_of_masks_of_different_sizes():
    sizes = [(24, 26), (30, 20)]
    images = [image(*size, 3) for size in sizes]
    masks = [image(*size, dtype=torch.uint8) for size in sizes]
    train = A.Compose([A.RandomResizedCrop(8)], seed=0)
    x, made = train(images, ids=[1, 2], masks=masks)
    for k in range(2):
        alone, mask = train(images[k : k + 1], ids=[k + 1], masks=masks[k : k + 1])
        assert made[k].equal(mask[0])
        assert x[k].equal(alone[0])


def test_empty_boxes_stay_empty():
    train = A.Compose([A.RandomRotation(20)], seed=0)
    _, boxes = train(image(2, 8, 8, 1), boxes=[torch.zeros(0, 4), torch.tensor([[1.0, 1.0, 5.0, 5.0]])])
    assert [len(one) for one in boxes.boxes] == [0, 1]
    assert boxes.kept[0].shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masks": torch.zeros(2, 8, 8)}, "Compose: masks must be integers, got torch.float32"),
        (
            {"masks": torch.zeros(2, 7, 8, dtype=int)},
            "masks[0] must have the size of its image, (8, 8), got (7, 8)",
        ),
        ({"masks": torch.zeros(1, 8, 8, dtype=int)}, "Compose: masks must have 2, one a sample, got 1"),
        ({"masks": torch.zeros(2, 8, dtype=int)}, "Compose: masks must have 3 dimensions, got shape (2, 8)"),
        ({"masks": [np.zeros((8, 8), int), np.zeros((8, 8), bool)]}, "Compose: masks must have one dtype, got "),
        ({"boxes": [torch.zeros(1, 4)]}, "Compose: boxes must have 2 tensors, one a sample, got 1"),
        ({"boxes": [torch.zeros(4)] * 2}, "Compose: boxes[0] must have shape (k, 4), got (4,)"),
        ({"keypoints": [torch.zeros(1, 3)] * 2}, "keypoints[0] must have shape (..., k, 2), got (1, 3)"),
        ({"boxes": [torch.zeros(1, 4, dtype=torch.bool)] * 2}, "boxes[0] must be real numbers, got torch.bool"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        A.Compose([A.RandomHorizontalFlip()])(image(2, 8, 8, 3), **arguments)


@pytest.mark.parametrize("what", ["masks", "boxes", "keypoints"])
def test_mixing_takes_no_targets(what):
    value = {"masks": torch.zeros(2, 8, 8, dtype=int), "boxes": [torch.zeros(1, 4)] * 2}
    value["keypoints"] = [torch.zeros(1, 2)] * 2
    with pytest.raises(ValueError, match="boxes, keypoints and masks must be None with MixUp and CutMix"):
        A.Compose([A.MixUp()])(image(2, 8, 8, 3), torch.arange(2), **{what: value[what]})


def test_masks_that_would_take_two_maps_are_refused():
    train = A.Compose([A.RandomRotation(20), A.RandomCrop(8, 2, padding_mode="reflect")], seed=0)
    with pytest.raises(
        ValueError, match="Compose: masks must be made by one map; padding_mode must be 'constant'"
    ):
        train(image(2, 8, 8, 3), masks=torch.zeros(2, 8, 8, dtype=int))
    with pytest.raises(ValueError, match="padding_mode must be 'constant' with boxes or keypoints, got 'reflect'"):
        train(image(2, 8, 8, 3), boxes=[torch.zeros(1, 4)] * 2)
    with pytest.raises(ValueError, match="Compose: fill must be one number with masks, got 3 numbers"):
        A.Compose([A.RandomRotation(20, fill=[1, 2, 3])])(image(2, 8, 8, 3), masks=torch.zeros(2, 8, 8, dtype=int))
