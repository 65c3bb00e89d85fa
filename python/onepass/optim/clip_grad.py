"""Clipping of gradients by their common norm and by value, with any optimizer: torch.nn.utils' functions."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from types import GeneratorType
from typing import TypeVar

import torch
from torch import Tensor

from onepass import _native
from onepass._versions import bump_versions
from onepass.optim import _ops
from onepass.optim._lists.arguments import Names, limit_number, number
from onepass.optim._lists.layout import regular
from onepass.optim._lists.overlap import check_apart

__all__ = ["clip_grad_norm_", "clip_grad_value_"]

# What the core says of tensors that it cannot take as they are; nothing has been changed then.
_REFUSALS = (TypeError, ValueError, BufferError, RuntimeError)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_Result = TypeVar("_Result")
# torch's own, held: users put ours in their place, and ours would call itself without end. From the module, whose
# names are rarely replaced, and not from torch.nn.utils.
_torch_clip_grad_norm_: Callable[..., Tensor] = torch.nn.utils.clip_grad.clip_grad_norm_
_torch_clip_grad_value_: Callable[..., None] = torch.nn.utils.clip_grad.clip_grad_value_
# Places in the control tensor (csrc/math/clip.h, StepControl).
_FACTOR, _NORM = 0, 2


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

    One read of the gradients for the norm, and one read and write for the scaling: 12 bytes per float32
    element. On the CPU gradients that are small enough are not written at all: 4 bytes.

    Args:
        parameters: Parameters, or one, whose gradients are scaled in place; those without one are passed over.
        max_norm: The largest norm that is left as it is, at least 0.
        norm_type: The order p of the norm: 1, 2, ``inf`` (also as a string), or any other number.
        error_if_nonfinite: Raise if the norm is infinite or nan. Waits for the GPU.
        foreach: None or True; False takes torch's function, which goes tensor by tensor.

    Returns:
        The norm before clipping, of shape (), on the device of the first gradient; float64 if a gradient is
        float64, else float32.

    Raises:
        ValueError: max_norm is negative or nan, or gradients share memory (torch scales shared ones twice).
        RuntimeError: The norm is not finite and error_if_nonfinite is set. No gradient has been changed.

    Differs from torch: sums are float64, so that a finite float16 or float32 gradient never has an infinite
    norm, and do not depend on the number of threads; the norm of half precision gradients is float32.
    Complex, sparse and DTensor gradients, and orders that are not positive, go to torch's own function.

    Source: Pascanu et al. 2013; torch.nn.utils.clip_grad_norm_.
    """
    name = "clip_grad_norm_"
    limit = limit_number(name, "max_norm", max_norm)
    order = float(norm_type) if isinstance(norm_type, str) else number(name, "norm_type", norm_type)
    tensors = _listed(parameters)
    grads = _gradients(tensors)
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
            raise  # what a signal's handler raised: they are scaled
        if not all(_is_ours(grad) for grad in grads):
            return _torch_clip_grad_norm_(tensors, max_norm, order, error_if_nonfinite, foreach)
    # Strided views among them: they are scaled as copies. Whatever else was refused is refused again.
    return _through_copies(name, grads, lambda dense: _clip_norm(dense, limit, order, error_if_nonfinite))


@torch.no_grad()
def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Clamps each element of the gradients to [-clip_value, clip_value], in one pass; a nan stays.

    Args:
        parameters: Parameters, or one, whose gradients are clamped in place; those without one are passed over.
        clip_value: The largest magnitude, at least 0.
        foreach: None or True; False takes torch's function, which goes tensor by tensor.

    Raises:
        ValueError: clip_value is negative or nan, or gradients share memory.

    Differs from torch: a negative value raises (torch sets every element to it). Complex, sparse and DTensor
    gradients go to torch's own function.

    Source: torch.nn.utils.clip_grad_value_.
    """
    limit = limit_number("clip_grad_value_", "clip_value", clip_value)
    tensors = _listed(parameters, warn=False)
    grads = _gradients(tensors)
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
        if all(_is_ours(grad) for grad in grads):
            _through_copies("clip_grad_value_", grads, lambda dense: _clamp(dense, clip_value))
        else:
            _torch_clip_grad_value_(tensors, clip_value, foreach)


class _Nonfinite(Exception):
    """The norm is not finite, which the caller asked to be told."""


def _clip_norm(grads: list[Tensor], max_norm: float, order: float, error_if_nonfinite: bool = False) -> Tensor:
    name = "clip_grad_norm_"
    threads = torch.get_num_threads()
    shares = _by_device(grads)
    # Neither other devices nor an error have a say in the factor.
    at_once = len(shares) == 1 and not error_if_nonfinite
    found = [_norm_of(share, order, max_norm, at_once) for share in shares]
    controls = [control for control, _ in found]
    if len(shares) > 1:
        _combine(controls, order, max_norm)
    wide = any(has_double for _, has_double in found)
    total = controls[0][_NORM].to(torch.float64 if wide else torch.float32)
    if error_if_nonfinite and not bool(controls[0][_NORM].isfinite()):
        raise _Nonfinite(
            f"{name}: the gradients' norm of order {order} must be finite with error_if_nonfinite=True, "
            f"got {total.item()}"
        )
    if at_once or (len(shares) == 1 and not total.is_cuda and controls[0][_FACTOR] == 1):
        return total  # they are scaled, or no byte needs to be written
    # First, so that it tells in whatever place a signal comes.
    bump_versions(grads)
    for share, control in zip(shares, controls, strict=True):
        _native.core.grad_scale(name, share, control, threads)
    return total


def _norm_of(grads: list[Tensor], order: float, max_norm: float, scales: bool) -> tuple[Tensor, bool]:
    """Of gradients on one device the control tensor, the factor and the norm, and whether one is float64.

    scales: they are scaled, too.
    """
    device = grads[0].device
    control = torch.zeros(_native.core.control_size, dtype=torch.float64, device=device)
    written = bump_versions if scales else None
    workspace = functools.partial(torch.empty, dtype=torch.float64, device=device)
    has_double: bool = _native.core.grad_norm(
        "clip_grad_norm_", grads, order, max_norm, written, control, workspace, torch.get_num_threads()
    )
    return control, has_double


def _combine(controls: list[Tensor], order: float, max_norm: float) -> None:
    """Puts the norm over all devices, and its factor, into each device's control tensor."""
    norms = torch.stack([control[_NORM].to(controls[0].device) for control in controls])
    total = torch.linalg.vector_norm(norms, order)
    factor = (max_norm / (total + 1e-6)).clamp(max=1)
    for control in controls:
        control[_NORM] = total.to(control.device)
        control[_FACTOR] = factor.to(control.device)


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
    """True for what the kernels take, as it lies or as a copy."""
    plain = type(grad) in (Tensor, torch.nn.Parameter) and grad.layout == torch.strided
    return plain and grad.dtype in _DTYPES and grad.device.type in ("cpu", "cuda")


def _through_copies(function: str, grads: list[Tensor], clip: Callable[[list[Tensor]], _Result]) -> _Result:
    (dense,), stands, extents = regular([grads], [True], Names(function, ("grads",)))
    check_apart(extents)
    result = clip(dense)
    for stand in stands:
        stand.tensor.copy_(stand.copy)
    return result


def _gradients(tensors: list[Tensor]) -> list[Tensor]:
    # Each asked for once: that makes a Python object of it, or finds it.
    grads = [p.grad for p in tensors]
    return [grad for grad in grads if grad is not None]


def _listed(parameters: Tensor | Iterable[Tensor], warn: bool = True) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        return [parameters]
    tensors = list(parameters)
    if warn and not tensors and isinstance(parameters, GeneratorType):
        warnings.warn("`parameters` is an empty generator: no gradient is clipped.", stacklevel=4)
    return tensors


_ops.register_clip(_clip_norm, _clamp)
