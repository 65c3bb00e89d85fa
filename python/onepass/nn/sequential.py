"""Sequential: torch.nn's container, which runs a batch norm and the ReLU behind it in one pass."""

from __future__ import annotations

import copyreg
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules import module as torchs

from onepass.nn._call.altered import hooked
from onepass.nn._call.exporting import is_scripting
from onepass.nn.batch_norm import FusedBatchNorm

__all__ = ["Sequential", "neighbours_of", "pairs_of", "runs_in_turn", "sequential_class"]


class Sequential(nn.Sequential):
    """Runs its modules in turn, a batch norm of ours and the nn.ReLU behind it in one pass over memory.

    The decision is made in each call, by what stands in the container then: an exact torch.nn.ReLU behind a batch
    norm of ours, neither with hooks or a forward of its own. The modules know nothing of each other. So whoever
    replaces, wraps, watches or removes one of them, takes the container apart or runs a part of it gets
    what torch would give. Numbers and gradients are the same either way, but for the copies of the
    activation that autograd keeps.

    Args:
        *args: Modules, or an ordered dict of them.

    Differs from torch: a batch norm and the ReLU behind it run in one pass. With hooks for all modules
    (``register_module_forward_hook``) nothing is fused; torch.fx traces both modules.

    Source: torch.nn.Sequential.

    Example:
        >>> import torch
        >>> from onepass.nn import BatchNorm1d, Sequential
        >>> model = Sequential(BatchNorm1d(3), torch.nn.ReLU())
        >>> model(torch.randn(4, 3)).min().item()
        0.0
    """

    # The class whose place it takes: torch's, or a subclass that runs its modules as torch's does.
    _stands_for: ClassVar[type[nn.Sequential]] = nn.Sequential

    def forward(self, input):  # type: ignore[no-untyped-def]
        """Runs the modules.

        Args:
            input: What the first of them takes.

        Returns:
            What the last of them returns.
        """
        if not is_scripting():
            return self._run(input)
        for module in self:
            input = module(input)
        return input

    def _run(self, input: Any) -> Any:
        """`forward`, but for TorchScript, which compiles torch's loop instead."""
        norm: nn.Module | None = None  # waits for what stands behind it
        for module in self._modules.values():
            if norm is not None:
                if type(module) is nn.ReLU and _is_plain(norm, module) and isinstance(input, Tensor):
                    input = norm(input, activation="relu")
                    norm = None
                    continue
                input = norm(input)
                norm = None
            if isinstance(module, FusedBatchNorm):
                norm = module
            else:
                input = module(input)
        return input if norm is None else norm(input)

    def extra_repr(self) -> str:
        """Returns torch's text, and which modules run in one pass."""
        text: str = super().extra_repr()
        names = [f"({first}) and ({second}) in one pass" for first, second in pairs_of(self)]
        return "\n".join([*([text] if text else []), *names])

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles name the class whose place this takes: classes made while running have no name."""
        made = super().__reduce_ex__(max(2, protocol))
        kind = type(self)._stands_for
        plain = made[0] is copyreg.__newobj__  # type: ignore[attr-defined]
        if not plain or kind is nn.Sequential or type(self) is not sequential_class(kind):
            return made
        return (_empty, (kind,), *made[2:])


def _empty(kind: type[nn.Sequential]) -> nn.Sequential:
    """Returns what a copy of a `sequential_class` is filled into."""
    made = sequential_class(kind)
    return made.__new__(made)


_MADE: dict[type[nn.Sequential], type[Sequential]] = {nn.Sequential: Sequential}


def sequential_class(kind: type[nn.Sequential]) -> type[Sequential]:
    """`Sequential`, or for a subclass of torch's the one class of its name that is also ours."""
    if kind not in _MADE:
        names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        _MADE.setdefault(kind, type(kind.__name__, (Sequential, kind), {**names, "_stands_for": kind}))
    return _MADE[kind]


def runs_in_turn(module: nn.Module) -> bool:
    """Returns True for an nn.Sequential, also of a subclass, that runs its children as nn.Sequential does."""
    return (
        isinstance(module, nn.Sequential)
        and type(module).forward in (nn.Sequential.forward, Sequential.forward)
        and type(module).__iter__ is nn.Sequential.__iter__
        and "forward" not in module.__dict__
    )


def pairs_of(module: nn.Sequential) -> list[tuple[str, str]]:
    """Names of the batch norms of ours and of the ReLUs behind them that run in one pass, as things stand."""
    return [pair for pair, reason in neighbours_of(module) if not reason]


def neighbours_of(module: nn.Sequential) -> Iterator[tuple[tuple[str, str], str]]:
    """Names of the batch norms of ours and of the ReLUs behind them, and why not in one pass; empty if so."""
    for (first, norm), (second, relu) in pairwise(module._modules.items()):
        if not isinstance(norm, FusedBatchNorm) or type(relu) is not nn.ReLU:
            continue
        reason = ""
        for which, one in (("its ReLU", relu), ("it", norm)):
            if hooked(one):
                reason = f"no ReLU: {which} has hooks"
            if "forward" in one.__dict__:
                reason = f"no ReLU: {which} has a forward of its own"
        if type(norm).forward is not FusedBatchNorm.forward:
            reason = "no ReLU: its class has a forward of its own"
        yield (first, second), reason


def _is_plain(norm: nn.Module, relu: nn.Module) -> bool:
    """Returns True if nobody sees what lies between the two, and both compute what their classes say.

    Without a loop, which a call on a small tensor would notice.
    """
    return not (
        norm._forward_hooks
        or norm._forward_pre_hooks
        or norm._backward_hooks
        or norm._backward_pre_hooks
        or relu._forward_hooks
        or relu._forward_pre_hooks
        or relu._backward_hooks
        or relu._backward_pre_hooks
        or torchs._global_forward_hooks
        or torchs._global_forward_pre_hooks
        or torchs._global_backward_hooks
        or torchs._global_backward_pre_hooks
        or "forward" in norm.__dict__
        or "forward" in relu.__dict__
        or type(norm).forward is not FusedBatchNorm.forward
    )
