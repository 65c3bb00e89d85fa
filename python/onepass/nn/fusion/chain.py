"""Runs a batch norm and the steps behind it in one pass, or one by one where a call does not allow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from onepass.nn._call.dispatch import is_transformed
from onepass.nn._call.recomputation import is_recomputed, throwaway
from onepass.nn.batch_norm._call import normalise
from onepass.nn.batch_norm._kernels import Running

__all__ = ["DTYPES", "INPUTS", "Chain", "Operation", "Options", "Slot", "has_saving_hooks", "own_norm"]

# What a chain takes, in this order; the numbers of the slots that operations refer to.
INPUTS = ("input", "running_mean", "running_var", "weight", "bias", "residual")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_PLAIN = (Tensor, torch.nn.Parameter)
_graph_task = torch._C._current_graph_task_id
_top_hooks = torch._C._autograd._top_saved_tensors_default_hooks


@dataclass(frozen=True)
class Slot:
    """Stands in an operation's arguments for a value of the chain."""

    number: int
    """Of the inputs, then of the operations' results."""


@dataclass(frozen=True)
class Operation:
    """Holds one node of the graph as it was."""

    method: bool
    """Whether the target is a method's name."""
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Options(NamedTuple):
    """Holds what one pass does."""

    training: bool
    """Whether it normalises by the batch's statistics."""
    momentum: float
    eps: float
    activation: str | None
    dropout: float
    ours: bool
    """Whether the batch norm is of onepass: it moves its statistics once where a pass is computed twice."""


class Chain:
    """Computes what the operators of a chain compute, in one pass where the call's tensors allow it.

    The graph proves what a graph can: the operators follow each other, nobody else uses what lies between them,
    shapes, dtypes and strides are the same. Each call proves the rest, which costs about 2 us: the tensors are
    plain, no memory of the statistics is read under another name, no transform is active. Otherwise the operators
    run one by one.

    Args:
        name: A name for the graph's code.
        options: What one pass does.
        operations: The operators as they were.
    """

    def __init__(self, name: str, options: Options, operations: list[Operation]) -> None:
        self.__name__, self.__qualname__ = name, name
        self.__module__ = __name__
        self._options = options
        self._operations = operations

    def __call__(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        """Returns the last operator's result.

        Args:
            input: The batch norm's input.
            running_mean: Its running mean, or None.
            running_var: Its running variance, or None.
            weight: Its weight, or None.
            bias: Its bias, or None.
            residual: The other summand, or None.
        """
        how = self._options
        mean, var = running_mean, running_var
        if not _fits(how, input, mean, var, weight, bias, residual):
            return self._one_by_one(input, mean, var, weight, bias, residual)
        if how.ours and how.training and is_recomputed():
            mean, var = throwaway(mean, var)
        running = Running(mean, var, None)
        return normalise(input, running, weight, bias, residual, *how[:-1])

    def _one_by_one(self, *inputs: Tensor | None) -> Tensor:
        values: list[Any] = list(inputs)

        def filled(part: Any) -> Any:
            return map_aggregate(part, lambda one: values[one.number] if isinstance(one, Slot) else one)

        for step in self._operations:
            args, kwargs = filled(step.args), filled(step.kwargs)
            call = getattr(args[0], step.target) if step.method else step.target
            values.append(call(*(args[1:] if step.method else args), **kwargs))
        return cast(Tensor, values[-1])


def own_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Computes a batch norm of ours by itself; the arguments are those of torch's function."""
    if training and is_recomputed():
        running_mean, running_var = throwaway(running_mean, running_var)
    running = Running(running_mean, running_var, None)
    return normalise(input, running, weight, bias, None, training, momentum, eps, None, 0.0)


def has_saving_hooks() -> bool:
    """Returns True where hooks see what autograd saves: a checkpoint compares it with that of a second pass."""
    return _top_hooks(True) is not None


def _fits(
    how: Options,
    input: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
) -> bool:
    """Returns True if this call's tensors may go through one pass."""
    if type(input) is not Tensor or not input.is_cpu or not input.numel() or is_transformed():
        return False
    if has_saving_hooks() or not _is_dense(input):
        return False
    # A checkpoint's first pass is without gradients, its second one within the backward pass. Torch draws both.
    if how.dropout and (not torch.is_grad_enabled() or _graph_task() != -1):
        return False
    if residual is not None and not (
        type(residual) is Tensor
        and residual.dtype is input.dtype
        and residual.shape == input.shape
        and residual.stride() == input.stride()
        and residual.is_cpu
    ):
        return False
    if not how.training or mean is None or var is None:
        return True
    return not _share_memory(input, mean, var, weight, bias, residual)


def _is_dense(input: Tensor) -> bool:
    """Returns True for the layouts in which torch's operators and our pass return the same strides."""
    if input.is_contiguous():
        return True
    dims = input.dim()
    return (dims == 4 and input.is_contiguous(memory_format=torch.channels_last)) or (
        dims == 5 and input.is_contiguous(memory_format=torch.channels_last_3d)
    )


def _share_memory(input: Tensor, mean: Tensor, var: Tensor, *others: Tensor | None) -> bool:
    """Returns True if what the pass reads is also what it moves: the operators would read what was moved."""
    first, second = mean.untyped_storage().data_ptr(), var.untyped_storage().data_ptr()
    if first == second:
        return True
    read = [one for one in (input, *others) if one is not None]
    return any(one.untyped_storage().data_ptr() in (first, second) for one in read)
