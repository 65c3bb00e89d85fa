"""Makes the norms and dropouts of a model ours, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from onepass._arguments import check_module
from onepass.nn import batch_norm, dropout, row_norm
from onepass.nn.batch_norm import FusedBatchNorm
from onepass.nn.dropout import DropoutModule
from onepass.nn.row_norm import RowNormModule
from onepass.nn.sequential import neighbours_of, runs_in_turn, sequential_class
from onepass.nn.surgery.revert import is_ours, revert_modules

__all__ = ["Conversion", "Entry", "convert"]

_OURS: dict[type[nn.Module], type[nn.Module]] = {**batch_norm.OURS, **dropout.OURS, **row_norm.OURS}

_KINDS = (_BatchNorm, _DropoutNd, nn.LayerNorm, nn.RMSNorm)

# Attributes that ours have and torch's have not.
_OPTIONS = ("activation", "dropout", "same_across_ranks", "scaling")


class Entry(NamedTuple):
    """What became of one norm or dropout, or of a container and a ReLU that are run with a batch norm."""

    name: str
    """The module's name in the model, from ``named_modules()``."""
    kind: str
    """Its class before."""
    outcome: str
    """``"replaced"`` or ``"left"``, for a batch norm also ``"..., with ReLU"``, for that ReLU ``"taken over"``."""
    note: str
    """Why it was left, or its ReLU is not run with it; else empty."""


@dataclass
class Conversion:
    """Holds what `convert` did, to look at or to take back.

    Example:
        >>> import torch
        >>> from onepass.nn import convert
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU())
        >>> conversion = convert(model)
        >>> print(conversion)
        0  BatchNorm1d  replaced
        >>> conversion.revert()
        >>> type(model[0]) is torch.nn.BatchNorm1d
        True
    """

    table: list[Entry]
    _modules: list[tuple[str, nn.Module]] = field(default_factory=list, repr=False)

    def revert(self) -> None:
        """Gives every module that was changed its class back; parameters, buffers and hooks stay as they are.

        Raises:
            RuntimeError: It has been reverted already.
            ValueError: What `onepass.nn.revert` raises; nothing has been changed then.
        """
        if not self._modules and any(entry.outcome.startswith("replaced") for entry in self.table):
            raise RuntimeError("revert: the conversion must not have been reverted before, got a second call")
        revert_modules(self._modules)
        self._modules.clear()

    def __str__(self) -> str:
        """Returns the table as text, a line a module."""
        if not self.table:
            return "no norm or dropout"
        lines = [(entry.name or "the model itself", *entry[1:]) for entry in self.table]
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        return "\n".join("  ".join([*map(str.ljust, line[:3], widths), line[3]]).rstrip() for line in lines)


def convert(model: nn.Module, *, fuse_relu: bool = False) -> Conversion:
    """Makes torch's norms and dropouts in a model ours, in place.

    A module keeps its identity and all it has: parameters, buffers, hooks, training flag, attributes. Only
    its class changes, so optimizers, references and state dicts are as before. Exact instances of
    torch.nn.BatchNorm1d, 2d and 3d, LayerNorm, RMSNorm, Dropout, Dropout1d, 2d and 3d, AlphaDropout and
    FeatureAlphaDropout are replaced. SyncBatchNorm, lazy modules before their first batch, subclasses (whose
    behaviour is not known here) and modules with a forward of their own, or with an attribute that has the name of
    an option of ours, are left alone and listed. Dropouts then draw other masks for the same seed. A LayerNorm
    without a residual is faster than torch's for long float32 rows only (docs/performance.md).

    Args:
        model: Any module, also a norm or dropout itself.
        fuse_relu: Run a batch norm and the nn.ReLU behind it in one pass, where both are neighbours in an
            nn.Sequential that runs its modules in turn: the container becomes a `Sequential` of ours, and both
            stay what they are. In each call the container looks who stands in it: whoever replaces
            or watches one of them, or runs the modules by himself, gets what torch would give.

    Returns:
        A table of what was replaced and what was not, with ``revert()``; ``print`` shows it. `revert` does
        without it.

    Source: none; torch.nn.SyncBatchNorm.convert_sync_batchnorm makes new modules instead.

    Example:
        >>> import torch
        >>> from onepass.nn import convert
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        >>> print(convert(model, fuse_relu=True))
        the model itself  Sequential   replaced
        1                 BatchNorm2d  replaced, with ReLU
        2                 ReLU         taken over
    """
    check_module("convert", "model", model)
    named = list(model.named_modules())
    kinds = {id(module): type(module).__name__ for _, module in named}
    result = Conversion([])
    outcomes: dict[int, tuple[str, str]] = {}
    for name, module in named:
        if isinstance(module, _KINDS):
            reason = _why_left(module)
            outcomes[id(module)] = ("left" if reason else "replaced", reason)
            if not reason:
                result._modules.append((name, module))
                module.__class__ = cast(Any, _OURS[type(module)])
    for name, module in named if fuse_relu else ():
        if isinstance(module, nn.Sequential) and runs_in_turn(module) and _fuse(module, outcomes):
            result._modules.append((name, module))
    result.table += [
        Entry(name, kinds[id(module)], *outcomes[id(module)]) for name, module in named if id(module) in outcomes
    ]
    return result


def _fuse(container: nn.Sequential, outcomes: dict[int, tuple[str, str]]) -> bool:
    """Makes a container ours that holds a batch norm and a ReLU to run in one pass; True if its class changed."""
    pairs = list(neighbours_of(container))
    kind: type[nn.Sequential] | None = None
    failed = ""
    if not is_ours(container) and any(not reason for _, reason in pairs):
        kind, failed = _fusing(type(container))
    for (first, second), reason in pairs:
        norm, relu = id(container._modules[first]), id(container._modules[second])
        outcome, note = outcomes[norm]
        if reason or failed:
            outcomes[norm] = outcome, note or reason or failed
        else:
            outcomes[norm] = f"{outcome.partition(',')[0]}, with ReLU", note
            outcomes[relu] = "taken over", ""
    if kind is None:
        return False
    outcomes[id(container)] = "replaced", ""
    container.__class__ = cast(Any, kind)
    return True


def _fusing(kind: type[nn.Sequential]) -> tuple[type[nn.Sequential] | None, str]:
    """Returns the class of a container that fuses, or None and why there is none."""
    if kind is not nn.Sequential and kind.__module__.startswith("torch."):
        # Such as torch.ao's ConvBnReLU2d, for which torch's tools have tables.
        return None, f"no ReLU: its container is a {kind.__name__} of torch's own"
    try:
        return sequential_class(kind), ""
    except Exception as error:  # whatever an __init_subclass__ or a metaclass raises
        return None, f"no ReLU: no class can be derived from its container's {kind.__name__} ({error})"


def _is_like(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Returns True if a module is of the family of torch's class."""
    return any(isinstance(module, base) and issubclass(kind, base) for base in _KINDS)


def _why_left(module: nn.Module) -> str:
    """Says why a norm or dropout is not replaced; empty if it is."""
    if isinstance(module, (FusedBatchNorm, DropoutModule, RowNormModule)):
        return "is of onepass already"
    if type(module) not in _OURS:
        families = (batch_norm.OURS, dropout.OURS, row_norm.OURS)
        kinds = next(family for family in families if any(_is_like(module, torchs) for torchs in family))
        return f"is not exactly torch's {', '.join(kind.__name__ for kind in kinds)}"
    if "forward" in module.__dict__:
        return "has a forward of its own"
    ours = _OURS[type(module)]
    taken = [option for option in _OPTIONS if hasattr(ours, option) and hasattr(module, option)]
    return f"has an attribute of the name of our option {taken[0]}" if taken else ""
