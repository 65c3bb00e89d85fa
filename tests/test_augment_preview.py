"""`onepass augment --preview`, and `onepass demo --augment`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from onepass import augment as A
from onepass.cli.augment_text import parse
from onepass.demo.augment import augmentation
from onepass.demo.data import Data, digits, mnist
from onepass.demo.train import OURS, Plan, contenders, train
from test_cli import run
from tolerance import PIXELS_ATOL

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def read_once():
    """The digits; reading them takes seconds."""
    return digits()


@pytest.fixture(autouse=True)
def few_reads(monkeypatch, read_once):
    monkeypatch.setattr("onepass.cli.augment.digits", lambda: read_once)
    monkeypatch.setattr("onepass.demo.data.digits", lambda: read_once)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for k, size in enumerate([(40, 50), (64, 30), (33, 33)]):
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_digits_are_drawn(tmp_path):
    picture = tmp_path / "new" / "grid.png"
    status, output = run("augment", "--preview", picture, "--rows", 2, "--columns", 2)
    assert (status, "Wrote" in output) == (0, True), output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_seed_and_the_epoch_decide(tmp_path):
    def drawn(name, *arguments):
        picture = tmp_path / f"{name}.png"
        assert run("augment", "--preview", picture, "--rows", 2, "--columns", 1, *arguments)[0] == 0
        return np.asarray(Image.open(picture))

    first = drawn("first")
    assert np.array_equal(first, drawn("again"))
    assert not np.array_equal(first, drawn("seed", "--seed", 1))
    # The title names the epoch; below it the images differ, too.
    assert not np.array_equal(first[60:], drawn("epoch", "--epoch", 1)[60:])


def test_photos_of_different_sizes_with_their_parameters(photos, tmp_path):
    chain = ("RandomResizedCrop(24)", "RandomHorizontalFlip(p=1.0)", "ColorJitter(0.4, hue=(0, 0.1))")
    options = [word for text in chain for word in ("--transform", text)]
    picture = tmp_path / "grid.png"
    status, output = run("augment", "--preview", picture, "--images", photos, *options, "--parameters")
    assert status == 0, output
    # Rows of the table, a column for each of the three images.
    for text in ("id 0", "id 2", "0.RandomResizedCrop.top", "1.RandomHorizontalFlip.applied", "2.ColorJitter.hue"):
        assert text in output
    assert "id 3" not in output
    with Image.open(picture) as found:
        assert found.size == (990, 360)


BAD = {
    "name": (("--transform", "RandomFog()"), "must be one of CenterCrop, ColorJitter"),
    "text": (("--transform", "15"), "must be a transform such as RandomRotation(15), got 15"),
    "syntax": (("--transform", "RandomRotation(15"), "must be a transform such as RandomRotation(15)"),
    "code": (("--transform", "RandomRotation(open('x'))"), "must be one of CenterCrop"),
    "expression": (("--transform", "RandomRotation(a.b)"), "must be numbers, words, lists or transforms, got a.b"),
    "argument": (("--transform", "RandomRotation(-1)"), "RandomRotation: degrees"),
    "values": (("--transform", "Normalize(0.5, 0.5)"), "must show pixels, got Normalize"),
    "size": (("--transform", "RandomCrop(99)"), "transform must fit the images, got: RandomCrop"),
    "channels": (("--transform", "RandomInvert(fill=3)"), "transform: "),
    "seed": (("--seed", -1), "seed"),
    "rows": (("--rows", 0), "rows"),
    "folder": (("--images", "/not/there"), "images"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_arguments_are_named(name, tmp_path):
    arguments, message = BAD[name]
    picture = tmp_path / "grid.png"
    status, output = run("augment", "--preview", picture, *arguments)
    assert status == 2
    assert message in output
    assert not picture.exists()


def test_a_folder_without_images_and_one_with_a_broken_one(tmp_path):
    picture = tmp_path / "grid.png"
    status, output = run("augment", "--preview", picture, "--images", tmp_path)
    assert status == 2
    assert "images must be a folder with images, got none in" in output
    (tmp_path / "broken.png").write_bytes(b"nothing")
    status, output = run("augment", "--preview", picture, "--images", tmp_path)
    assert status == 2
    assert "images must hold images that can be read, got" in output


@pytest.mark.parametrize("place", ["/dev/null/x.png", "grid.txt"])
def test_a_place_that_is_no_picture_is_refused_first(place, tmp_path, monkeypatch):
    monkeypatch.setattr("onepass.cli.augment._digits", lambda *_: pytest.fail("has begun to work"))
    status, output = run("augment", "--preview", tmp_path / place if "/" not in place else place)
    assert status == 2
    assert "preview must" in output


def test_texts_become_transforms():
    made = parse("RandomChoice([RandomInvert(1.0), RandomApply([RandomGrayscale()], p=0.5)], p=[1, 3])")
    assert isinstance(made, A.RandomChoice)
    assert [type(child) for child in made.transforms] == [A.RandomInvert, A.RandomApply]
    assert made.p == [0.25, 0.75]
    assert parse(" RandomRotation((-5, 5), interpolation='bilinear') ").degrees == (-5.0, 5.0)


# The demo


@pytest.fixture
def few():
    """Every tenth image: a training takes a second."""
    data = mnist()
    return Data(*(getattr(data, field.name)[::10] for field in dataclasses.fields(data)))


def test_digits_are_what_mnist_normalises(read_once):
    pixels, labels = read_once
    assert (pixels.dtype, pixels.shape) == (np.uint8, (5000, 28, 28))
    assert np.bincount(labels).tolist() == [500] * 10


def test_augmented_digits_stay_themselves(few):
    """They move by a few pixels: each is nearer to itself than to most others, and its background stays."""
    augment = augmentation(few, 0)
    images = few.train_images[:50]
    moved = augment(images, ids=torch.arange(50), epoch=0)
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
    assert moved.amin() >= images.amin() - PIXELS_ATOL
    assert torch.equal(moved[7:8], augment(images[7:8], ids=[7], epoch=0))
    assert not torch.equal(moved, augment(images, ids=torch.arange(50), epoch=1))


def test_the_demo_learns_from_augmented_images(few):
    plain, augmented = (
        train(few, Plan(3, 40, 0, CPU, augment=augment), {OURS: contenders("adamw", None)[OURS]})[OURS]
        for augment in (False, True)
    )
    assert plain.losses != augmented.losses
    assert sum(augmented.losses[-10:]) < 0.8 * sum(augmented.losses[:10])


def test_the_option_is_recorded(tmp_path, monkeypatch, few):
    monkeypatch.setattr("onepass.cli.demo.mnist", lambda: few)
    arguments = ("--epochs", 1, "--batch-size", 40, "--output", tmp_path, "--device", "cpu", "--augment")
    status, output = run("demo", *arguments)
    assert status == 0, output
    assert '"augment": true' in (tmp_path / "demo.json").read_text()
