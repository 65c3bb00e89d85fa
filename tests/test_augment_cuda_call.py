"""Calls of onepass.augment on a GPU: the bits of the CPU, also of masks, and a graph of launches."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch

from augment_setup import image
from conftest import Backend
from onepass import _native
from onepass import augment as A
from onepass.augment import _images

on_gpu = pytest.mark.parametrize("backend", ["simt", "cuda"], indirect=True)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (20, 24)
CHAINS = {
    "crop": lambda: [A.RandomCrop(SIZE, padding=4), A.RandomHorizontalFlip(), A.Normalize(MEAN, STD)],
    "photos": lambda: [
        A.RandomResizedCrop(SIZE),
        A.RandomHorizontalFlip(),
        A.RandomRotation(15, "bilinear"),
        A.ColorJitter(0.2, 0.2, 0.2, 0.1),
        A.Normalize(MEAN, STD),
        A.RandomErasing(0.7, value="random"),
        A.MixUp(0.4),
    ],
    "policy": lambda: [A.Resize(SIZE, antialias=True), A.RandAugment(num_ops=3), A.CutMix()],
    "wide": lambda: [A.Resize(SIZE), A.TrivialAugmentWide(), A.Pad(2, padding_mode="reflect"), A.CenterCrop(SIZE)],
}


def on_cpu(monkeypatch, call):
    """Calls with the CPU's kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(_native, "core", importlib.import_module("onepass._core"))
        return call()


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
@pytest.mark.parametrize("chain", CHAINS)
def test_a_call_has_the_bits_of_the_cpu(backend: Backend, monkeypatch, chain, dtype):
    train = A.Compose(CHAINS[chain](), seed=5, dtype=dtype, memory_format=torch.channels_last)
    labels, ids = torch.arange(12), torch.arange(40, 52)
    given = [image(30, 20 + k, 3, dtype=torch.uint8, seed=k) for k in range(12)]
    if chain != "photos":
        given = torch.stack([one[:, :20] for one in given])

    def call(device):
        moved = [one.to(device) for one in given] if isinstance(given, list) else given.to(device)
        return train(moved, labels.to(device), ids=ids, epoch=3)

    expected, target = on_cpu(monkeypatch, lambda: call(torch.device("cpu")))
    made, got = call(backend.device)
    assert made.device.type == backend.device.type
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert made.cpu().equal(expected)
    for one, other in zip(got, target, strict=True) if isinstance(target, tuple) else [(got, target)]:
        assert one.device.type == backend.device.type
        assert one.cpu().equal(other)


@on_gpu
def test_masks_and_out_have_the_bits_of_the_cpu(backend: Backend, monkeypatch):
    train = A.Compose([A.RandomCrop((14, 17)), A.RandomAffine(30, (0.1, 0.2), (0.8, 1.3), 10)], seed=2)
    images, masks = image(5, 21, 19, 3, dtype=torch.uint8), torch.randint(0, 99, (5, 21, 19), dtype=torch.int32)

    def call(device):
        out = torch.full((5, 3, 14, 17), 7.0, device=device)
        made, moved = train(images.to(device), masks=masks.to(device), ids=range(5), out=out)
        assert made is out
        return made.cpu(), moved.cpu()

    for one, other in zip(
        call(backend.device), on_cpu(monkeypatch, lambda: call(torch.device("cpu"))), strict=True
    ):
        assert one.equal(other)


def test_devices_must_be_the_same(monkeypatch):
    """The images, and the masks, are on one device, and out is where the images are."""
    train = A.Compose([A.RandomHorizontalFlip()], seed=0)
    images = torch.zeros(2, 4, 4, 3)
    with pytest.raises(ValueError, match="Compose: out must be on cpu, got meta"):
        train(images, out=torch.empty(2, 3, 4, 4, device="meta"))
    places = itertools.cycle((torch.device("cpu"), torch.device("cuda", 0)))
    monkeypatch.setattr(_images, "_device", lambda _: next(places))
    both = r"got 3 channels of torch\.float32 on \w+(:0)?, 3 channels of torch\.float32 on \w+(:0)?"
    with pytest.raises(ValueError, match=both):
        train(list(images))
    next(places)
    with pytest.raises(ValueError, match="Compose: masks must be on one device, got cpu, cuda:0"):
        train(images, masks=[torch.zeros(4, 4, dtype=torch.int64)] * 2)
