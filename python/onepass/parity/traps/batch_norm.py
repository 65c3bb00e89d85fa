"""Traps of batch norm: statistics, layouts, the backward pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.parity.case import Inapplicable, Wrong, asked
from onepass.parity.layer import BatchNormCall, Layer, compare, leaf, normal, three
from onepass.parity.traps.trap import Trap, trap

__all__ = ["TRAPS"]

TRAPS: list[Trap] = []
_EPS, _MOMENTUM = 1e-5, 0.1
Vectors = tuple[Tensor, Tensor, Tensor, Tensor]


def _vectors(channels: int) -> Vectors:
    weight, bias, mean, var = (normal((channels,), 40 + i) for i in range(4))
    return weight + 2 * weight.sign(), bias, mean, var.abs() + 0.5


def _torchs(x: Tensor, dy: Tensor, vectors: Vectors, training: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output, gradients and statistics of torch's function on contiguous tensors."""
    x = leaf(x.contiguous(), dtype=dtype)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = (leaf(vector, dtype=kept) for vector in vectors[:2])
    mean, var = (vector.to(kept, copy=True) for vector in vectors[2:])
    y = F.batch_norm(x, mean, var, weight, bias, training, _MOMENTUM, _EPS)
    dx, dweight, dbias = torch.autograd.grad(y, (x, weight, bias), dy.to(dtype).contiguous())
    found = {"the output": y, "the gradient of the input": dx, "the gradient of the weight": dweight}
    return {**found, "the gradient of the bias": dbias, "the running mean": mean, "the running variance": var}


def _judge(
    layer: Layer, x: Tensor, dy: Tensor, training: bool = True, vectors: Vectors | None = None, only: str = ""
) -> None:
    """Compares all results of one call, or only one of them."""
    vectors = vectors or _vectors(x.shape[1])
    mine = leaf(x, layer)
    before = mine.detach().clone()
    call = BatchNormCall.of(layer, mine, vectors, training)
    with asked():
        grads = torch.autograd.grad(call.y, (mine, call.weight, call.bias), dy.to(layer.device))
    if not torch.equal(mine.detach().nan_to_num(), before.nan_to_num()):
        raise Wrong("the input has changed")
    found = dict(
        zip(
            ("the output", "the gradient of the input", "the gradient of the weight", "the gradient of the bias"),
            (call.y, *grads),
            strict=True,
        )
    )
    found |= {"the running mean": call.mean, "the running variance": call.var}
    torchs = _torchs(x, dy, vectors, training, x.dtype)
    exact = _torchs(x, dy, vectors, training, torch.float64)
    for name, value in found.items():
        if only in ("", name):
            compare(name, value, torchs[name], exact[name])


@trap(TRAPS, "the rule itself", required=True)
def plain_training(layer: Layer) -> None:
    """Computes output, gradients and running statistics of a contiguous batch in training."""
    shape = layer.shape(8, 5, 6, 7)
    _judge(layer, normal(shape, 1), normal(shape, 2))


@trap(TRAPS, "the rule itself")
def plain_evaluation(layer: Layer) -> None:
    """Computes output and gradients with the running statistics in evaluation, and leaves them as they are."""
    shape = layer.shape(8, 5, 6, 7)
    _judge(layer, normal(shape, 1), normal(shape, 2), training=False)


@trap(TRAPS, "biased and unbiased variance are taken for one another")
def running_variance_is_unbiased(layer: Layer) -> None:
    """Adds the unbiased variance, n / (n - 1) times the batch's, to the running one."""
    shape = layer.shape(2, 5, 1, 2)
    _judge(layer, normal(shape, 1), normal(shape, 2), only="the running variance")


@trap(TRAPS, "docs/traps.md: torch's channels_last path on the CPU sums in float32")
def channels_last_statistics(layer: Layer) -> None:
    """Keeps the accuracy of torch's contiguous running statistics for a channels_last input with a mean of 10."""
    if layer.dims != 2:
        raise Inapplicable("channels_last is of two spatial dimensions")
    x = (normal((16, 4, 128, 128), 1) + 10).to(memory_format=torch.channels_last)
    _judge(layer, x, normal((16, 4, 128, 128), 2), only="the running variance")


@trap(TRAPS, "the mean of squares less the square of the mean, in float32")
def large_mean(layer: Layer) -> None:
    """Computes the variance of values around 1000 without cancellation."""
    shape = layer.shape(16, 3, 8, 8)
    x, dy = normal(shape, 1) + 1000, normal(shape, 2)
    _judge(layer, x, dy, only="the output")
    _judge(layer, x, dy, only="the running variance")


@trap(TRAPS, "kernels that take every input for a dense one")
def strided_input(layer: Layer) -> None:
    """Takes an input that is every second element of a larger one, and a gradient of another layout."""
    shape = layer.shape(6, 5, 6, 14)
    x = normal(shape, 1)[..., ::2]
    _judge_in_place(layer, x, normal(tuple(reversed(x.shape)), 2).permute(*reversed(range(x.dim()))))


def _judge_in_place(layer: Layer, x: Tensor, dy: Tensor) -> None:
    """Compares the output and the gradient of an input that is a view."""
    vectors = _vectors(x.shape[1])
    mine = x.to(layer.device).requires_grad_()
    call = BatchNormCall.of(layer, mine, vectors)
    with asked():
        (dx,) = torch.autograd.grad(call.y, mine, dy.to(layer.device))
    torchs, exact = (_torchs(x, dy, vectors, True, dtype) for dtype in (x.dtype, torch.float64))
    compare("the output", call.y, torchs["the output"], exact["the output"])
    name = "the gradient of the input"
    compare(name, dx, torchs[name], exact[name])


@trap(TRAPS, "y.sum().backward(): a gradient all of whose strides are 0")
def expanded_gradient(layer: Layer) -> None:
    """Takes a gradient of one element that is expanded to the output's shape."""
    shape = layer.shape(6, 5, 3, 7)
    _judge(layer, normal(shape, 1), torch.ones(()).expand(shape), only="the gradient of the bias")
    _judge(layer, normal(shape, 1), torch.ones(()).expand(shape), training=False)


@trap(TRAPS, "layouts of input and gradient that differ")
def channels_last_meets_contiguous(layer: Layer) -> None:
    """Gives each element its own gradient where a channels_last input meets a contiguous gradient."""
    if layer.dims != 2:
        raise Inapplicable("channels_last is of two spatial dimensions")
    x, dy = normal((6, 5, 4, 7), 1), normal((6, 5, 4, 7), 2)
    _judge(layer, x.to(memory_format=torch.channels_last), dy)
    _judge(layer, x, dy.to(memory_format=torch.channels_last))


@trap(TRAPS, "values that are not finite in sums of several channels")
def nan_stays_in_its_channel(layer: Layer) -> None:
    """Keeps a nan of the input within its channel."""
    shape = layer.shape(6, 5, 3, 4)
    x = normal(shape, 1)
    x[2, 3] = torch.nan
    _judge(layer, x, normal(shape, 2))


@trap(TRAPS, "statistics that are summed in half precision")
def half_precision_input(layer: Layer) -> None:
    """Takes bfloat16 inputs with float32 parameters and statistics, and sums in float32."""
    shape = layer.shape(16, 5, 12, 12)
    _judge(layer, normal(shape, 1, torch.bfloat16), normal(shape, 2, torch.bfloat16))


@trap(TRAPS, "docs/traps.md: torch's backward pass of an evaluation reads the statistics of after it")
def training_between_evaluation_and_backward(layer: Layer) -> None:
    """Computes an evaluation's gradient with its own statistics, although a training step has moved them since."""
    shape = layer.shape(6, 5, 3, 4)
    x, dy, vectors = normal(shape, 1), normal(shape, 2), _vectors(5)
    mine = leaf(x, layer)
    call = BatchNormCall.of(layer, mine, vectors, training=False)
    with asked():
        call.again(normal(shape, 3).to(layer.device) * 7 + 3, True)
        (dx,) = torch.autograd.grad(call.y, mine, dy.to(layer.device))
    torchs, exact = (_torchs(x, dy, vectors, False, dtype) for dtype in (x.dtype, torch.float64))
    name = "the gradient of the input"
    compare(name, dx, torchs[name], exact[name])


@trap(TRAPS, "docs/traps.md: torch moves the running statistics twice")
def checkpointing_moves_statistics_once(layer: Layer) -> None:
    """Moves the running statistics once for each batch under activation checkpointing."""
    from torch.utils.checkpoint import checkpoint

    if not layer.is_class:
        raise Inapplicable("a function does not know of another pass")
    shape = layer.shape(6, 5, 3, 4)
    plain, kept = (BatchNormCall.of(layer, normal(shape, 1).to(layer.device), _vectors(5)) for _ in "ab")
    x = leaf(normal(shape, 4), layer)
    with asked():
        torch.autograd.backward(plain.again(x, True).sum())
        torch.autograd.backward(checkpoint(kept.again, x, True, use_reentrant=False).sum())
    if not torch.allclose(plain.mean, kept.mean, rtol=1e-5, atol=1e-6):
        raise Wrong("the running mean differs from that of a step without checkpointing")


@trap(TRAPS, "momentum=None taken for 0.1 or 0")
def momentum_none(layer: Layer) -> None:
    """Averages all batches alike with momentum=None."""
    if not layer.is_class:
        raise Inapplicable("a function does not count batches")
    shape = layer.shape(6, 5, 3, 4)
    with asked():
        module = layer.make(5, momentum=None)
        for step in range(3):
            module.train()(normal(shape, 10 + step).to(layer.device))
    batches = torch.stack([normal(shape, 10 + step) for step in range(3)])
    exact = batches.double().transpose(1, 2).flatten(2).mean((0, 2))
    if not torch.allclose(module.running_mean.cpu().double(), exact, rtol=1e-5, atol=1e-6):
        raise Wrong("the running mean is not the mean of all batches")


@trap(TRAPS, "statistics of a single value")
def one_value_per_channel(layer: Layer) -> None:
    """Refuses a batch with one value for each channel, or keeps the running variance finite."""
    shape = layer.shape(1, 5, 1, 1)
    call = BatchNormCall.of(layer, normal(shape, 1).to(layer.device), _vectors(5))
    if not call.var.isfinite().all():
        raise Wrong("the running variance is not finite")


@trap(TRAPS, "a backward pass that autograd takes for a constant")
def second_derivative(layer: Layer) -> None:
    """Computes the gradient of a gradient, or refuses it."""
    shape = layer.shape(4, 3, 2, 3)
    found = []
    for dtype, subject in three(layer):
        vectors = tuple(vector.to(dtype) for vector in _vectors(3))
        x = leaf(normal(shape, 1, dtype), subject)
        call = BatchNormCall.of(subject, x, vectors)  # type: ignore[arg-type]  # four of them
        with asked():
            (dx,) = torch.autograd.grad(call.y, x, normal(shape, 2, dtype).to(subject.device), create_graph=True)
            found.append(torch.autograd.grad(dx.square().sum(), x)[0])
    compare("the second derivative", *found)
