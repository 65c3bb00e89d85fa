"""Parameters are a function of (seed, epoch, id, place) only, and have the distributions that they should have."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from augment_setup import image
from onepass import augment as A
from onepass.augment import _philox
from reference.dropout import philox as philox_of_dropout

CHAIN = [
    A.RandomResizedCrop(20),
    A.RandomHorizontalFlip(),
    A.RandomRotation(15),
    A.RandomAffine(5, (0.1, 0.1), (0.9, 1.1), 5),
    A.RandomPerspective(),
    A.ColorJitter(0.2, 0.2, 0.2, 0.1),
    A.RandomApply([A.RandomInvert(), A.RandomSolarize(0.5)]),
    A.RandomChoice([A.RandomPosterize(3), A.RandomGrayscale()]),
    A.RandAugment(3),
    A.TrivialAugmentWide(),
    A.RandomErasing(0.5, value="random"),
    A.RandomChoice([A.MixUp(0.2), A.CutMix()]),
]
SIZES = (40, 50)


def equal(first, second):
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)


def words(counters, seed):
    """Draws the four words of each counter (k, 4): ids, the epoch and the block."""
    drawn = [
        _philox.uniform(seed, np.array([low | high << 32], np.uint64), epoch, np.array([block], np.uint64))
        for low, high, epoch, block in counters.tolist()
    ]
    return np.concatenate(drawn) * 2.0**32


def test_philox_is_the_cores():
    """The reference of dropout is held to csrc/core/philox.h by the tests of dropout."""
    numbers = np.random.default_rng(0).integers(0, 2**32, (100, 4), dtype=np.uint64)
    for seed in (0, 1, 0x123456789ABCDEF0, 2**64 - 1):
        assert np.array_equal(words(numbers, seed), philox_of_dropout(numbers.astype(np.uint32), seed))


def test_philox_has_random123s_vectors():
    """Known answers of Random123 for Philox4x32-10."""
    vectors = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, (low, high), wanted in vectors:
        assert words(np.array([counter], np.uint64), low | high << 32)[0].tolist() == list(wanted)


def test_the_counter_is_id_epoch_place_and_block():
    ids = np.array([7, 2**40 + 3], np.uint64)
    drawn = _philox.uniform(5, ids, 9, _philox.places_of([0, 6]))
    assert drawn.shape == (2, 8)
    for k, (low, high) in enumerate([(7, 0), (3, 2**8)]):
        counters = np.array([[low, high, 9, 2**16], [low, high, 9, 2**16 + 1]])
        assert np.array_equal(drawn[k], philox_of_dropout(counters.astype(np.uint32), 5).ravel() / 2**32)


def test_parameters_do_not_depend_on_the_batch():
    train = A.Compose(CHAIN, seed=3)
    ids = np.arange(50) * 7919
    whole = train.parameters(ids, 4, SIZES)
    order = np.random.default_rng(0).permutation(50)
    assert equal({k: v[order] for k, v in whole.items()}, train.parameters(ids[order], 4, SIZES))
    parts = [train.parameters(ids[k : k + 7], 4, SIZES) for k in range(0, 50, 7)]
    assert equal(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["copy", "pickle"]
)
def test_copies_draw_the_same(copied):
    train = A.Compose(CHAIN, seed=3)
    assert equal(train.parameters(range(9), 1, SIZES), copied(train).parameters(range(9), 1, SIZES))
    assert repr(copied(train)) == repr(train)


@pytest.mark.parametrize("change", ["seed", "epoch", "id", "place"])
def test_parameters_depend_on(change):
    ids = np.arange(1000)
    first = A.Compose([A.RandomRotation(15)], seed=3).parameters(ids, 4)["0.RandomRotation.angle"]
    chain = [A.RandomInvert(), A.RandomRotation(15)] if change == "place" else [A.RandomRotation(15)]
    table = A.Compose(chain, seed=4 if change == "seed" else 3).parameters(
        ids + 1000 if change == "id" else ids, 5 if change == "epoch" else 4
    )
    second = next(v for k, v in table.items() if k.endswith("angle"))
    assert (first != second).all()
    assert abs(np.corrcoef(first, second)[0, 1]) < 3.9 / math.sqrt(1000)


def test_a_parameter_that_needs_a_size_is_nan_without_one():
    table = A.Compose(CHAIN[:4], seed=3).parameters([1, 2])
    assert np.isnan(table["0.RandomResizedCrop.top"]).all()
    assert not np.isnan(table["3.RandomAffine.translate_x"]).any()  # of the 20 x 20 part


def test_tables_print():
    table = A.Compose(CHAIN[1:3], seed=3).parameters(range(30))
    lines = str(table).splitlines()
    assert lines[0].split() == list(table)
    assert lines[-1] == "... 10 more"
    assert len(lines) == 22


def test_a_sample_replays():
    """All of the result of a sample but the mix: images, split and permuted."""
    train = A.Compose(CHAIN[:-1], seed=3)
    images, ids = image(7, 24, 30, 3, dtype=torch.uint8), [5, 4, 99, 2**63, 0, 17, 1]
    whole = train(images, ids=ids, epoch=2)
    for k, number in enumerate(ids):
        assert whole[k].equal(train(images[k : k + 1], ids=[number], epoch=2)[0])
    order = [3, 1, 0, 6, 2, 5, 4]
    assert whole[order].equal(train(images[order], ids=[ids[k] for k in order], epoch=2))


def test_without_ids_torchs_generator_counts():
    train = A.Compose([A.RandomRotation(90)], seed=3)
    images = image(3, 8, 8, 1)
    torch.manual_seed(1)
    first, second = train(images), train(images)
    assert not first.equal(second)
    torch.manual_seed(1)
    assert first.equal(train(images))


def test_evaluation_draws_nothing():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    A.Compose([A.Resize((4, 4))], train=False, seed=0)(image(3, 8, 8, 1))
    assert before.equal(torch.get_rng_state())


def test_no_seed_is_drawn_once_from_torchs_generator():
    torch.manual_seed(1)
    first, second = A.Compose(CHAIN), A.Compose(CHAIN)
    assert first.seed != second.seed
    torch.manual_seed(1)
    assert A.Compose(CHAIN).seed == first.seed


# Distributions. Seeds are fixed, so that a test passes always or never; limits are those of a chance of 1e-4.

COUNT = 20_000


def drawn(transform, name, sizes=SIZES):
    table = A.Compose([transform], seed=11).parameters(range(COUNT), 1, sizes)
    return table[f"0.{type(transform).__name__}.{name}"]


def is_uniform(numbers, low, high):
    """Kolmogorov and Smirnov's test."""
    placed = np.sort((numbers - low) / (high - low))
    assert placed[0] >= 0
    assert placed[-1] <= 1
    steps = np.arange(1, len(placed) + 1) / len(placed)
    return max((steps - placed).max(), (placed - steps + 1 / len(placed)).max()) < 2.23 / math.sqrt(len(placed))


def is_even(numbers, values):
    """Pearson's test; the limit is Wilson and Hilferty's."""
    counts = np.array([(numbers == value).sum() for value in values])
    assert counts.sum() == len(numbers)
    wanted = len(numbers) / len(values)
    k = len(values) - 1
    return ((counts - wanted) ** 2 / wanted).sum() < k * (1 - 2 / (9 * k) + 3.72 * math.sqrt(2 / (9 * k))) ** 3


def test_uniform_parameters():
    assert is_uniform(drawn(A.RandomRotation((-20, 70)), "angle"), -20, 70)
    assert is_uniform(drawn(A.RandomAffine(9, scale=(0.5, 2)), "scale"), 0.5, 2)
    assert is_uniform(drawn(A.ColorJitter(0.5), "brightness"), 0.5, 1.5)
    assert is_uniform(drawn(A.ColorJitter(hue=0.25), "hue"), -0.25, 0.25)
    assert not is_uniform(drawn(A.RandomRotation((-20, 70)), "angle"), -20, 72)


def test_even_parameters():
    assert is_even(drawn(A.RandomCrop(32, 4), "top"), range(40 + 8 - 32 + 1))
    assert is_even(drawn(A.RandomCrop(32, 4), "left"), range(50 + 8 - 32 + 1))
    assert is_even(drawn(A.ColorJitter(0.5), "order"), range(24))
    assert is_even(drawn(A.RandAugment(), "operation1"), range(14))
    assert is_even(drawn(A.TrivialAugmentWide(), "operation"), range(14))
    assert is_even(drawn(A.RandomChoice([A.RandomInvert()] * 5), "choice"), range(5))
    assert is_even(drawn(A.RandomPerspective(0.5, 1.0), "x1"), range(50 - 13, 50))
    assert not is_even(np.minimum(drawn(A.ColorJitter(0.5), "order"), 22), range(24))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_probabilities(p):
    for transform in (A.RandomHorizontalFlip(p), A.RandomErasing(p, scale=(0.02, 0.1)), A.RandomGrayscale(p)):
        share = drawn(transform, "applied").mean()
        assert abs(share - p) <= 3.9 * math.sqrt(p * (1 - p) / COUNT)
    assert abs((drawn(A.RandomChoice([A.RandomInvert()] * 2, [p, 1]), "choice") == 0).mean() - p / (1 + p)) < 0.014


def test_area_and_ratio_of_crops():
    """Where every box fits, the area is uniform and the ratio log-uniform, up to whole pixels."""
    crop = A.RandomResizedCrop(8, (0.1, 0.4), (0.5, 2))
    height, width = drawn(crop, "height", (2000, 2000)), drawn(crop, "width", (2000, 2000))
    assert is_uniform(np.clip(height * width / 4e6, 0.1, 0.4), 0.1, 0.4)
    assert is_uniform(np.clip(np.log(width / height), -math.log(2), math.log(2)), -math.log(2), math.log(2))


def test_crops_stay_within():
    for sizes in ((3, 40), (40, 3), (1, 1), (7, 9)):
        crop = A.RandomResizedCrop(8)
        top, left, height, width = (drawn(crop, name, sizes) for name in ("top", "left", "height", "width"))
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (height >= 1).all()
        assert (width >= 1).all()
        assert (top + height <= sizes[0]).all()
        assert (left + width <= sizes[1]).all()


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_lam_is_beta(alpha):
    lam = drawn(A.MixUp(alpha), "lam")
    assert ((lam >= 0) & (lam <= 1)).all()
    # Mean 1 / 2 and variance 1 / (4 (2 alpha + 1)), by the central limit theorem.
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(lam.mean() - 0.5) < 3.9 * math.sqrt(variance / COUNT)
    assert abs(lam.var() / variance - 1) < 0.06
    torch.manual_seed(0)
    half = torch.tensor(alpha).double()
    other = torch.distributions.Beta(half, half).sample((COUNT,)).numpy()
    # Kolmogorov and Smirnov's test of two samples, away from 0 and 1, where both are rounded.
    places = np.linspace(0.01, 0.99, 99)
    ours, theirs = ((one[:, None] <= places).mean(0) for one in (lam, other))
    assert np.abs(ours - theirs).max() < 2.23 * math.sqrt(2 / COUNT)


def test_noise_keys_differ_between_samples():
    table = A.Compose([A.RandomErasing(1.0, value="random")], seed=0)
    u = table._chain.draw(0, np.arange(100).astype(np.uint64), 0)
    assert len({tuple(row[-2:]) for row in u[:, :25]}) == 100
