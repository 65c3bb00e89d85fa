"""What onepass.augment refuses by name, or takes and gets right: odd arguments, tensors, targets and workers."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from augment_setup import image
from onepass import augment as A

FLAT = image(2, 8, 9, 3)
BYTES = image(2, 8, 9, 3, dtype=torch.uint8)
CROP = [A.RandomCrop(5), A.RandomRotation(20, "bilinear")]
INTS = {"masks": torch.zeros(2, 8, 9, dtype=torch.uint8)}

TRANSFORMS = [
    (lambda: A.Resize(8, antialias="no"), TypeError, "Resize: antialias must be True or False, got 'no'"),
    (lambda: A.RandomResizedCrop(8, antialias=1), TypeError, "RandomResizedCrop: antialias must be True or False"),
    (lambda: A.RandomCrop(8, pad_if_needed="no"), TypeError, "RandomCrop: pad_if_needed must be True or False"),
    (
        lambda: A.RandomRotation(8, expand=None),
        TypeError,
        "RandomRotation: expand must be True or False, got None",
    ),
    (lambda: A.ToDtype(torch.float32, "yes"), TypeError, "ToDtype: scale must be True or False, got 'yes'"),
    (lambda: A.Compose([], train="no"), TypeError, "Compose: train must be True or False, got 'no'"),
    (
        lambda: A.Compose([], dtype=0),
        ValueError,
        "Compose: dtype must be torch.float32, bfloat16, float16 or uint8",
    ),
    (lambda: A.Resize(8, np.array(["bilinear"])), ValueError, "Resize: interpolation must be one of nearest, "),
    (lambda: A.Pad(1, 0, np.array(["edge", "edge"])), ValueError, "Pad: padding_mode must be one of constant, "),
    (lambda: A.Resize(2**40), ValueError, "Resize: size must be at most 2**24, got 1099511627776"),
    (lambda: A.Pad(2**62), ValueError, "Pad: padding must be at most 2**24, got 4611686018427387904"),
    (lambda: A.RandomInvert(10**400), ValueError, "RandomInvert: p must be finite in float32, got 1000"),
    (lambda: A.RandomRotation(1e308), ValueError, "RandomRotation: degrees must be finite in float32, got 1e+308"),
    (lambda: A.Normalize(1e39, 1), ValueError, "Normalize: mean must be finite in float32, got 1e+39"),
    (lambda: A.Normalize(0, 1e-300), ValueError, "Normalize: std must not be 0 in float32, got 1e-300"),
    (lambda: A.RandomErasing(value=np.ones(3)), TypeError, "RandomErasing: value must be a number, got array"),
    (
        lambda: A.RandomChoice(CROP, 0.5),
        TypeError,
        "RandomChoice: p must be a sequence of 2 numbers or None, got 0",
    ),
    (lambda: A.RandomChoice(CROP, {0: 1, 1: 2}), TypeError, "RandomChoice: p must be a sequence of 2 numbers"),
    (
        lambda: A.Compose([A.RandomApply([A.RandomApply([A.RandomCrop(3)])])], train=False),
        ValueError,
        "Compose: transforms must give images a size without random numbers with train=False",
    ),
    (
        lambda: A.Compose([A.RandomChoice([A.MixUp(num_classes=3), A.CutMix(num_classes=4)])]),
        ValueError,
        "Compose: num_classes must be the same in MixUp and CutMix, got [3, 4]",
    ),
    (
        lambda: A.Compose([]).parameters(None),
        TypeError,
        "Compose: ids must be a sequence of integers, got NoneType",
    ),
    (lambda: A.Compose([]).parameters([1], sizes="ab"), TypeError, "Compose: sizes must be numbers, got 'ab'"),
    (
        lambda: A.Compose([]).parameters([1], sizes=(2.5, 3)),
        ValueError,
        "Compose: sizes must be integers of at most",
    ),
    (lambda: A.Compose([]).collate(None), TypeError, "Compose: samples must be a sequence, got NoneType"),
    (lambda: A.Compose([]).collate([(BYTES[0], "a")]), TypeError, "Compose: labels must be numbers, got ['a']"),
]


@pytest.mark.parametrize(("make", "kind", "message"), TRANSFORMS, ids=[case[2][:60] for case in TRANSFORMS])
def test_arguments_are_refused(make, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        make()


BOX = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
TURN = [A.RandomRotation((30, 30))]
CALLS = [
    ([], {"images": FLAT.to("meta")}, "Compose: images must have memory, got a tensor on meta"),
    (
        [],
        {"images": np.ma.masked_array(FLAT.numpy())},
        "Compose: images must be an array without a mask of its own",
    ),
    ([], {"ids": [True, False]}, "Compose: ids must be integers, got True"),
    ([], {"ids": [np.int64(1), 1.5]}, "Compose: ids must be integers, got 1.5"),
    ([], {"ids": torch.arange(2).to_sparse()}, "Compose: ids must be dense, got layout torch.sparse_coo"),
    ([], {"labels": "ab"}, "Compose: labels must be numbers, got 'ab'"),
    ([], {"labels": [None, 1]}, "Compose: labels must be numbers, got [None, 1]"),
    ([], {"labels": torch.zeros(2, 0)}, "Compose: labels must have shape (2,) or (2, classes), got (2, 0)"),
    (
        [],
        {"labels": [torch.zeros(2), torch.zeros(3)]},
        "Compose: labels must be tensors or arrays of one shape, got",
    ),
    (
        [A.MixUp()],
        {"labels": torch.eye(2).to_sparse()},
        "Compose: labels must be dense and have memory, got layout",
    ),
    (
        [A.MixUp()],
        {"labels": torch.eye(2) * 1j},
        "Compose: labels must be integers or probabilities, got torch.com",
    ),
    (
        [A.RandomApply([A.RandomApply([A.MixUp(num_classes=3)])])],
        {"labels": torch.tensor([0, 3])},
        "Compose: labels must be at least 0 and below 3, got 0 to 3",
    ),
    (
        [],
        {"masks": torch.zeros(2, 8, 9, dtype=int, device="meta")},
        "Compose: masks must have memory, got a tensor",
    ),
    ([], {"masks": np.zeros((2, 8, 9), ">i4")}, "Compose: masks must be integers, got >i4"),
    ([A.Pad(1, 300)], INTS, "Compose: fill must be from 0 to 255 with masks of torch.uint8, got 300"),
    (
        [A.RandomRotation((45, 45), fill=-1)],
        INTS,
        "Compose: fill must be from 0 to 255 with masks of torch.uint8, g",
    ),
    ([], {"boxes": ["ab", BOX]}, "Compose: boxes[0] must be numbers, got 'ab'"),
    ([], {"boxes": [BOX, BOX * torch.nan]}, "Compose: boxes[1] must be finite, got nan"),
    (
        [],
        {"boxes": [BOX, BOX.flip(1)]},
        "Compose: boxes[1] must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got [5",
    ),
    (TURN, {"keypoints": [BOX[:, :2] / 0] * 2}, "Compose: keypoints[0] must be finite or nan, got inf"),
    (
        TURN,
        {"keypoints": [torch.zeros(1, 2, dtype=torch.uint8)] * 2},
        "Compose: boxes and keypoints must have a dtype that holds the result -1, got torch.uint8",
    ),
]


@pytest.mark.parametrize(("chain", "given", "message"), CALLS, ids=[case[2][:60] for case in CALLS])
def test_calls_are_refused_and_change_nothing(chain, given, message):
    train = A.Compose(chain, seed=0)
    size = (2, 3, 10, 11) if chain and isinstance(chain[0], A.Pad) else (2, 3, 8, 9)
    out, state = torch.full(size, 7.0), torch.get_rng_state()
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        train(**{"images": FLAT, **given}, out=out)
    assert (out == 7).all()
    assert state.equal(torch.get_rng_state())


def test_negated_views_are_read_as_they_are():
    train = A.Compose([A.RandomHorizontalFlip()], seed=0)
    assert train(torch._neg_view(FLAT), ids=[1, 2]).equal(train(-FLAT, ids=[1, 2]))
    with pytest.raises(ValueError, match="Compose: out must hold its values as they are, got a negated view"):
        train(FLAT, out=torch._neg_view(torch.zeros(2, 3, 8, 9)))


def test_a_buffer_that_overlaps_the_images_is_refused():
    memory = torch.rand(3, 3, 8, 9)
    before = memory.clone()
    for images in (memory[:2], list(memory[:2]), memory[:2].numpy()):
        with pytest.raises(ValueError, match="Compose: out must not share memory with images, got overlapping"):
            A.Compose([], layout="NCHW")(images, out=memory[1:])
    assert memory.equal(before)
    A.Compose([], layout="NCHW")(memory[:1], out=memory[1:2])
    assert memory[1].equal(memory[0])


def test_numpy_masks_of_any_strides_and_read_only_ones():
    masks = np.arange(144, dtype=np.int32).reshape(2, 8, 9)
    flipped = masks[:, ::-1]
    flipped.flags.writeable = False
    assert A.Compose([])(FLAT, masks=flipped)[1].equal(torch.from_numpy(flipped.copy()))
    both = A.Compose([])(FLAT, masks=[masks[0], torch.from_numpy(masks[1])])[1]
    assert both.equal(torch.from_numpy(masks))


def test_boxes_that_reach_out_are_cut_without_a_step_that_moves_them_out():
    boxes = [torch.tensor([[-5.0, 2.0, 4.0, 100.0], [20.0, 0.0, 30.0, 8.0]])] * 2
    _, found = A.Compose([A.RandomHorizontalFlip(0.0)], seed=0)(FLAT, boxes=boxes)
    assert found.boxes[0].tolist() == [[0.0, 2.0, 4.0, 8.0]]
    assert found.kept[0].tolist() == [True, False]


def test_collate_takes_probabilities():
    samples = [(BYTES[0], torch.tensor([1.0, 0.0]), 3), (BYTES[1], torch.tensor([0.0, 1.0]), 4)]
    assert A.Compose([]).collate(samples)[1].equal(torch.eye(2))


def test_parameters_of_a_chain_for_uint8_images():
    chain = [A.RandomSolarize(128, 1.0), A.Pad(1, 114), A.ToDtype(torch.float32)]
    assert A.Compose(chain, seed=0).parameters([1])["0.RandomSolarize.applied"] == 1


def test_very_many_bins_need_no_table():
    for policy in (A.RandAugment(2, 9, 10**12), A.TrivialAugmentWide(10**12)):
        assert A.Compose([policy], seed=0)(BYTES).isfinite().all()


def test_compiled_functions_call_it_as_it_is():
    train = A.Compose(CROP, seed=0)
    compiled = torch.compile(lambda images: train(images, ids=[1, 2]) + 1, backend="eager")
    assert compiled(FLAT).equal(train(FLAT, ids=[1, 2]) + 1)


def test_another_default_device_changes_nothing():
    torch.manual_seed(0)
    expected = A.Compose(CROP)(FLAT)
    torch.manual_seed(0)
    with torch.device("meta"):
        assert A.Compose(CROP)(FLAT).equal(expected)


SAMPLES = [(sample, 0, k) for k, sample in enumerate(image(8, 8, 9, 3))]


def pickled(train):
    return pickle.loads(pickle.dumps(train))


@pytest.mark.parametrize(
    ("how", "remake"), [("fork", None), ("fork", copy.deepcopy), ("fork", pickled), ("spawn", None)]
)
def test_persistent_workers_see_each_epoch(how, remake):
    train = A.Compose(CROP, seed=0)
    train = train if remake is None else remake(train)
    loader = DataLoader(
        SAMPLES, 4, num_workers=1, collate_fn=train.collate, persistent_workers=True, multiprocessing_context=how
    )
    for epoch in (3, 0, 4):
        train.set_epoch(epoch)
        assert train.epoch == epoch
        found = torch.cat([x for x, _ in loader])
        assert found.equal(train(torch.stack([x for x, *_ in SAMPLES]), ids=range(8), epoch=epoch))


def test_copies_have_an_epoch_of_their_own():
    train = A.Compose(CROP, seed=0)
    other = copy.deepcopy(train)
    other.set_epoch(5)
    assert (train.epoch, other.epoch) == (0, 5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_tangent_is_refused():
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(FLAT, torch.ones_like(FLAT))
        with pytest.raises(ValueError, match=r"^Compose: images must not require a gradient"):
            A.Compose([])(dual)
        A.Compose([])(FLAT)
