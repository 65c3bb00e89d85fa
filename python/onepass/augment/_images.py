"""Checks what a call gets: images, ids, epoch, labels, masks, boxes, keypoints, and the buffer of the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from onepass import _native
from onepass._arguments import told
from onepass.augment._arrays import Floats, Number, Words

__all__ = [
    "DTYPES",
    "Images",
    "check_epoch",
    "check_labels",
    "check_mask_fills",
    "check_out",
    "take_ids",
    "take_images",
    "take_list",
    "take_masks",
    "take_sizes",
]

DTYPES = (torch.uint8, torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_CPU = torch.device("cpu")
_NUMPY = {
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float16): torch.float16,
}


class Images(NamedTuple):
    """Images of a call, as the core takes them."""

    data: Any
    n: int
    heights: Number
    widths: Number
    channels: int
    dtype: torch.dtype
    device: torch.device

    @property
    def sizes(self) -> tuple[Floats, Floats]:
        """Height and width of each image."""
        return np.full(self.n, self.heights, np.float64), np.full(self.n, self.widths, np.float64)

    @property
    def unit(self) -> float:
        """What 1.0 is called in the units of the images."""
        return 255.0 if self.dtype == torch.uint8 else 1.0


def take_images(images: Any, layout: str) -> Images:
    """Checks a batch, or a list of images of different sizes."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("Compose: images must have at least one, got none")
        data = [_array(image, f"images[{k}]") for k, image in enumerate(images)]
        shapes = [_shape(image, layout, f"images[{k}]", 3) for k, image in enumerate(data)]
        kinds = {(_dtype(image, f"images[{k}]"), _device(image)) for k, image in enumerate(data)}
        channels = {shape[0] for shape in shapes}
        if len(channels) > 1 or len(kinds) > 1:
            devices = len({device for _, device in kinds}) > 1
            got = sorted(
                {
                    f"{shape[0]} channels of {_dtype(one, 'images')}{f' on {_device(one)}' if devices else ''}"
                    for shape, one in zip(shapes, data, strict=True)
                }
            )
            raise ValueError(
                f"Compose: images must have one number of channels, dtype and device, got {', '.join(got)}"
            )
        heights, widths = (np.array([shape[k] for shape in shapes], np.float64) for k in (1, 2))
        dtype, device = kinds.pop()
        return Images(data, len(data), heights, widths, channels.pop(), dtype, device)
    if type(images) is Tensor and images.dtype == torch.uint8 and images.is_cpu and images.layout == torch.strided:
        batch, dtype, device = images, torch.uint8, _CPU  # the regular case, in which nothing is refused
    else:
        batch = _array(images, "images")
        dtype, device = _dtype(batch, "images"), _device(batch)
    c, h, w = _shape(batch, layout, "images", 4)
    return Images(batch, batch.shape[0], float(h), float(w), c, dtype, device)


def _is_dual(value: Tensor) -> bool:
    """Whether the tensor has a tangent of forward-mode differentiation."""
    if forward_ad._current_level < 0:
        return False
    return forward_ad.unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]


def _array(value: Any, argument: str) -> Any:
    if isinstance(value, Tensor):
        whole = value.dtype in _INTEGERS  # has no gradient, and no bit that negates it
        # Of a dual tensor, the tangent would be lost without a word.
        if not whole and (value.requires_grad or _is_dual(value)):
            raise ValueError(
                f"Compose: {argument} must not require a gradient: augmentation has none, got one that does"
            )
        if value.layout != torch.strided:
            raise TypeError(f"Compose: {argument} must be dense, got layout {value.layout}")
        if value.is_meta:
            raise TypeError(f"Compose: {argument} must have memory, got a tensor on meta")
        # DLPack does not carry the bit that says that values are negated when they are read.
        return value if whole else value.resolve_neg()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"Compose: {argument} must be an array without a mask of its own, got MaskedArray")
    if isinstance(value, np.ndarray):
        return value
    # Images of Pillow.
    if hasattr(value, "__array_interface__"):
        return np.asarray(value)
    raise TypeError(
        f"Compose: {argument} must be a tensor, an array or a list of them, got {type(value).__name__}"
    )


def _dtype(value: Any, argument: str) -> torch.dtype:
    dtype = value.dtype if isinstance(value, Tensor) else _NUMPY.get(value.dtype)
    if dtype not in DTYPES:
        raise TypeError(f"Compose: {argument} must be uint8, float32, float16 or bfloat16, got {value.dtype}")
    return dtype


def _device(value: Any) -> torch.device:
    return value.device if isinstance(value, Tensor) else torch.device("cpu")


def _shape(value: Any, layout: str, argument: str, rank: int) -> tuple[int, int, int]:
    """Returns channels, height and width."""
    shape = tuple(value.shape)
    axes = layout if rank == 4 else layout[1:]
    if len(shape) != rank:
        raise ValueError(f"Compose: {argument} must have the dimensions {', '.join(axes)}, got shape {shape}")
    if 0 in shape:
        raise ValueError(f"Compose: {argument} must not be empty, got shape {shape}")
    c, h, w = (shape[-1], *shape[-3:-1]) if axes[-1] == "C" else shape[-3:]
    return c, h, w


def take_ids(ids: Any, n: int | None = None) -> Words:
    """Checks numbers of samples; without any they count from a number that torch's generator gives."""
    if ids is None and n is not None:
        first = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
        return np.arange(first, first + n).astype(np.uint64)
    array = _integers(ids)
    words: Words | None = _native.core.augment_ids(array)
    if words is None or (n is not None and len(words) != n):
        wanted = "one dimension" if n is None else f"{n} numbers, one a sample"
        raise ValueError(f"Compose: ids must have {wanted}, got shape {tuple(array.shape)}")
    return words


def _integers(ids: Any) -> Any:
    """Returns a tensor or an array of integers on the host."""
    if isinstance(ids, Tensor):
        if ids.is_cpu and ids.dtype in _INTEGERS and ids.layout == torch.strided:
            return ids
        ids = _array(ids, "ids").cpu().numpy()
    if not isinstance(ids, np.ndarray):
        if not isinstance(ids, Sequence) or isinstance(ids, str):
            raise TypeError(f"Compose: ids must be a sequence of integers, got {type(ids).__name__}")
        for one in ids:
            if isinstance(one, bool) or not isinstance(one, (int, np.integer)):
                raise TypeError(f"Compose: ids must be integers, got {told(one)}")
        if ids and not 0 <= min(ids) <= max(ids) < 2**64:
            raise ValueError(f"Compose: ids must be at least 0 and below 2**64, got {min(ids)} to {max(ids)}")
        # By numpy's own rule, numbers of 64 bits among smaller ones would become float64.
        ids = np.array(ids, np.uint64)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"Compose: ids must be integers, got {ids.dtype}")
    return ids if ids.dtype.isnative else ids.astype(ids.dtype.newbyteorder("="))


def check_epoch(epoch: Any) -> int:
    """Returns an epoch, of 32 bits."""
    if isinstance(epoch, bool) or not isinstance(epoch, (int, np.integer)):
        raise TypeError(f"Compose: epoch must be an integer, got {told(epoch)}")
    if not 0 <= epoch < 2**32:
        raise ValueError(f"Compose: epoch must be at least 0 and below 2**32, got {epoch}")
    return int(epoch)


def take_sizes(sizes: Any, n: int) -> tuple[Floats, Floats]:
    """Returns heights and widths of (height, width) or of (n, 2); nan for None."""
    if sizes is None:
        return np.full(n, np.nan), np.full(n, np.nan)
    try:
        array = np.asarray(sizes, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"Compose: sizes must be numbers, got {told(sizes)}") from None
    if array.shape not in ((2,), (n, 2)):
        raise ValueError(f"Compose: sizes must be (height, width), or {n} of them, got shape {array.shape}")
    if not (array >= 1).all():
        raise ValueError(f"Compose: sizes must be at least 1, got {array.min()}")
    if not (array == np.rint(array)).all() or array.max() > 2**24:
        raise ValueError(f"Compose: sizes must be integers of at most 2**24, got {told(sizes)}")
    pairs = np.broadcast_to(array, (n, 2))
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def check_labels(labels: Any, n: int, num_classes: int | None) -> Tensor:
    """Checks labels (n,) of integers, or probabilities (n, classes)."""
    tensor = to_tensor(labels, "labels")
    if tensor.dim() not in (1, 2) or len(tensor) != n or 0 in tensor.shape:
        raise ValueError(f"Compose: labels must have shape ({n},) or ({n}, classes), got {tuple(tensor.shape)}")
    if tensor.dim() == 1 and tensor.dtype not in _INTEGERS:
        raise TypeError(f"Compose: labels of one dimension must be integers, got {tensor.dtype}")
    if tensor.is_complex():
        raise TypeError(f"Compose: labels must be integers or probabilities, got {tensor.dtype}")
    if num_classes is None:
        return tensor
    if tensor.dim() == 2 and tensor.shape[1] != num_classes:
        raise ValueError(f"Compose: labels must have {num_classes} classes, got {tensor.shape[1]}")
    if tensor.dim() == 1 and bool(((tensor < 0) | (tensor >= num_classes)).any()):
        raise ValueError(
            f"Compose: labels must be at least 0 and below {num_classes}, got {int(tensor.min())} to "
            f"{int(tensor.max())}"
        )
    return tensor


def to_tensor(given: Any, argument: str) -> Tensor:
    """Returns a dense tensor with memory, of what torch.as_tensor takes or of a list of tensors."""
    value: Any = given
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (Tensor, np.ndarray)):
        try:
            value = torch.stack([torch.as_tensor(one) for one in value])
        except (RuntimeError, TypeError, ValueError):
            raise ValueError(
                f"Compose: {argument} must be tensors or arrays of one shape, got {_kinds(value)}"
            ) from None
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(np.array(value) if isinstance(value, np.ndarray) else value)
        except (RuntimeError, TypeError, ValueError):
            raise TypeError(f"Compose: {argument} must be numbers, got {told(value)}") from None
    if value.layout != torch.strided or value.is_meta:
        got = "a tensor on meta" if value.is_meta else f"layout {value.layout}"
        raise TypeError(f"Compose: {argument} must be dense and have memory, got {got}")
    tensor: Tensor = value
    return tensor


def _kinds(values: Sequence[Any]) -> str:
    return ", ".join(sorted({str(tuple(getattr(one, "shape", ()))) for one in values}))


def check_out(out: Any, shape: tuple[int, int, int, int], dtype: torch.dtype, format: Any, device: Any) -> Tensor:
    """Checks a buffer for the output."""
    if not isinstance(out, Tensor):
        raise TypeError(f"Compose: out must be a tensor, got {type(out).__name__}")
    if tuple(out.shape) != shape:
        raise ValueError(f"Compose: out must have shape {shape}, got {tuple(out.shape)}")
    if out.dtype != dtype:
        raise TypeError(f"Compose: out must be {dtype}, got {out.dtype}")
    if out.device != device:
        raise ValueError(f"Compose: out must be on {device}, got {out.device}")
    if out.is_neg():
        raise ValueError("Compose: out must hold its values as they are, got a negated view")
    if out.requires_grad:
        raise ValueError("Compose: out must not require a gradient, got one that does")
    if not out.is_contiguous(memory_format=format):
        raise ValueError(f"Compose: out must be contiguous in {format}, got strides {out.stride()}")
    return out


def take_list(values: Any, n: int, argument: str, width: int) -> list[Tensor]:
    """Checks boxes or keypoints: a tensor for each sample, whose last dimension is given."""
    if not isinstance(values, (Sequence, Tensor, np.ndarray)) or len(values) != n:
        got = f"{len(values)}" if hasattr(values, "__len__") else type(values).__name__
        raise ValueError(f"Compose: {argument} must have {n} tensors, one a sample, got {got}")
    tensors = [to_tensor(one, f"{argument}[{k}]") for k, one in enumerate(values)]
    for k, one in enumerate(tensors):
        if one.dim() < 2 or one.shape[-1] != width or (width == 4 and one.dim() != 2):
            rest = "k" if width == 4 else "..., k"
            raise ValueError(f"Compose: {argument}[{k}] must have shape ({rest}, {width}), got {tuple(one.shape)}")
        if one.is_complex() or one.dtype == torch.bool:
            raise TypeError(f"Compose: {argument}[{k}] must be real numbers, got {one.dtype}")
        _check_places(one.detach().double(), f"{argument}[{k}]", width == 4)
    return tensors


def _check_places(places: Tensor, argument: str, boxes: bool) -> None:
    """Raises for infinite numbers, and for boxes with nan or with corners in another order."""
    bad = places.isinf() | (places.isnan() & boxes)
    if bool(bad.any()):
        wanted = "finite" if boxes else "finite or nan"
        raise ValueError(f"Compose: {argument} must be {wanted}, got {places[bad][0].item()}")
    if boxes:
        turned = (places[:, 2:] < places[:, :2]).any(1)
        if bool(turned.any()):
            row = places[turned][0].tolist()
            raise ValueError(f"Compose: {argument} must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got {row}")


def take_masks(masks: Any, images: Images) -> tuple[Any, torch.dtype, torch.device]:
    """Checks masks (n, H, W), or a list of (H, W), of the sizes of the images."""
    n = images.n
    single = not isinstance(masks, (list, tuple))
    data = _mask(masks, "masks", 3) if single else [_mask(one, f"masks[{k}]", 2) for k, one in enumerate(masks)]
    if len(data) != n:
        raise ValueError(f"Compose: masks must have {n}, one a sample, got {len(data)}")
    sizes = np.stack(images.sizes, axis=1)
    shapes = np.array([tuple(one.shape) for one in data])
    if (shapes != sizes).any():
        k = int((shapes != sizes).any(1).argmax())
        wanted = tuple(int(side) for side in sizes[k])
        raise ValueError(
            f"Compose: masks[{k}] must have the size of its image, {wanted}, got {tuple(shapes[k].tolist())}"
        )
    dtypes = {_torch_dtype(one) for one in data}
    if len(dtypes) > 1:
        raise ValueError(f"Compose: masks must have one dtype, got {', '.join(sorted(map(str, dtypes)))}")
    devices = {_device(one) for one in data} if not single else {_device(data)}
    if len(devices) > 1:
        raise ValueError(f"Compose: masks must be on one device, got {', '.join(sorted(map(str, devices)))}")
    return data, dtypes.pop(), devices.pop()


def check_mask_fills(fills: Sequence[float], dtype: torch.dtype) -> None:
    """Raises where a fill is no value of the masks' dtype."""
    if dtype == torch.bool:
        return  # What is not 0 is True.
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    for fill in fills:
        if not low <= fill <= high:
            raise ValueError(f"Compose: fill must be from {low} to {high} with masks of {dtype}, got {fill:g}")


def _torch_dtype(mask: Any) -> torch.dtype:
    # An empty array of the same dtype: torch takes no negative strides, and warns of read-only memory.
    return mask.dtype if isinstance(mask, Tensor) else torch.from_numpy(np.empty(0, mask.dtype)).dtype


def _mask(value: Any, argument: str, rank: int) -> Any:
    array = _array(value, argument)
    if len(array.shape) != rank:
        raise ValueError(f"Compose: {argument} must have {rank} dimensions, got shape {tuple(array.shape)}")
    integers = (
        array.dtype.kind in "iub"
        if isinstance(array, np.ndarray)
        else not (array.is_floating_point() or array.is_complex())
    )
    if not integers or (isinstance(array, np.ndarray) and not array.dtype.isnative):
        raise TypeError(f"Compose: {argument} must be integers, got {array.dtype}")
    return array
