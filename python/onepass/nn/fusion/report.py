"""What became of each batch norm of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from onepass.nn.fusion.call import INSTALLED, FusedCall, take_away
from onepass.nn.fusion.rewrite import Outcome

__all__ = ["Fusion", "Place"]

NOT_SEEN = "not recorded yet"


class Place(NamedTuple):
    """What became of one batch norm."""

    name: str
    """The module's name in the model, from ``named_modules()``."""
    kind: str
    """Its class."""
    outcome: str
    """``"fused with ..."``, ``"left"`` or ``"not recorded yet"``."""
    note: str
    """Why it was left, or was not recorded; else empty."""


@dataclass(eq=False)
class Fusion:
    """Holds what `fuse` has found so far, to look at or to take back.

    Each recording of the forward adds to it: the first call in training, in evaluation, with another kind of
    input.

    Example:
        >>> import torch
        >>> from onepass.nn import fuse
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU())
        >>> fusion = fuse(model, torch.randn(4, 3))
        >>> print(fusion)
        0  BatchNorm1d  fused with ReLU
        >>> fusion.revert()
    """

    graphs: int = 0
    """How many graphs dynamo has recorded; a model that it records again and again gains nothing."""
    _model: nn.Module = field(default_factory=nn.Module, repr=False)
    _outcomes: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    _reason: str = field(default="", repr=False)

    @property
    def left(self) -> str:
        """Why the whole model runs as it was written; empty if it does not."""
        call = self._model.__dict__.get(INSTALLED)
        return call.left if isinstance(call, FusedCall) else "it has been reverted"

    @property
    def table(self) -> list[Place]:
        """The batch norms of the model, with what its latest recording did to each."""
        places = []
        unseen = self.left or self._reason
        for name, module in self._model.named_modules():
            if isinstance(module, _BatchNorm):
                outcome, note = self._outcomes.get(name, ("left" if self.left else NOT_SEEN, unseen))
                places.append(Place(name, type(module).__name__, outcome, note))
        return places

    def revert(self) -> None:
        """Makes the model call its own forward again; nothing else of it was changed.

        Raises:
            RuntimeError: It has been reverted already.
        """
        if not take_away(self._model):
            raise RuntimeError("revert: the fusion must not have been reverted before, got a second call")

    def __str__(self) -> str:
        """Returns the table as text, a line a batch norm."""
        lines = [(place.name or "the model itself", *place[1:]) for place in self.table]
        if not lines:
            return "no batch norm"
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        return "\n".join("  ".join([*map(str.ljust, line[:3], widths), line[3]]).rstrip() for line in lines)

    def _note(self, outcomes: list[Outcome]) -> None:
        """Takes the outcomes of a graph."""
        self.graphs += 1
        names = {str(id(module)): name for name, module in self._model.named_modules()}
        for node, outcome, reason in outcomes:
            stack = list(node.meta.get("nn_module_stack", ()))
            key = str(stack[-1]).partition("@")[0] if stack else ""
            if key in names:
                self._outcomes[names[key]] = outcome, reason
