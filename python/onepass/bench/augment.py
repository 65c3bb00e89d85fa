"""Batch augmentation in one pass next to other packages: their best forms on the same uint8 images.

Competitors: ``ours``, writing into one batch by ``out=``; ``torch``, its operations on the whole batch;
``torchvision``, ``opencv`` and ``albumentations``, an image at a time in as many Python threads as torch has;
``kornia``, on the whole batch; ``stream``, a plain loop that reads one byte and writes four for each element of
the result; ``taps``, next to rotations, a plain loop that reads the two rows of each pixel's taps and writes as
many bytes as its values have. Packages that are not installed are left out by name. The cases ``mixup`` and
``bfloat16`` time ours next to ours ``without`` mixup and in ``float32``; ``threads`` times ours next to ours with
``1 thread``.

On CUDA the images are on the device, and ours is next to a copy that moves as many bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count

import torch
from torch import Tensor

from onepass import augment as A
from onepass.augment._transform import Transform
from onepass.bench.augment_rivals import Work, left_out, rivals, versions
from onepass.bench.augment_rivals.work import DEGREES, JITTER, MEAN, PADDING, SIZE, STD
from onepass.bench.harness import OURS, STREAM, Case, Prepared, Step
from onepass.bench.probe import probe, taps_probe, widen_probe

_PHOTOS = (375, 500)
_ALPHA = 0.2
TAPS = "taps"
WORKS = (
    Work("crop-channels_last", "crop"),
    Work("crop-nchw", "crop", channels_last=False),
    Work("rotate-channels_last", "rotate"),
    Work("rotate-nchw", "rotate", channels_last=False),
    Work("resized-crop-jitter", "jitter", source=_PHOTOS),
    Work("resized-crop-jitter-no-antialias", "jitter", source=_PHOTOS, antialias=False),
    Work("resize-uint8", "resize", source=_PHOTOS),
    Work("crop-mixup", "crop", mixup=True),
)
_CHAINS = ("crop", "rotate", "jitter")


def cases(device: torch.device) -> list[Case]:
    """Lists all cases.

    Args:
        device: Where the images are.
    """
    return list(_cases(device))


def _cases(device: torch.device) -> Iterator[Case]:
    if device.type == "cuda":
        yield from (_device_case(work, device) for work in WORKS if work.chain in ("crop", "rotate"))
        return
    for work in WORKS:
        yield _case(work)
    base = {chain: next(work for work in WORKS if work.chain == chain) for chain in _CHAINS}
    mixed = replace(base["crop"], mixup=True)
    yield _pair("mixup-beside-without", {OURS: partial(ours, mixed), "without": partial(ours, base["crop"])})
    for chain, work in base.items():
        pair = {OURS: partial(ours, work, dtype=torch.bfloat16), "float32": partial(ours, work)}
        yield _pair(f"bfloat16-beside-float32-{chain}", pair)
    for chain, work in base.items():
        yield _pair(f"threads-{chain}", {OURS: partial(ours, work), "1 thread": partial(_one_thread, work)})


def transforms(work: Work) -> list[Transform]:
    """Makes the chain of a work.

    Args:
        work: What is done.
    """
    if work.chain == "resize":
        return [A.Resize((SIZE, SIZE))]
    jitter = work.chain == "jitter"
    resized = A.RandomResizedCrop(SIZE, antialias=work.antialias)
    found: list[Transform] = [resized if jitter else A.RandomCrop(SIZE, padding=PADDING)]
    found.append(A.RandomHorizontalFlip())
    if work.chain != "crop":
        found.append(A.RandomRotation(DEGREES, interpolation="bilinear"))
    if jitter:
        found.append(A.ColorJitter(JITTER, JITTER, JITTER))
    found.append(A.Normalize(MEAN, STD))
    return [*found, A.MixUp(alpha=_ALPHA)] if work.mixup else found


def ours(work: Work, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Step:
    """Makes our call of one batch.

    Args:
        work: What is done.
        dtype: Dtype of the result; that of the resize is uint8.
        device: Where the images are; by default on the CPU.
    """
    images = torch.from_numpy(work.images()).to(device or "cpu")
    layout = torch.channels_last if work.channels_last else torch.contiguous_format
    dtype = torch.uint8 if work.chain == "resize" else dtype
    chain = A.Compose(transforms(work), seed=0, dtype=dtype, memory_format=layout)
    shape = (work.count, 3, SIZE, SIZE)
    out = torch.zeros(shape, dtype=dtype, device=images.device).contiguous(memory_format=layout)
    # Photos come from a decoder one by one.
    given = list(images) if work.chain == "jitter" else images
    ids, epochs = torch.arange(work.count), count()

    def step() -> Tensor:
        found: Tensor = chain(given, ids=ids, epoch=next(epochs), out=out)
        return found

    return step


def _case(work: Work) -> Case:
    bandwidth = work.chain in ("crop", "rotate")

    def setup() -> dict[str, Step]:
        found = {OURS: ours(work), **rivals(work, work.images())}
        if work.chain == "rotate":
            found[TAPS] = taps_probe(work.count, SIZE)
        return {**found, STREAM: widen_probe(work.numel)} if bandwidth else found

    moved = 5 * work.numel if bandwidth else None
    return Case(work.name, moved, 15, setup, notes=lambda: [versions(), *left_out()])


def _device_case(work: Work, device: torch.device) -> Case:
    def setup() -> dict[str, Step]:
        return {OURS: ours(work, device=device), STREAM: probe(5 * work.numel, 1, device)}

    return Case(work.name, 5 * work.numel, 15, setup)


def _pair(name: str, makers: Mapping[str, Callable[[], Step]]) -> Case:
    return Case(name, None, 25, lambda: {key: make() for key, make in makers.items()})


def _one_thread(work: Work) -> Step:
    """Makes our call with one thread; the number of threads is set outside the clock, and back by the call."""
    step, threads = ours(work), torch.get_num_threads()

    def run() -> object:
        try:
            return step()
        finally:
            torch.set_num_threads(threads)

    return Prepared(lambda: torch.set_num_threads(1), run)
