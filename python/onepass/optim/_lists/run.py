"""Steps on explicit lists, whatever the memory layout of their tensors.

Tensors that the core cannot take as they are stored are replaced by copies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onepass import _native
from onepass._versions import bump_versions
from onepass.optim._lists.arguments import Names
from onepass.optim._lists.layout import Stand, regular
from onepass.optim._lists.overlap import Extent, check_apart
from onepass.optim._lists.records import ListGroup
from onepass.optim._lists.tail import NOTHING, Tail

if TYPE_CHECKING:
    from onepass._core import Rule

__all__ = ["rule_of", "run_lists"]


def rule_of(formula: str) -> Rule:
    """The core's two ways into a step by this formula, for instance "adam"."""
    rule: Rule = getattr(_native.core, formula)
    return rule


def run_lists(formula: str, function: str, groups: list[ListGroup], tail: Tail = NOTHING) -> None:
    """Steps groups, whatever their layout; all or none.

    Args:
        formula: What the core calls the update, for instance "adam".
        function: What errors call the step, for instance "adamw".
        groups: The lists of each param group; if there are several, errors give the number of the group.
        tail: What the step does besides the update.

    Raises:
        ValueError: A shape, device, layout or option does not fit, or tensors share memory; nothing is changed.
        TypeError: An entry is no tensor or has another dtype; nothing is changed.
    """
    stands: list[Stand] = []
    extents: list[Extent] = []
    arranged = []
    for position, group in enumerate(groups):
        number = position if len(groups) > 1 else None
        arranged.append(_arranged(group, function, number, tail.zero_grad, stands, extents))
    check_apart(extents)
    rule_of(formula).step_lists(function, arranged, tail.asked, torch.get_num_threads())
    with torch.no_grad():
        for stand in stands:
            stand.tensor.copy_(stand.copy)
    for group in groups:
        written = [*group.params, *(group.grads if tail.zero_grad else ())]
        bump_versions([entry for entry in written if isinstance(entry, Tensor)])


def _arranged(
    group: ListGroup,
    function: str,
    number: int | None,
    writes_grads: bool,
    stands: list[Stand],
    extents: list[Extent],
) -> ListGroup:
    """The group with copies in place of what is irregular; appends the copies, and the memory of all entries."""
    more: dict[str, list[Any] | None] = {"lows": group.lows, "emas": group.emas}
    given = {"params": group.params, "grads": group.grads, **group.states}
    given.update({name: entries for name, entries in more.items() if entries is not None})
    names = Names(function, tuple(given), number, group.indices)
    writable = [name != "grads" or writes_grads for name in given]
    lists, back, memory = regular(list(given.values()), writable, names)
    stands += back
    extents += memory
    found = dict(zip(given, lists, strict=True))
    return replace(
        group,
        params=found.pop("params"),
        grads=found.pop("grads"),
        lows=found.pop("lows", None),
        emas=found.pop("emas", None),
        states=found,
    )
