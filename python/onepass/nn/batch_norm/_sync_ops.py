"""Batch normalisation over several ranks as operators, for torch.compile and dispatch modes, and its derivative.

The exchange is inside of the operators, which name their process group. A compiled graph holds one operator for
each layer and way, in the order in which the ranks trace them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn._call.dispatch import is_batched, with_memory
from onepass.nn.batch_norm import _kernels, _sync_kernels
from onepass.nn.batch_norm._derivative import gradients
from onepass.nn.batch_norm._exchange import Peers, group_named
from onepass.nn.batch_norm._kernels import Options, Running
from onepass.nn.batch_norm._ops import as_result, move_running, moved
from onepass.nn.batch_norm._sync_kernels import Saved

__all__ = ["differentiate", "sync_batch_norm"]

# torch gives these methods no types.
_torch_library = cast(Any, torch.library)
_library = _torch_library.Library("onepass", "FRAGMENT")

_library.define(
    "sync_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? running_mean, "
    "Tensor? running_var, Tensor? batches, Tensor? seed, bool training, float? momentum, float eps, "
    "str? activation, float dropout, str group) -> (Tensor output, Tensor mean, Tensor invstd, Tensor mask, "
    "Tensor total, Tensor new_running_mean, Tensor new_running_var)"
)
_library.define(
    "sync_batch_norm_backward(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor invstd, Tensor? mask, Tensor? seed, Tensor total, str? activation, float dropout, bool[] wanted, "
    "str group) -> Tensor[]"
)

_Run = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, Saved, list[bool]], Sequence[Tensor | None]]


def sync_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    seed: Tensor | None,
    options: Options,
    peers: Peers,
) -> Tensor:
    """`_sync_kernels.forward` by the operator: the output; the running statistics move likewise."""
    output, _, _, _, _, *new = torch.ops.onepass.sync_batch_norm(
        input, weight, bias, residual, *running, seed, *options, peers.group.group_name
    )
    move_running(running, new)
    return cast(Tensor, output)


def differentiate(ctx: Any, grad: Tensor, run: _Run) -> tuple[Tensor | None, ...]:
    """Returns the gradients of input, weight, bias and residual, those that are wanted.

    Raises:
        RuntimeError: The gradients are to be differentiable themselves, or many in one tensor.
    """
    if torch.is_grad_enabled() or is_batched(grad):
        raise RuntimeError(
            "SyncBatchNorm: create_graph and is_grads_batched must be False where several ranks train, got True; "
            "the exchange has no derivative"
        )
    input, weight, bias, *rest = ctx.saved_tensors
    options, wanted = ctx.options, list(ctx.needs_input_grad[:4])
    return gradients(
        with_memory(grad),
        input,
        options,
        wanted,
        lambda one: run(one, input, weight, bias, Saved(*rest), wanted),
    )


def _peers(input: Tensor, group: str) -> Peers:
    # Compiled code knows no names of layers: as arguments they would give each layer a graph of its own.
    return Peers(group_named(group), f"SyncBatchNorm({input.shape[1]})", 0)


def _forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    seed: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    *options, group = rest
    running, new = moved(input, Running(running_mean, running_var, batches), True)
    output, mean, invstd, mask, _, total = _sync_kernels.forward(
        input,
        weight,
        bias,
        residual,
        running,
        0 if seed is None else seed,
        Options(*options),
        _peers(input, group),
    )
    return (output, mean, invstd, as_result(mask, input), total, *new)


def _fake_forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    seed: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    mean = _kernels.new_statistic(input)
    mask = None if residual is None else _kernels.new_mask(input, Options(*rest[:-1]).activation)
    total = input.new_empty(1, dtype=torch.float64)
    new = [input.new_empty(0) if one is None else torch.empty_like(one) for one in (running_mean, running_var)]
    return (torch.empty_like(input), mean, torch.empty_like(mean), as_result(mask, input), total, *new)


def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    total: Tensor,
    activation: str | None,
    dropout: float,
    wanted: list[bool],
    group: str,
) -> list[Tensor]:
    saved = Saved(mean, invstd, mask, seed, total)
    options = Options(True, None, 0.0, activation, dropout)
    peers = _peers(input, group)
    found = _sync_kernels.backward(grad, input, weight, bias, saved, options, wanted, peers)
    return [one for one in found if one is not None]


def _fake_backward(
    grad: Tensor, input: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any
) -> list[Tensor]:
    wanted: list[bool] = rest[-2]
    return [found for found in _kernels.new_gradients(input, weight, bias, wanted) if found is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, weight, bias, _, _, _, _, seed, *options, ctx.group = inputs
    _, mean, invstd, mask, total, *new = output
    ctx.save_for_backward(input, weight, bias, mean, invstd, mask if mask.numel() else None, seed, total)
    ctx.options = Options(*options)
    ctx.mark_non_differentiable(mean, invstd, mask, total, *new)


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    def run(
        grad: Tensor,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        saved: Saved,
        wanted: list[bool],
    ) -> Sequence[Tensor | None]:
        asked = (ctx.options.activation, ctx.options.dropout, wanted, ctx.group)
        found = iter(torch.ops.onepass.sync_batch_norm_backward(grad, input, weight, bias, *saved, *asked))
        return [next(found) if one else None for one in wanted]

    return (*differentiate(ctx, grad, run), *(None,) * 10)


for _device in ("CPU", "CUDA"):
    _library.impl("sync_batch_norm", _forward, _device)
    _library.impl("sync_batch_norm_backward", _backward, _device)
_library._register_fake("sync_batch_norm", _fake_forward)
_library._register_fake("sync_batch_norm_backward", _fake_backward)
_torch_library.register_autograd(
    "onepass::sync_batch_norm", _differentiate, setup_context=_setup_context, lib=_library
)
