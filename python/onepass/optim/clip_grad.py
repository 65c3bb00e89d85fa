"""Clips gradients by their common norm or by value, for any optimizer: torch.nn.utils' functions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from types import GeneratorType
from typing import TypeVar

import torch
from torch import Tensor

from onepass import _native
from onepass._arguments import listed, told
from onepass._versions import bump_versions
from onepass.optim import _ops
from onepass.optim._lists.arguments import Names, limit_number, number
from onepass.optim._lists.kinds import is_sharded
from onepass.optim._lists.layout import regular
from onepass.optim._lists.norms import FACTOR, NORM, measure
from onepass.optim._lists.overlap import check_apart

__all__ = ["clip_grad_norm_", "clip_grad_value_"]

# What the core raises for tensors that it cannot take as they are, before it has changed anything.
_REFUSALS = (TypeError, ValueError, BufferError, RuntimeError)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_Result = TypeVar("_Result")
# torch's own, kept at import: users put ours in their place, and ours would call itself without end. They come
# from the module, whose names are rarely replaced, and not from torch.nn.utils.
_torch_clip_grad_norm_: Callable[..., Tensor] = torch.nn.utils.clip_grad.clip_grad_norm_
_torch_clip_grad_value_: Callable[..., None] = torch.nn.utils.clip_grad.clip_grad_value_


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    r"""Scales all gradients by one factor so that their common norm is at most `max_norm`.

    .. math::
        g \leftarrow g \cdot \min\left(1, \frac{\text{max\_norm}}{\lVert g \rVert_p + 10^{-6}}\right)

    The norm takes one read of the gradients, the scaling one read and write: 12 bytes per float32 element. On the
    CPU gradients that are small enough are not written at all: 4 bytes.

    Args:
        parameters: Parameters, or one, whose gradients are scaled in place; those without a gradient are skipped.
        max_norm: The largest norm that is left as it is, at least 0.
        norm_type: The order p of the norm: 1, 2, ``inf`` (also as a string), or any other number.
        error_if_nonfinite: Raise if the norm is infinite or nan. Waits for the GPU.
        foreach: None or True; False takes torch's function, which goes tensor by tensor.

    Returns:
        The norm before clipping, of shape (), on the device of the first gradient; float64 if a gradient is
        float64, else float32.

    Raises:
        ValueError: max_norm is negative or nan, norm_type is nan, or gradients share memory (torch scales shared
            ones twice).
        TypeError: An argument is of another kind.
        RuntimeError: The norm is not finite and error_if_nonfinite is set. No gradient has been changed.

    Example:
        >>> import torch
        >>> from onepass.optim import clip_grad_norm_
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> clip_grad_norm_([weight], max_norm=1.0)
        tensor(5.)
        >>> weight.grad
        tensor([0.6000, 0.8000])

    Differs from torch: sums are float64, so that a finite float16 or float32 gradient never has an infinite norm,
    and they do not depend on the number of threads; the norm of half precision gradients is float32. With DTensors
    all ranks of their meshes call it, and get the norm of the whole as a plain tensor. Complex and sparse
    gradients, and orders that are not positive, go to torch's own function.

    Source: Pascanu et al. 2013; torch.nn.utils.clip_grad_norm_.
    """
    name = "clip_grad_norm_"
    limit = limit_number(name, "max_norm", max_norm)
    order = _order_of(name, norm_type)
    tensors = _listed(name, parameters)
    grads = _gradients(name, tensors)
    if not grads:
        return torch.tensor(0.0)
    if foreach is False or not order > 0:
        return _torch_clip_grad_norm_(tensors, max_norm, order, error_if_nonfinite, foreach)
    if torch.compiler.is_compiling() and not error_if_nonfinite:
        return _ops.clip_grad_norm_(grads, limit, order)
    version = _version_of(grads)
    try:
        return _clip_norm(grads, limit, order, error_if_nonfinite)
    except _Nonfinite as error:
        raise RuntimeError(str(error)) from None
    except _REFUSALS:
        if _version_of(grads) != version:
            raise  # a signal's handler raised: the gradients are scaled
        if any(is_sharded(grad) for grad in grads):
            from onepass.optim._sharding.clip import clip_shards

            return clip_shards(grads, limit, order, error_if_nonfinite)
        if not all(_is_ours(grad) for grad in grads):
            return _torch_clip_grad_norm_(tensors, max_norm, order, error_if_nonfinite, foreach)
    # Strided views are scaled as copies. Whatever else was refused is refused again.
    return _through_copies(name, grads, lambda dense: _clip_norm(dense, limit, order, error_if_nonfinite))


@torch.no_grad()
def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Clamps each element of the gradients to [-clip_value, clip_value], in one pass; a nan stays.

    Args:
        parameters: Parameters, or one, whose gradients are clamped in place; those without a gradient are skipped.
        clip_value: The largest magnitude, at least 0.
        foreach: None or True; False takes torch's function, which goes tensor by tensor.

    Raises:
        ValueError: clip_value is negative or nan, or gradients share memory.

    Example:
        >>> import torch
        >>> from onepass.optim import clip_grad_value_
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> weight.grad = torch.tensor([-3.0, 0.5, 4.0])
        >>> clip_grad_value_([weight], clip_value=1.0)
        >>> weight.grad
        tensor([-1.0000,  0.5000,  1.0000])

    Differs from torch: a negative value raises (torch sets every element to it). Complex and sparse gradients go
    to torch's own function.

    Source: torch.nn.utils.clip_grad_value_.
    """
    name = "clip_grad_value_"
    limit = limit_number(name, "clip_value", clip_value)
    tensors = _listed(name, parameters, warn=False)
    grads = _gradients(name, tensors)
    if not grads:
        return
    if foreach is False:
        _torch_clip_grad_value_(tensors, clip_value, foreach)
    elif torch.compiler.is_compiling():
        _ops.clip_grad_value_(grads, limit)
    else:
        _clip_value(tensors, grads, limit, foreach)


def _clip_value(tensors: list[Tensor], grads: list[Tensor], clip_value: float, foreach: bool | None) -> None:
    version = _version_of(grads)
    try:
        _clamp(grads, clip_value)
    except _REFUSALS:
        if _version_of(grads) != version:
            raise
        if any(is_sharded(grad) for grad in grads):
            from onepass.optim._sharding.clip import clip_shards_by_value

            clip_shards_by_value(grads, clip_value)
        elif all(_is_ours(grad) for grad in grads):
            _through_copies("clip_grad_value_", grads, lambda dense: _clamp(dense, clip_value))
        else:
            _torch_clip_grad_value_(tensors, clip_value, foreach)


class _Nonfinite(Exception):
    """The norm is not finite, and the caller asked for an error."""


def _clip_norm(grads: list[Tensor], max_norm: float, order: float, error_if_nonfinite: bool = False) -> Tensor:
    name = "clip_grad_norm_"
    threads = torch.get_num_threads()
    shares = _by_device(grads)
    # The factor depends neither on other devices nor on whether the norm is finite.
    at_once = len(shares) == 1 and not error_if_nonfinite
    written = bump_versions if at_once else None
    found = [measure(name, share, order, max_norm, written) for share in shares]
    controls = [control for control, _ in found]
    if len(shares) > 1:
        _combine(controls, order, max_norm)
    wide = any(has_double for _, has_double in found)
    total = controls[0][NORM].to(torch.float64 if wide else torch.float32)
    if error_if_nonfinite and not bool(controls[0][NORM].isfinite()):
        raise _Nonfinite(
            f"{name}: the gradients' norm of order {order} must be finite with error_if_nonfinite=True, "
            f"got {total.item()}"
        )
    if at_once or (len(shares) == 1 and not total.is_cuda and controls[0][FACTOR] == 1):
        return total  # the gradients are scaled, or need no scaling
    # Comes before the scaling, so that versions are right wherever a signal interrupts it.
    bump_versions(grads)
    for share, control in zip(shares, controls, strict=True):
        _native.core.grad_scale(name, share, control, threads)
    return total


def _combine(controls: list[Tensor], order: float, max_norm: float) -> None:
    """Puts the norm over all devices, and its factor, into each device's control tensor."""
    norms = torch.stack([control[NORM].to(controls[0].device) for control in controls])
    total = torch.linalg.vector_norm(norms, order)
    factor = (max_norm / (total + 1e-6)).clamp(max=1)
    for control in controls:
        control[NORM] = total.to(control.device)
        control[FACTOR] = factor.to(control.device)


def _clamp(grads: list[Tensor], limit: float) -> None:
    for share in _by_device(grads):
        _native.core.grad_clamp("clip_grad_value_", share, limit, torch.get_num_threads())
    bump_versions(grads)


def _version_of(grads: list[Tensor]) -> int:
    first = grads[0]
    return -1 if first.is_inference() else int(first._version)


def _by_device(grads: list[Tensor]) -> list[list[Tensor]]:
    if torch.cuda.device_count() == 0:
        return [grads]
    shares: dict[torch.device, list[Tensor]] = {}
    for grad in grads:
        shares.setdefault(grad.device, []).append(grad)
    return list(shares.values())


def _is_ours(grad: Tensor) -> bool:
    """True if the kernels take a gradient, as it is or as a copy."""
    plain = type(grad) in (Tensor, torch.nn.Parameter) and grad.layout == torch.strided
    return plain and grad.dtype in _DTYPES and grad.device.type in ("cpu", "cuda")


def _through_copies(function: str, grads: list[Tensor], clip: Callable[[list[Tensor]], _Result]) -> _Result:
    (dense,), stands, extents = regular([grads], [True], Names(function, ("grads",)))
    check_apart(extents)
    result = clip(dense)
    for stand in stands:
        stand.tensor.copy_(stand.copy)
    return result


def _order_of(function: str, norm_type: float | str) -> float:
    if isinstance(norm_type, str):
        try:
            order = float(norm_type)
        except ValueError:
            raise ValueError(f"{function}: norm_type must be a number or 'inf', got {told(norm_type)}") from None
    else:
        order = number(function, "norm_type", norm_type)
    if math.isnan(order):  # torch would make every gradient nan
        raise ValueError(f"{function}: norm_type must be a number or 'inf', got nan")
    return order


def _gradients(function: str, tensors: list[Tensor]) -> list[Tensor]:
    # Each is read once: reading makes a Python object, or finds it.
    try:
        grads = [p.grad for p in tensors]
    except AttributeError:
        for i, tensor in enumerate(tensors):
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{function}: parameters[{i}] must be a tensor, got {told(tensor)}") from None
        raise
    return [grad for grad in grads if grad is not None]


def _listed(function: str, parameters: Tensor | Iterable[Tensor], warn: bool = True) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        return [parameters]
    tensors = listed(function, "parameters", parameters, "tensors")
    if warn and not tensors and isinstance(parameters, GeneratorType):
        warnings.warn("`parameters` is an empty generator: no gradient is clipped.", stacklevel=4)
    return tensors


_ops.register_clip(_clip_norm, _clamp)
