"""Steps on explicit lists, whatever the memory layout of their tensors.

Tensors that the core cannot take as they lie are stood in for by copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onepass import _native
from onepass._versions import bump_versions
from onepass.optim._lists.arguments import Names
from onepass.optim._lists.layout import Stand, regular
from onepass.optim._lists.overlap import Extent, check_apart
from onepass.optim._step.tailed import NO_TAIL, Tail

__all__ = ["run_adam", "run_sgd"]

_SGD_LISTS = ("params", "grads", "momentum_buffer_list")
_ADAM_LISTS = ("params", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs")


def run_sgd(function: str, groups: list[tuple[Any, ...]], tail: Tail = NO_TAIL) -> None:
    """Steps groups, whatever their layout; all or none.

    A group: (params, grads, buffers, first, steps or None, lows or None, emas or None, options, indices), see
    csrc/bind/sgd.cpp. indices: where in its param group each parameter stands, for errors, or None.
    """
    arranger = _Arranger(function, groups, tail)
    arranged = []
    for position, (params, grads, buffers, first, steps, lows, emas, options, indices) in enumerate(groups):
        own = [params, grads, *([buffers] if buffers else [])]
        lists, lows, emas = arranger.arrange(position, own, _SGD_LISTS, lows, emas, indices)
        buffers = lists[2] if buffers else []
        arranged.append((lists[0], lists[1], buffers, first, steps, lows, emas, options, indices))
    arranger.run(_native.core.sgd, arranged)


def run_adam(function: str, groups: list[tuple[Any, ...]], tail: Tail = NO_TAIL) -> None:
    """As `run_sgd`, with groups as csrc/bind/adam.cpp has them."""
    arranger = _Arranger(function, groups, tail)
    arranged = []
    for position, (*given, steps, lows, emas, options, indices) in enumerate(groups):
        own = [entries for entries in given if entries is not None]
        lists, lows, emas = arranger.arrange(position, own, _ADAM_LISTS, lows, emas, indices)
        largest = lists[4] if len(lists) > 4 else None
        arranged.append((*lists[:4], largest, steps, lows, emas, options, indices))
    arranger.run(_native.core.adam, arranged)


class _Arranger:
    """Brings the groups of one call to layouts that the core takes, calls it, and copies back."""

    def __init__(self, function: str, groups: list[tuple[Any, ...]], tail: Tail) -> None:
        self.function = function
        self.groups = groups
        self.tail = tail
        self.stands: list[Stand] = []
        self.extents: list[Extent] = []

    def arrange(
        self,
        position: int,
        own: list[list[Any]],
        own_names: tuple[str, ...],
        lows: list[Any] | None,
        emas: list[Any] | None,
        indices: list[int] | None,
    ) -> tuple[list[list[Any]], list[Any] | None, list[Any] | None]:
        """One group's own lists, lows and emas, copies in place of what is irregular."""
        beside = {"lows": lows, "emas": emas}
        present = [name for name, entries in beside.items() if entries is not None]
        # How errors number a group: not at all if it is the only one.
        number = position if len(self.groups) > 1 else None
        names = Names(self.function, (*own_names[: len(own)], *present), number, indices)
        given = [*own, *(beside[name] or [] for name in present)]
        writable = [k != 1 or self.tail.zero_grad for k in range(len(given))]
        lists, back, memory = regular(given, writable, names)
        self.stands += back
        self.extents += memory
        found = dict(zip(present, lists[len(own) :], strict=True))
        return lists[: len(own)], found.get("lows"), found.get("emas")

    def run(self, native: Callable[..., Any], arranged: list[tuple[Any, ...]]) -> None:
        check_apart(self.extents)
        self.tail.run(native, self.function, arranged)
        with torch.no_grad():
            for stand in self.stands:
                stand.tensor.copy_(stand.copy)
        for group in self.groups:
            written = [*group[0], *(group[1] if self.tail.zero_grad else ())]
            bump_versions([entry for entry in written if isinstance(entry, Tensor)])
