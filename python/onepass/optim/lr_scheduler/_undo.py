"""Undoes what a call has changed if it fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from onepass.optim.lr_scheduler._wrapped import stepping


@contextmanager
def undone_on_error(optimizer: Optimizer, owners: Iterable[Any]) -> Iterator[None]:
    """Puts attributes, groups, the contents of their tensors and the optimizer's hooks back if the body fails.

    Args:
        optimizer: The optimizer whose groups the body writes.
        owners: The objects whose attributes the body sets; it must set new values, not change those that are
            there.
    """
    kept = [(owner.__dict__, dict(owner.__dict__)) for owner in owners]
    kept += [(group, dict(group)) for group in optimizer.param_groups]
    tensors = [value for group in optimizer.param_groups for value in group.values() if isinstance(value, Tensor)]
    contents = [(tensor, tensor.clone()) for tensor in tensors]
    inner = stepping(optimizer)
    hooks = {} if inner is None else inner._optimizer_step_post_hooks
    known = set(hooks)
    try:
        yield
    except BaseException:
        for changed, before in kept:
            changed.clear()
            changed.update(before)
        for tensor, value in contents:
            tensor.copy_(value)
        for key in set(hooks) - known:
            del hooks[key]
        raise
