"""An optimizer next to torch's plain loop, in its dtype and in float64, from the same values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.parity.case import Wrong, asked
from onepass.parity.rule import FACTOR, error, ulp
from onepass.parity.subject import Subject

__all__ = ["Contest", "draws", "gradients"]

# How many times its own error in ordinary circumstances an implementation may be off in others: that error is one
# draw, and what the cases look for is larger by orders of magnitude.
_ORDINARY = 8
# DeepSpeed's contracted operations come to 1.2 times the limit; the faults are at a thousand times and more.
_OTHER_ROUNDING = 4

Grouping = Callable[[list[torch.nn.Parameter]], Any]


def draws(shapes: Sequence[Sequence[int]], seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Draws tensors; the same seed gives the same numbers, rounded to the dtype.

    Args:
        shapes: A shape for each.
        seed: Seed of the draw.
        dtype: Dtype of the tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex64 if dtype.is_complex else torch.float32
    return [torch.randn(tuple(shape), generator=generator, dtype=wide).to(dtype) for shape in shapes]


def gradients(shapes: Sequence[Sequence[int]], seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Draws gradients of which no element is near 0, where every rounding error of Adam is large.

    Args:
        shapes: A shape for each.
        seed: Seed of the draw.
        dtype: Dtype of the gradients.
    """
    wide = draws(shapes, seed, torch.complex64 if dtype.is_complex else torch.float32)
    return [(value + value.sgn()).to(dtype) for value in wide]


class Contest:
    """Steps an implementation, torch's plain loop and the same loop in float64 side by side.

    After n steps each element may be twice as far from float64 as torch's loop is anywhere in the tensors of its
    dtype, plus n units in the last place: the parity rule, with the rounding of each step. Where a dtype is wide
    enough to tell faults from rounding, four times that is allowed: another order of the same operations is no
    fault, and the accuracy rows judge the rounding.
    """

    def __init__(
        self,
        subject: Subject,
        params: Sequence[torch.nn.Parameter],
        options: Mapping[str, Any] | None = None,
        grouping: Grouping = list,
    ) -> None:
        """Makes the three optimizers.

        Args:
            subject: What is judged.
            params: Its parameters; torch's are contiguous copies of them.
            options: Options of the case.
            grouping: Makes groups of a list of parameters.
        """
        self.subject, self.params, self.steps = subject, list(params), 0
        options = dict(options or {})
        copies = [p.detach().clone(memory_format=torch.contiguous_format) for p in self.params]
        self.loop_params = [torch.nn.Parameter(p) for p in copies]
        self.exact_params = [torch.nn.Parameter(_wide(p)) for p in copies]
        self.loop = subject.reference(grouping(self.loop_params), options)
        self.exact = subject.reference(grouping(self.exact_params), options)
        with asked():
            self.optimizer = subject.make(grouping(self.params), options)

    @property
    def all_optimizers(self) -> tuple[Optimizer, Optimizer, Optimizer]:
        """The implementation's optimizer and both of torch's."""
        return self.optimizer, self.loop, self.exact

    def give(self, grads: Sequence[Tensor | None]) -> None:
        """Gives gradients: to the implementation as they are, to torch's contiguous copies.

        Args:
            grads: A gradient for each parameter, or None.
        """
        for params in (self.loop_params, self.exact_params):
            for param, grad in zip(params, grads, strict=True):
                if grad is not None:
                    grad = (grad.to_dense() if grad.is_sparse else grad).detach()
                    grad = grad.to(param.device, param.dtype, copy=True).contiguous()
                param.grad = grad
        for param, grad in zip(self.params, grads, strict=True):
            grad = None if grad is None else grad.detach().to(param.device)
            if grad is not None and grad.dtype != param.dtype:
                param.grad = None
                param.grad_dtype = None
            param.grad = grad

    def step(self, grads: Sequence[Tensor | None]) -> None:
        """Takes a step with all optimizers.

        Args:
            grads: A gradient for each parameter, or None.
        """
        self.give(grads)
        with asked():
            self.optimizer.step()
        self.loop.step()
        self.exact.step()
        self.steps += 1

    def run(self, steps: int, seed: int = 100, dtype: torch.dtype | None = None) -> Contest:
        """Takes steps with drawn gradients.

        Args:
            steps: How many.
            seed: Seed of the first step's gradients; each step adds 1.
            dtype: Dtype of the gradients, unless it is their parameters'.
        """
        for step in range(steps):
            shapes = [p.shape for p in self.params]
            kinds = [dtype or p.dtype for p in self.params]
            found = [
                gradients([shape], seed + step + 1000 * i, kind)[0]
                for i, (shape, kind) in enumerate(zip(shapes, kinds, strict=True))
            ]
            self.step(found)
        return self

    def errors(self) -> dict[torch.dtype, tuple[Tensor, float, Tensor]]:
        """Measures, for each dtype: the error of each element, torch's largest, the unit of each element."""
        found = {}
        for dtype in {p.dtype for p in self.params}:
            at = [i for i, p in enumerate(self.params) if p.dtype == dtype and p.numel()]
            if at:
                mine, loop, exact = (
                    torch.cat([_flat(side[i]) for i in at])
                    for side in (self.params, self.loop_params, self.exact_params)
                )
                theirs = error(loop, exact)
                theirs = theirs[theirs.isfinite()]
                most = float(theirs.max()) if theirs.numel() else 0.0
                found[dtype] = (error(mine, exact), most, ulp(exact, mine.dtype).nan_to_num(nan=0.0))
        return found

    def worst(self) -> float:
        """Returns the largest finite error of any element."""
        found = [mine[mine.isfinite()] for mine, _, _ in self.errors().values()]
        return max((float(one.max()) for one in found if one.numel()), default=0.0)

    def judge(
        self, what: str = "the parameters", like: Contest | None = None, only: torch.dtype | None = None
    ) -> None:
        """Compares the parameters.

        Args:
            what: What is compared, for the message.
            like: The same implementation in ordinary circumstances. Its errors are allowed, so that a case finds
                its own fault and no other.
            only: Compares the parameters of this dtype only.

        Raises:
            Wrong: An element is too far from float64.
        """
        ordinary = 0.0 if like is None else like.worst()
        for dtype, (mine, theirs, unit) in self.errors().items():
            if only not in (None, dtype):
                continue
            limit = FACTOR * theirs + max(self.steps, 1) * unit
            limit = limit if dtype.itemsize == 2 else _OTHER_ROUNDING * limit
            limit = torch.maximum(limit, _ORDINARY * ordinary + max(self.steps, 1) * unit)
            over = ~(mine <= limit)
            if over.any():
                at = int(torch.where(over, mine, -1.0).argmax())
                raise Wrong(
                    f"{what} ({str(dtype).removeprefix('torch.')}) are off by {float(mine[at]):.2g}, "
                    f"{float(limit[at]):.2g} is allowed, in {int(over.sum())} of {over.numel()} elements"
                )


def _wide(value: Tensor) -> Tensor:
    return value.to("cpu", torch.complex128 if value.is_complex() else torch.float64, copy=True)


def _flat(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return (torch.view_as_real(value) if value.is_complex() else value).flatten()
