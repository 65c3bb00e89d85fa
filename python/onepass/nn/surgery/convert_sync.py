"""Makes the batch norms of a model share their statistics between ranks."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from onepass._arguments import check_module
from onepass.nn import batch_norm
from onepass.nn.batch_norm import FusedBatchNorm, SyncBatchNorm
from onepass.nn.batch_norm.sync import is_process_group

__all__ = ["convert_sync_batchnorm"]

_Model = TypeVar("_Model", bound=nn.Module)

_KNOWN: tuple[type[nn.Module], ...] = (
    *batch_norm.OURS,
    *batch_norm.OURS.values(),
    nn.SyncBatchNorm,
    SyncBatchNorm,
)


def convert_sync_batchnorm(model: _Model, process_group: Any = None) -> _Model:
    """Makes the batch norms of a model `SyncBatchNorm` of ours, in place.

    torch's BatchNorm1d, 2d, 3d and SyncBatchNorm, and ours, change their class and keep all they have: parameters,
    buffers, hooks, training flag, activation and dropout. They know their names in the model, which errors give.
    Call it before the model goes into DistributedDataParallel.

    Args:
        model: Any module, also a batch norm itself.
        process_group: The ranks that share statistics; None for all.

    Returns:
        The model.

    Raises:
        TypeError: A batch norm is of another class, whose behaviour is not known here, or lazy and without its
            first batch; process_group is no process group. Nothing has been changed then.
        ValueError: A batch norm has a forward of its own, or attributes that have the names of our options.
            Nothing has been changed then.

    Differs from torch: modules are changed and not replaced, so that optimizers, hooks and references stay.
    Classes that are not known are refused, and not rebuilt without what they do.

    Source: torch.nn.SyncBatchNorm.convert_sync_batchnorm.

    Example:
        >>> import torch
        >>> from onepass.nn import convert_sync_batchnorm
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> type(convert_sync_batchnorm(model)[1]).__name__
        'SyncBatchNorm'
    """
    check_module("convert_sync_batchnorm", "model", model)
    if not is_process_group(process_group):
        raise TypeError(
            "convert_sync_batchnorm: process_group must be a torch.distributed.ProcessGroup or None, got "
            f"{type(process_group).__name__}"
        )
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    for name, module in found:
        _check(name or "the model itself", module)
    for name, module in found:
        module.__class__ = cast(Any, SyncBatchNorm)
        changed = cast(SyncBatchNorm, module)
        changed.process_group, changed._layer = process_group, name
    return model


def _check(which: str, module: nn.Module) -> None:
    kind = type(module)
    if kind not in _KNOWN:
        raise TypeError(
            f"convert_sync_batchnorm: {which} must be exactly torch's or our BatchNorm1d, 2d, 3d or "
            f"SyncBatchNorm, got {kind.__name__}"
        )
    if "forward" in module.__dict__:
        raise ValueError(f"convert_sync_batchnorm: {which} must have no forward of its own, got one")
    if not isinstance(module, FusedBatchNorm):
        taken = [name for name in ("activation", "dropout") if hasattr(module, name)]
        if taken:
            raise ValueError(
                f"convert_sync_batchnorm: {which} must have no attribute {taken[0]}, the name of an option of "
                "ours, got one"
            )
