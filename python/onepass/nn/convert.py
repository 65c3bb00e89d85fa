"""Makes the batch norms and dropouts of a model ours, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from onepass.nn import batch_norm, dropout
from onepass.nn.batch_norm import FusedBatchNorm
from onepass.nn.dropout import DropoutModule

__all__ = ["Conversion", "Entry", "convert"]

_OURS: dict[type[nn.Module], type[nn.Module]] = {**batch_norm.OURS, **dropout.OURS}

# Hooks that see an input or output of the module or of its backward pass.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


# Attributes that ours have and torch's have not.
_OPTIONS = ("activation", "dropout", "scaling")


def _options_of(kind: type[nn.Module]) -> list[str]:
    return [option for option in _OPTIONS if hasattr(_OURS.get(kind), option)]


class Entry(NamedTuple):
    """What became of one batch norm or dropout, or of a ReLU that a batch norm took over."""

    name: str
    """Of the module in the model, as ``named_modules()`` tells it."""
    kind: str
    """Its class before."""
    outcome: str
    """``"replaced"``, ``"replaced, with ReLU"``, ``"taken over"`` (a ReLU), or ``"left"``."""
    note: str
    """Why it was left, or its ReLU was not taken over; else empty."""


@dataclass
class Conversion:
    """What `convert` did, to look at or to take back."""

    table: list[Entry]
    _modules: list[tuple[nn.Module, type[nn.Module]]] = field(default_factory=list, repr=False)

    def revert(self) -> None:
        """Gives every module that was changed its class back; parameters, buffers and hooks stay as they are.

        Raises:
            RuntimeError: It has been reverted already.
        """
        if not self._modules and any(entry.outcome != "left" for entry in self.table):
            raise RuntimeError("revert: the conversion must not have been reverted before, got a second call")
        for module, kind in self._modules:
            module.__class__ = kind
            for option in _options_of(kind):
                module.__dict__.pop(option, None)
        self._modules.clear()

    def __str__(self) -> str:
        """The table as text, a line a module."""
        if not self.table:
            return "no batch norm or dropout"
        widths = [max(len(entry[column]) for entry in self.table) for column in range(3)]
        return "\n".join(
            "  ".join([*map(str.ljust, entry[:3], widths), entry.note]).rstrip() for entry in self.table
        )


def convert(model: nn.Module, *, fuse_relu: bool = False) -> Conversion:
    """Makes torch's batch norms and dropouts in a model ours, in place.

    A module keeps its identity and all it has: parameters, buffers, hooks, training flag, attributes. Only
    its class changes, so optimizers, references and state dicts are as before. Exact instances of
    torch.nn.BatchNorm1d, 2d and 3d, Dropout, Dropout1d, 2d and 3d, AlphaDropout and FeatureAlphaDropout are
    replaced. SyncBatchNorm, lazy modules before their first batch, subclasses (whose behaviour is not known here)
    and modules with a forward of their own, or with an attribute that has the name of an option of ours, are left
    alone and listed. Dropouts then draw other masks for the same
    seed.

    Args:
        model: Any module, also a batch norm or dropout itself.
        fuse_relu: Let a batch norm apply the ReLU that follows it, where that can be told from the modules: both
            are neighbours in an nn.Sequential that runs them in turn, each is used at that place alone, and
            neither has hooks. The ReLU becomes an nn.Identity. Code that runs a part of the Sequential by
            itself, ending between the two, sees the activation earlier.

    Returns:
        A table of what was replaced and what was not, with ``revert()``; ``print`` shows it.

    Source: none; torch.nn.SyncBatchNorm.convert_sync_batchnorm makes new modules instead.
    """
    result = Conversion([])
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    followers = dict(_followers(model)) if fuse_relu else {}
    names = {id(module): name for name, module in model.named_modules()}
    for name, module in model.named_modules():
        if not isinstance(module, (_BatchNorm, _DropoutNd)):
            continue
        kind: type[nn.Module] = type(module)
        reason = _why_left(module)
        if reason:
            result.table.append(Entry(name, kind.__name__, "left", reason))
            continue
        result._modules.append((module, kind))
        module.__class__ = cast(Any, _OURS[kind])
        relu = followers.get(id(module))
        if relu is None:
            result.table.append(Entry(name, kind.__name__, "replaced", ""))
            continue
        reason = _why_apart(module, relu, uses)
        if reason:
            result.table.append(Entry(name, kind.__name__, "replaced", reason))
            continue
        cast(FusedBatchNorm, module).activation = "relu"
        result._modules.append((relu, type(relu)))
        relu.__class__ = nn.Identity
        result.table.append(Entry(name, kind.__name__, "replaced, with ReLU", ""))
        result.table.append(Entry(names[id(relu)], "ReLU", "taken over", ""))
    return result


def _why_left(module: nn.Module) -> str:
    """Why a batch norm or dropout is not replaced; empty if it is."""
    if isinstance(module, (FusedBatchNorm, DropoutModule)):
        return "is of onepass already"
    if type(module) not in _OURS:
        kinds = dropout.OURS if isinstance(module, _DropoutNd) else batch_norm.OURS
        return f"is not exactly torch's {', '.join(kind.__name__ for kind in kinds)}"
    if "forward" in module.__dict__:
        return "has a forward of its own"
    taken = [option for option in _options_of(type(module)) if hasattr(module, option)]
    return f"has an attribute of the name of our option {taken[0]}" if taken else ""


def _followers(model: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """The ReLU that follows a batch norm in a Sequential, by the batch norm's id."""
    for module in model.modules():
        in_turn = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        if not in_turn or "forward" in module.__dict__:
            continue
        children = list(module._modules.values())  # with those that stand there twice
        for first, second in pairwise(children):
            if isinstance(first, _BatchNorm) and type(second) is nn.ReLU:
                yield id(first), second


def _why_apart(module: nn.Module, relu: nn.Module, uses: Counter[int]) -> str:
    """Why a batch norm does not take over the ReLU behind it; empty if it does."""
    for which, one in (("it", module), ("its ReLU", relu)):
        if uses[id(one)] > 1:
            return f"no ReLU: {which} is used {uses[id(one)]} times"
        if any(getattr(one, hooks) for hooks in _HOOKS):
            return f"no ReLU: {which} has hooks"
    return "no ReLU: it has a forward of its own" if "forward" in relu.__dict__ else ""
