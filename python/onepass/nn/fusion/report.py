"""What `fuse` returns: a table of all batch norms, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from onepass.nn.surgery.revert import revert_modules

__all__ = ["Fusion", "Place"]


class Place(NamedTuple):
    """What became of one batch norm."""

    name: str
    """The module's name in the model, from ``named_modules()``."""
    kind: str
    """Its class before."""
    outcome: str
    """``"fused with ..."`` or ``"left"``."""
    note: str
    """In which module's forward it is fused, or why it is left."""


@dataclass
class Fusion:
    """Holds what `fuse` did, to look at or to take back.

    Example:
        >>> import torch
        >>> from onepass.nn import fuse
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU(), torch.nn.Dropout(0.1))
        >>> fusion = fuse(model)
        >>> print(fusion)
        0  BatchNorm1d  fused with ReLU, dropout  in the model itself (Sequential)
        >>> fusion.revert()
        >>> type(model[0]) is torch.nn.BatchNorm1d
        True
    """

    table: list[Place]
    _modules: list[tuple[str, nn.Module]] = field(default_factory=list, repr=False)
    _reverted: bool = field(default=False, repr=False)

    def revert(self) -> None:
        """Gives every module that was changed its class back; parameters, buffers and hooks stay as they are.

        Raises:
            RuntimeError: It has been reverted already.
            ValueError: What `onepass.nn.revert` raises; nothing has been changed then.
        """
        if self._reverted:
            raise RuntimeError("revert: the fusion must not have been reverted before, got a second call")
        revert_modules(self._modules)
        self._modules.clear()
        self._reverted = True

    def __str__(self) -> str:
        """Returns the table as text, a line a batch norm."""
        if not self.table:
            return "no batch norm"
        lines = [(place.name or "the model itself", *place[1:]) for place in self.table]
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        return "\n".join("  ".join([*map(str.ljust, line[:3], widths), line[3]]).rstrip() for line in lines)
