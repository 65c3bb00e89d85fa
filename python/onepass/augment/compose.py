"""Compose: a chain of transforms that is carried out on a batch in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# torch.compiler.disable, which the public module loads with the whole compiler.
from torch._compile import _disable_dynamo

from onepass._arguments import told
from onepass._seed import check_seed
from onepass.augment import _call
from onepass.augment._chain import Chain
from onepass.augment._checks import check_flag
from onepass.augment._epoch import Epoch
from onepass.augment._images import (
    DTYPES,
    Images,
    check_epoch,
    check_labels,
    check_mask_fills,
    check_out,
    take_ids,
    take_images,
    take_list,
    take_masks,
    take_sizes,
)
from onepass.augment._parameters import Parameters
from onepass.augment._plan import new_plan
from onepass.augment._points import Points
from onepass.augment._transform import Geometry, Transform
from onepass.augment.choices import check_transforms
from onepass.augment.convert import ToDtype

__all__ = ["Compose"]

_FORMATS = (torch.contiguous_format, torch.channels_last)


class Compose:
    """Augments batches of images: a chain of transforms in one pass, with parameters for each sample.

    Everything geometric of a sample becomes one map, operations on values follow in registers, and erasing and
    mixing are choices at the store. Parameters are a function of (seed, epoch, id of the sample, place of the
    transform) alone, by Philox: any batch size, order, number of workers or threads gives a sample the same.

    Args:
        transforms: Transforms of this module; MixUp and CutMix come last.
        seed: 0 to 2**64 - 1; None draws one from torch's generator, once.
        dtype: Of the output: torch.float32, bfloat16, float16 or uint8; None for that of ToDtype, or float32.
        memory_format: Of the output: torch.contiguous_format (NCHW) or torch.channels_last.
        layout: Of the input: ``"NHWC"``, what decoders give, or ``"NCHW"``. It is never guessed.
        train: False leaves out all transforms that draw random numbers.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument has another value, MixUp or CutMix is not the last, or a random transform sets the
            size with train=False.

    A call ``(images, labels=None, *, ids=None, epoch=0, masks=None, boxes=None, keypoints=None, out=None)`` takes

    - images: uint8, float32, bfloat16 or float16; a tensor or array (n, H, W, C) (or as `layout` says), or a list
      of n images of any sizes; strided and read-only ones, too. uint8 values count as x / 255.
    - labels: integers (n,), or probabilities (n, classes).
    - ids: a number of each sample, 0 to 2**64 - 1, such as its index in the data set. Without ids they count from
      a number that each call draws from torch's default generator, which differs from worker to worker.
    - epoch: 0 to 2**32 - 1.
    - masks: integers (n, H, W) or a list of (H, W), sampled by the nearest pixel.
    - boxes: for each sample (k, 4), x1, y1, x2, y2, finite and in this order. keypoints: for each sample (..., 2),
      x, y; nan stays nan. Results have the given dtype; integers are truncated, as torchvision's are.
    - out: a tensor for the output, of its shape, dtype and format.

    and returns the images (n, C, H, W), alone or in a tuple with what else was given, in that order: the target,
    masks, `Boxes`, `Keypoints`. The target of a chain that mixes is (labels, labels2, lam), as
    `onepass.nn.functional.cross_entropy` takes them (probabilities are mixed to one tensor), else the labels.

    Convention: values are float32 from the first to the last operation and rounded once, where they are stored: to
    nearest, ties to even; to uint8 as v * 255, limited to 0 .. 255. A pass that interpolates is bilinear if one of
    the transforms that are fused in it asks for it. A further pass over the sample, in the cache, begins before
    and after a filter that reduces or is bicubic, before a map that follows an operation that it must not precede
    (a crop after contrast, a bilinear map after any operation that is not linear, any map after erasing), and
    before a reflection that follows a map.

    Differs from torch: torchvision's chain resamples and rounds at each transform. Each transform by itself gives
    torchvision's values; a composition is one resampling by the product of the maps.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> chain = [A.RandomCrop(8, padding=2), A.RandomHorizontalFlip(), A.Normalize(0.5, 0.5)]
        >>> train = A.Compose(chain, seed=0)
        >>> images, labels = torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4)
        >>> x, target = train(images, labels, ids=range(4), epoch=1)
        >>> x.shape, x.dtype
        (torch.Size([4, 3, 8, 8]), torch.float32)
        >>> alone, _ = train(images[2:3], labels[2:3], ids=[2], epoch=1)  # the same sample again
        >>> alone[0].equal(x[2])
        True
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        *,
        seed: int | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        layout: str = "NHWC",
        train: bool = True,
    ) -> None:
        self.transforms = check_transforms("Compose", transforms)
        if seed is None:
            seed = int(torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu"))
        check_seed("Compose", seed)
        wanted = [one.dtype for one in self.transforms if isinstance(one, ToDtype)]
        if dtype is not None and dtype not in DTYPES:
            known = "torch.float32, bfloat16, float16 or uint8"
            raise ValueError(f"Compose: dtype must be {known}, got {told(dtype)}")
        if dtype is not None and wanted and dtype != wanted[-1]:
            raise ValueError(f"Compose: dtype must be that of ToDtype, {wanted[-1]}, or None, got {dtype}")
        self.dtype = dtype if dtype is not None else wanted[-1] if wanted else torch.float32
        if memory_format not in _FORMATS:
            raise ValueError(
                "Compose: memory_format must be torch.contiguous_format or channels_last, "
                f"got {told(memory_format)}"
            )
        if not isinstance(layout, str) or layout not in ("NHWC", "NCHW"):
            raise ValueError(f"Compose: layout must be 'NHWC' or 'NCHW', got {told(layout)}")
        self.seed, self.memory_format, self.layout = seed, memory_format, layout
        self.train = check_flag("Compose", "train", train)
        self._epoch = Epoch()
        self._chain = Chain(self.transforms, self.train)

    @_disable_dynamo
    def __call__(
        self,
        images: Any,
        labels: Any = None,
        *,
        ids: Any = None,
        epoch: int = 0,
        masks: Any = None,
        boxes: Any = None,
        keypoints: Any = None,
        out: Tensor | None = None,
    ) -> Any:
        """Augments a batch; see the class."""
        taken = take_images(images, self.layout)
        n = taken.n
        self._chain.check(taken.channels)
        epoch = check_epoch(epoch)
        target = None if labels is None else check_labels(labels, n, self._chain.labels_checked_by)
        if self._chain.mixing and not (masks is None and boxes is None and keypoints is None):
            raise ValueError("Compose: boxes, keypoints and masks must be None with MixUp and CutMix, got some")
        taken_masks = None if masks is None else take_masks(masks, taken)
        points = self._points(taken, boxes, keypoints)
        plan = new_plan(n, taken.heights, taken.widths, taken.channels, taken.unit)
        plans: list[Geometry] = [plan]
        mask_plan = None
        if taken_masks is not None:
            mask_plan = new_plan(n, taken.heights, taken.widths, 1, 1.0, masks=True)
            plans.append(mask_plan)
        if points is not None:
            plans.append(points)
        # A call that fails has drawn nothing.
        before = torch.get_rng_state() if ids is None and self.train else None
        try:
            numbers = np.zeros(n, np.uint64) if ids is None and not self.train else take_ids(ids, n)
            self._chain.plan(self._chain.draw(self.seed, numbers, epoch), plans)
            output = self._output(plan, taken, out)
            parts: list[Any] = [output]
            if target is not None:
                parts.append(self._target(target, plan))
            if mask_plan is not None and taken_masks is not None:
                check_mask_fills(mask_plan.fills, taken_masks[1])
                parts.append(_call.run_masks(*taken_masks, mask_plan))
            if points is not None:
                parts.extend(
                    ([points.boxes()] if boxes is not None else [])
                    + ([points.keypoints()] if keypoints is not None else [])
                )
            # Last, so that a call that fails has not written to out.
            _call.run(taken, self.layout, plan.records(), output)
        except Exception:
            if before is not None:
                torch.set_rng_state(before)
            raise
        return parts[0] if len(parts) == 1 else tuple(parts)

    def parameters(self, ids: Any, epoch: int = 0, sizes: Any = None) -> Parameters:
        """Returns the parameters of samples.

        Args:
            ids: The numbers of the samples.
            epoch: As in a call.
            sizes: (height, width) of all images, or of each of them, (n, 2). None: a parameter that depends on a
                size that is not known is nan.

        Returns:
            A column for each parameter, the first with the ids.

        Raises:
            TypeError: ids or epoch are no integers.
            ValueError: ids or epoch are out of range, or sizes have another shape.

        Example:
            >>> from onepass import augment as A
            >>> train = A.Compose([A.RandomCrop(32, padding=4), A.RandomHorizontalFlip()], seed=0)
            >>> train.parameters([7, 8], epoch=3, sizes=(32, 32))
            id  0.RandomCrop.top  0.RandomCrop.left  1.RandomHorizontalFlip.applied
             7                 0                  0                               0
             8                 5                  5                               1
        """
        numbers = take_ids(ids)
        epoch = check_epoch(epoch)
        heights, widths = take_sizes(sizes, len(numbers))
        table = Parameters(id=numbers)
        with np.errstate(invalid="ignore"):
            # Nobody says whether the images are uint8; nan is no unit, and exceeds no threshold.
            plan = new_plan(len(numbers), heights, widths, 3, math.nan)
            self._chain.plan(self._chain.draw(self.seed, numbers, epoch), [plan], table)
        return table

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch `collate` draws for, also in workers that are running (persistent_workers=True).

        Args:
            epoch: 0 to 2**32 - 1. Call it before the loop over the DataLoader begins.

        Raises:
            TypeError: epoch is no integer.
            ValueError: epoch is out of range.

        Example:
            >>> from onepass import augment as A
            >>> train = A.Compose([A.RandomHorizontalFlip()], seed=0)
            >>> train.set_epoch(3)
            >>> train.epoch
            3
        """
        self._epoch.value = check_epoch(epoch)

    @property
    def epoch(self) -> int:
        """The epoch that `collate` draws for."""
        return self._epoch.value

    def collate(self, samples: Sequence[Any]) -> Any:
        """Makes a batch of samples (image,), (image, label) or (image, label, id): a collate_fn for a DataLoader.

        Args:
            samples: What a data set gives. With an id the parameters do not depend on workers.

        Returns:
            What a call returns.

        Raises:
            TypeError: samples is no sequence.
            ValueError: Samples are of another form, or differ in it.
        """
        if not isinstance(samples, Sequence) or isinstance(samples, str):
            raise TypeError(f"Compose: samples must be a sequence, got {type(samples).__name__}")
        rows = [one if isinstance(one, (tuple, list)) else (one,) for one in samples]
        lengths = sorted({len(row) for row in rows})
        if len(lengths) != 1 or not 1 <= lengths[0] <= 3:
            raise ValueError(
                f"Compose: samples must be (image,), (image, label) or (image, label, id), got lengths {lengths}"
            )
        images, *rest = (list(column) for column in zip(*rows, strict=True))
        return self(images, rest[0] if rest else None, ids=rest[1] if len(rest) > 1 else None, epoch=self.epoch)

    def __repr__(self) -> str:
        lines = "".join(f"\n    {one!r}," for one in self.transforms)
        options = (
            f"seed={self.seed}, dtype={self.dtype}, memory_format={self.memory_format}, layout={self.layout!r}"
        )
        return f"Compose([{lines}\n], {options}, train={self.train})"

    def _points(self, taken: Images, boxes: Any, keypoints: Any) -> Points | None:
        if boxes is None and keypoints is None:
            return None
        n = taken.n
        given = [] if boxes is None else take_list(boxes, n, "boxes", 4)
        places = [] if keypoints is None else take_list(keypoints, n, "keypoints", 2)
        return Points(*taken.sizes, taken.channels, taken.unit, given, places)

    def _output(self, plan: Any, taken: Images, out: Tensor | None) -> Tensor:
        size = plan.common
        if size is None:
            height, width = plan.height, plan.width
            k = int(((height != height[0]) | (width != width[0])).argmax())
            raise ValueError(
                "Compose: transforms must give all samples one size, as Resize((height, width)) does, got "
                f"({height[0]:.0f}, {width[0]:.0f}) and ({height[k]:.0f}, {width[k]:.0f})"
            )
        shape = (taken.n, taken.channels, *size)
        if out is None:
            return torch.empty(shape, dtype=self.dtype, device=taken.device, memory_format=self.memory_format)
        return check_out(out, shape, self.dtype, self.memory_format, taken.device)

    def _target(self, labels: Tensor, plan: Any) -> Any:
        if not self._chain.mixing:
            return labels
        shares = torch.from_numpy(plan.shares.astype(np.float32))
        lam = _call.to_device(shares, labels.device)
        other = labels.roll(1, 0)
        if labels.dim() == 1:
            return labels, other, lam
        dtype = labels.dtype if labels.is_floating_point() else torch.float32
        share = lam.to(dtype)[:, None]
        return labels.to(dtype) * share + other.to(dtype) * (1 - share)
