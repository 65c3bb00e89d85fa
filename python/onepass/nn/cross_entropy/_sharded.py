"""The cross-entropy of logits whose classes are sharded over ranks, as tensor parallelism has them.

Each rank reads its own logits only. Four float64 numbers a row go from each rank to all: the maximum, the sum of
e^(x - maximum), the logit of the label where the rank has it, and the sum of logits for label smoothing. All ranks
merge them in the order of the ranks, so the loss has the same bits on all. The gradient needs nothing more.

The passes are torch's operations: two over the logits forward, one backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

from onepass.nn._call.buffers import statistics_dtype
from onepass.nn._call.dispatch import is_batched
from onepass.nn._call.shards import is_sharded, local_part
from onepass.nn.cross_entropy._checks import rows_shape
from onepass.nn.cross_entropy._kernels import Options

__all__ = ["sharded"]


class _Shard(NamedTuple):
    """What this rank has of the classes."""

    begin: int
    """Its first class."""
    classes: int
    """All classes of all ranks."""
    dim: int
    """Their dimension in the logits."""
    group: Any
    """The ranks that share them."""


class _Rows(NamedTuple):
    """What is known of each row, in float64, of the labels' shape."""

    most: Tensor
    """The largest logit. Apart from the sum: rounded, the log-sum-exp would lose digits of all probabilities."""
    total: Tensor
    """The sum of e^(x - most) over all classes."""
    logit: Tensor
    """The label's."""
    smooth: Tensor
    """The sum of w_c x_c over all classes; 0 without smoothing."""

    def lse(self) -> Tensor:
        """Returns the log-sum-exp."""
        return self.most + self.total.log()


def sharded(
    input: Any,
    target: Tensor,
    is_dense: bool,
    weight: Tensor | None,
    options: Options,
    others: dict[str, Any],
) -> Tensor:
    """Returns the loss of a DTensor of logits as a replicated one; only placements are left to check.

    Raises:
        ValueError: The logits are not sharded over their classes, or over something else, too; the target is no
            tensor that all ranks have alike; an option is asked for that needs all logits of a row at once.
        RuntimeError: It is called under torch.func.
    """
    for name, value in {"target of probabilities": is_dense, **others}.items():
        if value is not None and value is not False:
            raise ValueError(f"cross_entropy: {name} must not be given with logits that are sharded, got one")
    mesh, dim = input.device_mesh, min(1, input.dim() - 1)
    over = [at for at, one in enumerate(input.placements) if one.is_shard() and one.dim % input.dim() == dim]
    if len(over) != 1 or any(not one.is_replicate() for at, one in enumerate(input.placements) if at not in over):
        raise ValueError(
            "cross_entropy: input must be sharded over its classes, in one dimension of the mesh, and replicated "
            f"in the others, got the placements {input.placements}"
        )
    target, weight = _everywhere("target", target), None if weight is None else _everywhere("weight", weight)
    _, offsets = local_part("cross_entropy", "input", input)
    shard = _Shard(offsets[dim], input.shape[dim], dim, mesh.get_group(over[0]))
    labels = target.to(torch.int64).view(rows_shape(input))
    _check_labels(labels, shard, options.ignore_index)
    loss = cast(Tensor, _ShardedFunction.apply(input.to_local(), labels, weight, shard, options))  # type: ignore[no-untyped-call]
    return cast(Tensor, type(input).from_local(loss, mesh, _replicated(input), run_check=False))


def _replicated(input: Any) -> list[Any]:
    from torch.distributed.tensor import Replicate

    return [Replicate() for _ in input.placements]


def _everywhere(name: str, tensor: Any) -> Tensor:
    """Returns a tensor that all ranks have alike."""
    if not is_sharded(tensor):
        return cast(Tensor, tensor)
    if any(not one.is_replicate() for one in tensor.placements):
        raise ValueError(
            f"cross_entropy: {name} must be replicated with logits that are sharded over their classes, got the "
            f"placements {tensor.placements}"
        )
    return cast(Tensor, tensor.to_local())


def _check_labels(labels: Tensor, shard: _Shard, ignore_index: int) -> None:
    wrong = ((labels < 0) | (labels >= shard.classes)) & (labels != ignore_index)
    if labels.is_cpu:
        if wrong.any():
            row = int(wrong.flatten().nonzero()[0])
            raise IndexError(
                f"cross_entropy: target must be 0 to {shard.classes - 1} or ignore_index, got "
                f"{int(labels.flatten()[row])} in row {row}"
            )
    else:
        torch._assert_async(~wrong.any())


class _ShardedFunction(torch.autograd.Function):
    """The loss of this rank's logits and of what the other ranks send."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, labels: Tensor, weight: Tensor | None, shard: _Shard, options: Options
    ) -> Tensor:
        """Exchanges the numbers of the rows, and puts the loss together."""
        ignored = labels == options.ignore_index
        w = _row_weights(labels, ignored, weight)
        rows = _merged(x, labels, weight, shard, options.label_smoothing)
        eps, lse = options.label_smoothing, rows.lse()
        # sum q_c (lse - x_c): the label's part, then the part that all classes share.
        losses = (1 - eps) * w * (rows.total.log() - (rows.logit - rows.most))
        if eps:
            losses = losses + eps / shard.classes * (_all_weights(weight, shard) * lse - rows.smooth)
        if options.z_loss:
            losses = losses + options.z_loss * w * lse.square()
        losses = losses.masked_fill(ignored, 0)
        divisor = w.sum() if options.reduction == "mean" else w.new_ones(())
        ctx.save_for_backward(x, labels, weight, divisor, *rows)
        ctx.shard, ctx.options = shard, options
        loss = losses if options.reduction == "none" else losses.sum() / divisor
        return loss.to(statistics_dtype(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Returns the gradient of this rank's logits: dx_c = g (A p_c - q_c)."""
        if torch.is_grad_enabled() or is_batched(grad):
            raise RuntimeError(
                "cross_entropy: create_graph and is_grads_batched must be False with logits that are sharded over "
                "their classes, got True"
            )
        x, labels, weight, divisor, *rest = ctx.saved_tensors
        rows = _Rows(*rest)
        lse, most = rows.lse(), rows.most
        shard, options, wide = ctx.shard, ctx.options, statistics_dtype(x)
        eps, dim = options.label_smoothing, shard.dim
        ignored = labels == options.ignore_index
        w = _row_weights(labels, ignored, weight)
        of_all = eps / shard.classes
        factor = (1 - eps) * w + of_all * _all_weights(weight, shard) + 2 * options.z_loss * w * lse
        g = (grad.double() / divisor).masked_fill(ignored, 0)
        scale = (g * factor / rows.total).to(wide).unsqueeze(dim)
        dx = (x.to(wide) - most.to(wide).unsqueeze(dim)).exp_().mul_(scale)
        if eps:
            classes = _own_weights(weight, shard, x)
            dx = dx - (g * of_all).to(wide).unsqueeze(dim) * (1.0 if classes is None else classes.to(wide))
        # The label's own element in float64: p - 1 cancels where the row is confident.
        at, here = _own_labels(labels, shard, x.shape[dim])
        if x.shape[dim]:
            label = 1.0 if weight is None else weight.double()[labels.masked_fill(ignored, 0)]
            # A - q, without the part that both have.
            apart = of_all * (_all_weights(weight, shard) - label) + 2 * options.z_loss * w * lse
            own = g * (apart + factor * (rows.logit - most - rows.total.log()).expm1())
            old = dx.gather(dim, at.unsqueeze(dim)).squeeze(dim)
            dx.scatter_(dim, at.unsqueeze(dim), torch.where(here, own.to(wide), old).unsqueeze(dim))
            dx = dx.masked_fill(ignored.unsqueeze(dim), 0)
        return dx.to(x.dtype), None, None, None, None


def _merged(x: Tensor, labels: Tensor, weight: Tensor | None, shard: _Shard, eps: float) -> _Rows:
    """Returns the numbers of all rows from those of all ranks."""
    dim, own = shard.dim, torch.zeros(4, *labels.shape, dtype=torch.float64, device=x.device)
    largest, total, logit, smooth = own
    if x.shape[dim]:
        wide = x.to(statistics_dtype(x))
        largest.copy_(wide.amax(dim))
        # Of a row without a finite logit: -inf - -inf would be nan.
        shift = largest.masked_fill(largest == -torch.inf, 0).to(wide.dtype).unsqueeze(dim)
        total.copy_((wide - shift).exp_().sum(dim, dtype=torch.float64))
        at, here = _own_labels(labels, shard, x.shape[dim])
        logit.copy_(torch.where(here, wide.gather(dim, at.unsqueeze(dim)).squeeze(dim), 0))
        if eps:
            classes = _own_weights(weight, shard, x)
            smooth.copy_((wide.double() if classes is None else wide.double() * classes).sum(dim))
    else:
        largest.fill_(-torch.inf)
    found = _gathered(own, shard.group)
    most = found[:, 0].amax(0)
    shift = most.masked_fill(most == -torch.inf, 0)
    sums = (found[:, 1] * (found[:, 0] - shift).exp()).unbind()
    return _Rows(shift, _in_order(sums), _in_order(found[:, 2].unbind()), _in_order(found[:, 3].unbind()))


def _in_order(parts: tuple[Tensor, ...]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _gathered(own: Tensor, group: Any) -> Tensor:
    # Older versions of torch have only the second name, newer ones warn of it.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    ranks = dist.get_world_size(group)
    found = own.new_empty(ranks * own.numel())
    gather(found, own.flatten(), group=group)
    return found.view(ranks, *own.shape)


def _own_labels(labels: Tensor, shard: _Shard, classes: int) -> tuple[Tensor, Tensor]:
    """Returns where the labels are among this rank's classes, 0 for others, and which ones are."""
    at = labels - shard.begin
    here = (at >= 0) & (at < classes)
    return at.masked_fill(~here, 0), here


def _row_weights(labels: Tensor, ignored: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return (~ignored).double()
    return weight.double()[labels.masked_fill(ignored, 0)].masked_fill(ignored, 0)


def _all_weights(weight: Tensor | None, shard: _Shard) -> float | Tensor:
    return float(shard.classes) if weight is None else weight.double().sum()


def _own_weights(weight: Tensor | None, shard: _Shard, x: Tensor) -> Tensor | None:
    """Returns the weights of this rank's classes, in float64 and a shape that goes with its logits."""
    if weight is None:
        return None
    own = weight.double()[shard.begin : shard.begin + x.shape[shard.dim]]
    return own.view([-1 if at == shard.dim else 1 for at in range(x.dim())])
