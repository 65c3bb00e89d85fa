"""Calls of onepass.augment: what they take and give, bit-exact chains, DataLoaders, and the loss that follows."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from augment_setup import exact, image
from onepass import augment as A
from onepass.nn.functional import cross_entropy
from tolerance import IMAGE_FLOAT32_ATOL, IMAGE_NOISE_ATOL

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IDS = range(30, 36)
CHAIN = [
    A.RandomResizedCrop(9),
    A.RandomHorizontalFlip(),
    A.RandomRotation(20, "bilinear"),
    A.ColorJitter(0.3, 0.3),
]


def by_torch(images, drawn, size, dtype=torch.float32):
    """Padding with 0, crop, flip and normalisation, by torch's operators on each sample."""
    made = []
    for k, one in enumerate(images.permute(0, 3, 1, 2)):
        top, left = int(drawn["0.RandomCrop.top"][k]), int(drawn["0.RandomCrop.left"][k])
        one = torch.nn.functional.pad(one, (4, 4, 4, 4))[:, top : top + size, left : left + size]
        made.append(one.flip(-1) if drawn["1.RandomHorizontalFlip.applied"][k] else one)
    batch = torch.stack(made)
    batch = batch.float() / 255 if images.dtype == torch.uint8 else batch.float()
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    return ((batch - mean) / std).to(dtype)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("source", [torch.uint8, torch.float32], ids=str)
def test_crop_flip_normalize_has_torchs_bits(source, dtype, channels_last):
    train = A.Compose(
        [A.RandomCrop(28, padding=4), A.RandomHorizontalFlip(), A.Normalize(MEAN, STD)],
        seed=0,
        dtype=dtype,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    images = image(6, 28, 28, 3, dtype=source)
    made = train(images, ids=IDS)
    assert made.dtype == dtype
    assert made.is_contiguous(memory_format=train.memory_format)
    assert made.equal(by_torch(images, train.parameters(IDS, sizes=(28, 28)), 28, dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_flips_and_quarters_change_no_value(dtype):
    images = image(1, 3, 12, 12, dtype=dtype)
    for transform, wanted in (
        (A.RandomHorizontalFlip(1.0), images.flip(-1)),
        (A.RandomVerticalFlip(1.0), images.flip(-2)),
        (A.RandomAffine((90, 90), interpolation="bilinear"), images.rot90(-1, (2, 3))),
        *(
            (A.RandomRotation((90.0 * k, 90.0 * k), "bilinear"), images.rot90(k, (-2, -1)))
            for k in (-3, -1, 0, 1, 2, 4)
        ),
    ):
        assert A.Compose([transform], layout="NCHW", dtype=dtype)(images).equal(wanted), transform


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_any_number_of_channels_in_both_layouts(layout, channels):
    images = image(3, 11, 13, channels, dtype=torch.uint8)
    given = images if layout == "NHWC" else images.permute(0, 3, 1, 2).contiguous()
    train = A.Compose([A.RandomCrop(8), A.RandomRotation(20, "bilinear")], seed=0, layout=layout)
    made = train(given, ids=[1, 2, 3])
    torch.testing.assert_close(made.double(), exact(train, given, ids=[1, 2, 3]), rtol=0, atol=IMAGE_FLOAT32_ATOL)
    assert made.shape == (3, channels, 8, 8)


def test_sources_of_all_kinds_give_the_same():
    images = image(6, 11, 13, 3, dtype=torch.uint8)
    train = A.Compose(CHAIN, seed=0)
    wanted = train(images, ids=IDS)
    read_only = images.numpy().copy()
    read_only.flags.writeable = False
    wide = torch.zeros(6, 22, 13, 6, dtype=torch.uint8)
    wide[:, ::2, :, ::2] = images
    pictures = [pytest.importorskip("PIL.Image").fromarray(one.numpy()) for one in images]
    for given in (
        images.numpy(),
        read_only,
        wide[:, ::2, :, ::2],
        images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        images.flip(0).numpy()[::-1],
        list(images),
        tuple(images.numpy()),
        pictures,
    ):
        assert train(given, ids=IDS).equal(wanted)


def test_images_of_different_sizes():
    images = [image(h, w, 3, dtype=torch.uint8) for h, w in ((11, 13), (30, 8), (9, 9))]
    train = A.Compose(CHAIN, seed=0)
    made = train(images, ids=[4, 5, 6])
    for k in range(3):
        assert made[k].equal(train(images[k][None], ids=[4 + k])[0])
    table = train.parameters([4, 5, 6], sizes=[one.shape[:2] for one in images])
    assert (table["0.RandomResizedCrop.height"] <= [11, 30, 9]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8], ids=str)
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_buffer_is_used_again(format, dtype):
    train = A.Compose(CHAIN, seed=0, dtype=dtype, memory_format=format)
    images = image(6, 11, 13, 3, dtype=torch.uint8)
    out = torch.full((6, 3, 9, 9), 77).to(dtype).contiguous(memory_format=format)
    assert train(images, ids=IDS, out=out) is out
    assert out.equal(train(images, ids=IDS))
    wanted = exact(train, images, ids=IDS)
    wanted = (wanted * 255).round().clamp(0, 255) if dtype == torch.uint8 else wanted
    spacing = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.uint8: 1}.get(dtype, IMAGE_FLOAT32_ATOL)
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=spacing)


def test_a_buffer_may_not_share_memory_with_the_images():
    images = image(2, 3, 8, 8)
    before = images.clone()
    with pytest.raises(ValueError, match="memory"):
        A.Compose([A.RandomHorizontalFlip(1.0)], layout="NCHW")(images, out=images)
    assert images.equal(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads):
    images, train = image(7, 20, 22, 3, dtype=torch.uint8), A.Compose([*CHAIN, A.RandAugment()], seed=0)
    wanted = train(images, ids=range(7))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert train(images, ids=range(7)).equal(wanted)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("width", range(1, 34))
def test_threads_have_memory_of_any_size(width):
    """The scratch memory of the second thread is aligned as that of the first is, whatever sizes it has."""
    train = A.Compose([A.RandomRotation(30, "bilinear"), A.Resize((1 + width % 5, width))], seed=0)
    images = image(3, 7 + width % 3, 2 + width, 3, dtype=torch.uint8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        made = train(images, ids=[1, 2, 3])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(made.double(), exact(train, images, ids=[1, 2, 3]), rtol=0, atol=IMAGE_FLOAT32_ATOL)


def test_an_empty_chain_converts():
    images = image(2, 5, 6, 3, dtype=torch.uint8)
    assert A.Compose([])(images).equal(images.permute(0, 3, 1, 2).float() / 255)
    assert A.Compose([], dtype=torch.uint8)(images).equal(images.permute(0, 3, 1, 2))


def test_noise_is_a_function_of_the_sample():
    train = A.Compose([A.RandomErasing(1.0, (0.4, 0.5), (0.9, 1.1), "random")], seed=0)
    images = torch.full((200, 16, 16, 3), 5.0)
    made = train(images, ids=range(200))
    noise = made[made != 5.0]
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    assert made[7].equal(train(images[:1], ids=[7])[0])
    assert len({float(one[one != 5.0][0]) for one in made}) == 200
    torch.testing.assert_close(made.double(), exact(train, images, ids=range(200)), rtol=0, atol=IMAGE_NOISE_ATOL)


@pytest.mark.parametrize("mix", [A.MixUp(0.4), A.CutMix(), A.RandomChoice([A.MixUp(), A.CutMix()])], ids=repr)
def test_targets_go_into_the_loss(mix):
    train = A.Compose([A.RandomHorizontalFlip(), mix], seed=0)
    images, labels = image(6, 8, 8, 3), torch.tensor([3, 1, 4, 1, 0, 2])
    x, (first, second, lam) = train(images, labels, ids=IDS)
    logits = x.flatten(1)[:, :5].clone().requires_grad_()
    loss = cross_entropy(logits, first, target2=second, lam=lam)
    apart = [torch.nn.functional.cross_entropy(logits, t, reduction="none") for t in (first, second)]
    torch.testing.assert_close(loss, (lam * apart[0] + (1 - lam) * apart[1]).mean())
    _, soft = train(images, torch.nn.functional.one_hot(labels, 5).float(), ids=IDS)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, soft), loss)
    assert train(images, ids=IDS).equal(x)


def test_mixing_some_samples_only():
    train = A.Compose([A.RandomApply([A.MixUp()], 0.5)], seed=0)
    x, (_, _, lam) = train(image(40, 4, 4, 1), torch.arange(40), ids=range(40))
    alone = lam == 1
    assert 5 < alone.sum() < 35
    assert x[alone].equal(image(40, 4, 4, 1).permute(0, 3, 1, 2)[alone])


class Folder(Dataset):
    """The images of a folder, decoded by Pillow, with label and number."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*/*.png"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, k):
        from PIL import Image

        with Image.open(self.files[k]) as picture:
            return np.asarray(picture.convert("RGB")), int(self.files[k].parent.name), k


@pytest.fixture
def folder(tmp_path):
    pictures = pytest.importorskip("PIL.Image")
    for k in range(12):
        (tmp_path / str(k % 3)).mkdir(exist_ok=True)
        pixels = image(20 + k, 30 - k, 3, dtype=torch.uint8, seed=k).numpy()
        pictures.fromarray(pixels).save(tmp_path / str(k % 3) / f"{k:02}.png")
    return tmp_path


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_data_loader_augment(context, folder):
    """As collate_fn: the batches do not depend on the number of workers, nor on how they were started."""
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"needs processes that are started by {context}")
    data = Folder(folder)
    train = A.Compose([*CHAIN, A.Normalize(MEAN, STD), A.MixUp(0.2)], seed=5)
    train.set_epoch(3)
    alone = list(DataLoader(data, batch_size=5, collate_fn=train.collate))
    options = {"num_workers": 2, "multiprocessing_context": context}
    found = list(DataLoader(data, batch_size=5, collate_fn=train.collate, **options))
    assert len(found) == 3
    for (x, target), (y, other) in zip(alone, found, strict=True):
        assert x.equal(y)
        assert all(one.equal(two) for one, two in zip(target, other, strict=True))
    direct = train([data[k][0] for k in range(5)], [data[k][1] for k in range(5)], ids=range(5), epoch=3)
    assert direct[0].equal(alone[0][0])


def test_workers_without_ids_do_not_repeat_each_other(folder):
    data = [(one,) for one in image(4, 8, 8, 1)] * 2
    train = A.Compose([A.RandomRotation(180)], seed=5)
    torch.manual_seed(0)
    first, second = DataLoader(data, batch_size=4, collate_fn=train.collate, num_workers=2)
    assert not first.equal(second)


def test_batches_of_a_data_loader(folder):
    """On the batch, in the training loop, with numbers from the data set."""
    data = [(one, k) for k, one in enumerate(image(8, 10, 10, 3, dtype=torch.uint8))]
    train = A.Compose(CHAIN, seed=5)
    found = torch.cat([train(images, ids=ids) for images, ids in DataLoader(data, batch_size=3)])
    assert found.equal(train(image(8, 10, 10, 3, dtype=torch.uint8), ids=range(8)))
