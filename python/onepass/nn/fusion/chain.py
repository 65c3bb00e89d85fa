"""Runs a batch norm and the steps behind it: in one pass where all of them are what they seem, else one by one."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torchs

from onepass.nn._call.dispatch import has_functorch
from onepass.nn.batch_norm import FusedBatchNorm
from onepass.nn.dropout import Dropout, functions

__all__ = ["ADD", "DROPOUT", "IDENTITY", "RELU", "chain", "is_untouched"]

# Kinds of steps, in the order in which one pass takes them; an identity may stand anywhere.
IDENTITY, ADD, RELU, DROPOUT = "identity", "add", "relu", "dropout"
# What the input of a chain may be: other tensors go through each module's own way.
_PLAIN = (Tensor, nn.Parameter)


def chain(norm: nn.Module, input: Any, *steps: tuple[str, Any]) -> Any:
    """Computes what a batch norm and the steps behind it compute.

    Each call looks at the modules as they are then. A module with hooks, of another class, or with a forward of
    its own is called by itself, and so is every step behind it.

    Args:
        norm: The batch norm.
        input: Its input.
        steps: A kind and what it needs: the other summand; the nn.ReLU, or None for the function; the nn.Dropout,
            or the function's probability.

    Returns:
        What the last step returns.
    """
    if not _takes_options(norm) or type(input) not in _PLAIN:
        return _one_by_one(norm(input), steps)
    residual: Tensor | None = None
    activation: str | None = None
    dropout: float | None = None
    taken = 0
    for kind, what in steps:
        if kind == ADD:
            if type(what) not in _PLAIN or what.shape != input.shape or what.dtype != input.dtype:
                break
            residual = what
        elif kind == RELU:
            if what is not None and not (type(what) is nn.ReLU and is_untouched(what)):
                break
            activation = "relu"
        elif kind == DROPOUT:
            drops = _probability(norm, what)
            if drops is None:
                break
            dropout = drops
        elif type(what) is not nn.Identity or not is_untouched(what):
            break
        taken += 1
    output = norm(input, residual, activation, dropout)
    return _one_by_one(output, steps[taken:]) if taken < len(steps) else output


def is_untouched(module: nn.Module) -> bool:
    """Returns True if nobody sees what goes in and out, and the module has no forward of its own.

    Without a loop, which a call on a small tensor would notice.
    """
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or torchs._global_forward_hooks
        or torchs._global_forward_pre_hooks
        or torchs._global_backward_hooks
        or torchs._global_backward_pre_hooks
        or "forward" in module.__dict__
    )


def _takes_options(norm: nn.Module) -> bool:
    return (
        isinstance(norm, FusedBatchNorm)
        and type(norm).forward is FusedBatchNorm.forward
        and norm.activation is None
        and not norm.dropout
        and norm._thinned is None
        and is_untouched(norm)
    )


def _probability(norm: nn.Module, what: Any) -> float | None:
    """Returns with which probability the batch norm has to drop; None if it cannot do what the step does."""
    if isinstance(what, nn.Module):
        if type(what) is not Dropout or what.scaling != "inverted" or not is_untouched(what):
            return None
        if what._thinned is not None or what.same_across_ranks:
            return None
        if not what.training:
            return 0.0
        what = what.p
    # The batch norm drops in training only, and no mask is drawn for many inputs at once.
    return float(what) if norm.training and not has_functorch() else None


def _one_by_one(output: Any, steps: tuple[tuple[str, Any], ...]) -> Any:
    for kind, what in steps:
        if kind == ADD:
            output = output + what
        elif isinstance(what, nn.Module):
            output = what(output)
        elif kind == RELU:
            output = torch.relu(output)
        elif kind == DROPOUT:
            output = cast(Any, functions.dropout)(output, what, True)
    return output
