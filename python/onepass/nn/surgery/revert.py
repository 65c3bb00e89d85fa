"""The way back: torch's own classes for the modules of a model that are ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar, cast

from torch import nn

from onepass._arguments import check_module, told
from onepass.nn import batch_norm, dropout, row_norm, sequential
from onepass.nn.batch_norm import FusedBatchNorm
from onepass.nn.cross_entropy import CrossEntropyLoss
from onepass.nn.dropout import DropoutModule
from onepass.nn.row_norm import RowNormModule

__all__ = ["is_ours", "revert", "revert_modules"]

_Model = TypeVar("_Model", bound=nn.Module)


class _Option(NamedTuple):
    """An option that ours has and torch's class does not."""

    name: str
    neutral: Any
    """The value with which ours computes what torch's class computes."""
    instead: str
    """What to do where it has another; empty where the option changes no number."""


_BATCH_NORM = (
    _Option("activation", None, "set it to None and put an nn.ReLU behind the module"),
    _Option("dropout", 0, "set it to 0 and put an nn.Dropout behind the module"),
)
_RANKS = _Option("same_across_ranks", False, "set it to False: torch's ranks draw by themselves")
_SCALING = (_Option("scaling", "inverted", "torch's dropout scales in training"), _RANKS)
_LOSS = (
    _Option("z_loss", 0, "set it to 0 and add the term to the loss"),
    _Option("inplace_backward", False, ""),
    _Option("return_stats", False, "set it to False"),
)
_ROW_NORM = (_Option("dropout", 0, "set it to 0 and put an nn.Dropout before the sum with the residual"),)
_OURS: tuple[type[nn.Module], ...] = (
    FusedBatchNorm,
    DropoutModule,
    RowNormModule,
    CrossEntropyLoss,
    sequential.Sequential,
)
# Torch's classes by ours.
_TORCHS: dict[type[nn.Module], type[nn.Module]] = {
    **{ours: torchs for torchs, ours in batch_norm.OURS.items()},
    **{ours: torchs for torchs, ours in dropout.OURS.items()},
    **{ours: torchs for torchs, ours in row_norm.OURS.items()},
    batch_norm.SyncBatchNorm: nn.SyncBatchNorm,
    CrossEntropyLoss: nn.CrossEntropyLoss,
    sequential.Sequential: nn.Sequential,
}


def is_ours(module: nn.Module) -> bool:
    """Returns True for a module of onepass, also of a subclass."""
    return isinstance(module, _OURS)


def revert(model: _Model) -> _Model:
    """Gives the modules of a model that are of onepass torch's own classes, in place.

    The way back from `convert` without what it returned, also after ``copy.deepcopy``, ``pickle`` and
    ``torch.load``. Parameters, buffers, hooks, training flags, names and attributes stay as they are, and every
    nn.ReLU and nn.Dropout is where it was. Dropouts then draw other masks for the same seed. Calls of
    `onepass.nn.functional` in the model's code remain.

    Args:
        model: Any module, also one of onepass itself.

    Returns:
        The model.

    Raises:
        ValueError: A module does what torch's class cannot, by name: a batch norm with activation or dropout, a
            dropout with another scaling, a loss with z_loss or statistics, a class that is derived from one
            of ours, also by torch's parametrizations. Nothing has been changed then.
        RuntimeError: The model is within an `mc_dropout` block.

    Example:
        >>> import torch
        >>> from onepass.nn import BatchNorm2d, revert
        >>> type(revert(BatchNorm2d(3))) is torch.nn.BatchNorm2d
        True
    """
    check_module("revert", "model", model)
    revert_modules(model.named_modules())
    return model


def revert_modules(named: Iterable[tuple[str, nn.Module]]) -> None:
    """Does what `revert` does to these modules only; those that are not ours stay as they are."""
    found = [(name, module) for name, module in named if is_ours(module)]
    kinds = [_torchs_class(name, module) for name, module in found]
    for (_, module), kind in zip(found, kinds, strict=True):
        for option in _options_of(module):
            module.__dict__.pop(option.name, None)
        module.__dict__.pop("_layer", None)
        module.__class__ = cast(Any, kind)


def _options_of(module: nn.Module) -> tuple[_Option, ...]:
    if isinstance(module, FusedBatchNorm):
        return _BATCH_NORM
    if isinstance(module, CrossEntropyLoss):
        return _LOSS
    if isinstance(module, RowNormModule):
        return _ROW_NORM
    # The alpha dropouts' scaling belongs to their class: it is no option.
    if not isinstance(module, DropoutModule):
        return ()
    return _SCALING if module.scaling != "alpha" else (_RANKS,)


def _torchs_class(name: str, module: nn.Module) -> type[nn.Module]:
    """Returns the class that a module gets; raises where it would compute something else then."""
    which = f"{name or 'the model itself'} ({type(module).__name__})"
    kind = _TORCHS.get(type(module))
    if isinstance(module, sequential.Sequential):
        stands_for = type(module)._stands_for
        if sequential.sequential_class(stands_for) is type(module):
            kind = stands_for
    if kind is None:
        own = "with parametrizations" if "parametrizations" in module._modules else "of a class derived from it"
        raise ValueError(f"revert: {which} must be exactly a module of onepass, got one {own}")
    for option in _options_of(module):
        value = getattr(module, option.name)
        if option.instead and value != option.neutral:
            raise ValueError(
                f"revert: {option.name} of {which} must be {option.neutral!r}, which torch's class does, "
                f"got {told(value)}; {option.instead}"
            )
    if getattr(module, "_thinned", None) is not None:
        raise RuntimeError(f"revert: {which} must not be within an mc_dropout block, got one that is")
    return kind
