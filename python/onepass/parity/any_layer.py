"""The accuracy of any batch norm, dropout or cross-entropy next to torch's, both against torch in float64."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.parity import cross_entropy
from onepass.parity.case import Refused, Wrong, asked
from onepass.parity.harness import Refusal, Row, Tally
from onepass.parity.layer import BatchNormCall, Layer, leaf, narrower, normal

__all__ = ["DTYPES", "Measurement", "measure", "measurements", "rows"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Found = dict[str, Tensor]
# (rule, options, from a dtype and the number of a step: the implementation's, torch's, float64's)
Call = Callable[[torch.dtype, int], tuple[Found, Found, Found]]
Measurement = tuple[str, str, Call]


def measurements(layer: Layer) -> list[Measurement]:
    """Lists what is measured of an implementation.

    Args:
        layer: The implementation.
    """
    return {"batch_norm": _batch_norms, "dropout": _dropouts, "cross_entropy": _losses}[layer.op](layer)


def rows(layer: Layer, dtypes: Sequence[torch.dtype], steps: int) -> Iterator[Row | Refusal]:
    """Measures an implementation with every set of options in every dtype.

    Args:
        layer: The implementation.
        dtypes: Dtypes of the input, from `DTYPES`.
        steps: How many batches, at least 1.

    Yields:
        A row for each output, gradient and statistic; or a refusal of the options.
    """
    for (rule, dtype), (options, call) in _by_rule_and_dtype(measurements(layer), dtypes):
        try:
            yield from measure(rule, options, call, dtype, steps)
        except (Refused, Wrong) as refused:  # a wrong shape is a trap's finding, too
            yield Refusal(rule, str(dtype).removeprefix("torch."), options, str(refused))


def _by_rule_and_dtype(
    measured: list[Measurement], dtypes: Sequence[torch.dtype]
) -> Iterator[tuple[tuple[str, torch.dtype], tuple[str, Call]]]:
    for rule in dict.fromkeys(rule for rule, _, _ in measured):
        for dtype in dtypes:
            yield from (((rule, dtype), (text, call)) for own, text, call in measured if own == rule)


def measure(
    rule: str,
    options: str,
    call: Call,
    dtype: torch.dtype,
    steps: int,
) -> list[Row]:
    """Measures one set of options in one dtype.

    Args:
        rule: What is computed.
        options: With which options.
        call: Computes a batch.
        dtype: Dtype of the input.
        steps: How many batches.

    Raises:
        Refused: The implementation raised.
        Wrong: A result has another shape.
    """
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for step in range(1, steps + 1):
        mine, torchs, exact = call(dtype, step)
        for name, value in mine.items():
            if value.shape != exact[name].shape:
                raise Wrong(f"{name} has the shape {tuple(value.shape)} and not {tuple(exact[name].shape)}")
            # Of half precision logits torch's loss has their dtype, and another one may be wider.
            value = value.to(narrower(value, torchs[name]))
            tallies[name].add(step, value, torchs[name].to(value), exact[name])
    return [tally.row(rule, str(dtype).removeprefix("torch."), options, name) for name, tally in tallies.items()]


def _batch_norms(layer: Layer) -> list[Measurement]:
    inputs = (((16, 24, 14, 14), 0.0, False), ((16, 24, 14, 14), 0.0, True), ((4, 3, 64, 64), 10.0, False))
    found: list[Measurement] = []
    for training in (True, False):
        for sizes, mean, last in inputs:
            if not last or layer.dims == 2:
                text = f"{'x'.join(map(str, layer.shape(*sizes)))}{' channels_last' if last else ''}"
                call = partial(_batch, layer, layer.shape(*sizes), mean, last, training)
                text += f" mean {mean:g}" if mean else ""
                found.append(("training" if training else "evaluation", text, call))
    return found


def _batch(
    layer: Layer, shape: tuple[int, ...], mean: float, last: bool, training: bool, dtype: torch.dtype, step: int
) -> tuple[Found, Found, Found]:
    x, dy = (normal(shape, 10 * step + i) for i in range(2))
    x, dy = (x * 1.5 + mean).to(dtype), dy.to(dtype)
    vectors = [normal(shape[1:2], 10 * step + i).abs() + 0.5 for i in range(2, 6)]
    vectors[2] += mean
    # torch's error on the same input counts. What channels_last costs torch is a trap.
    x = x.to(memory_format=torch.channels_last) if last else x
    return (
        _batch_norm(layer, x, dy, vectors, training, dtype),
        _batch_norm(layer.torchs(), x, dy, vectors, training, dtype),
        _batch_norm(layer.torchs(), x, dy, vectors, training, torch.float64),
    )


def _batch_norm(
    layer: Layer, x: Tensor, dy: Tensor, vectors: list[Tensor], training: bool, dtype: torch.dtype
) -> Found:
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias, mean, var = (vector.to(kept) for vector in vectors)
    where = torch.device("cpu") if dtype == torch.float64 else layer.device
    layer = Layer(layer.implementation, layer.op, layer.kwargs, where)
    x = leaf(x, layer, dtype)
    call = BatchNormCall.of(layer, x, (weight, bias, mean, var), training)
    with asked():
        grads = torch.autograd.grad(call.y, (x, call.weight, call.bias), dy.to(call.y))
    found = dict(zip(("dx", "dweight", "dbias"), grads, strict=True))
    found["y"] = call.y.detach()
    if training:
        found |= {"running_mean": call.mean, "running_var": call.var}
    return found


def _dropouts(layer: Layer) -> list[Measurement]:
    found: list[Measurement] = []
    for p in (0.1, 0.5):

        def call(dtype: torch.dtype, step: int, p: float = p) -> tuple[Found, Found, Found]:
            x, dy = (normal((64, 300), 10 * step + i, dtype).to(layer.device) for i in range(2))
            x = leaf(x + x.sign(), layer)
            y = layer.dropped(x, p)
            with asked():
                (dx,) = torch.autograd.grad(y, x, dy)
            # torch draws another mask; its side is the arithmetic of its kernels with this one.
            kept, x = y != 0, x.detach()
            noise = (kept / (1 - p)).to(dtype)
            factor = kept.double() / (1 - p)
            return (
                {"y": y.detach(), "dx": dx},
                {"y": x * noise, "dx": dy * noise},
                {"y": x.double() * factor, "dx": dy.double() * factor},
            )

        found.append(("dropout", f"64x300 p {p}", call))
    return found


def _losses(layer: Layer) -> list[Measurement]:
    found: list[Measurement] = []
    for rule in cross_entropy.RULES:
        for shape in ((256, 10), (64, 1000), (8, 20000), (4, 19, 16, 16)):

            def call(
                dtype: torch.dtype, step: int, rule: Any = rule, shape: Any = shape
            ) -> tuple[Found, Found, Found]:
                generator = torch.Generator().manual_seed(step)
                x = (torch.randn(shape, generator=generator) * rule.spread + rule.offset).to(dtype)
                target = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)
                if rule.probabilities:
                    target = torch.randn(shape, generator=generator).softmax(1).to(dtype)
                weight = (torch.rand(shape[1], generator=generator) + 0.5).to(dtype) if rule.weighted else None
                theirs = Layer(F.cross_entropy, layer.op, {}, layer.device)
                exact = Layer(F.cross_entropy, layer.op)
                return (
                    _loss(layer, x, target, weight, rule, dtype),
                    _loss(theirs, x, target, weight, rule, dtype),
                    _loss(exact, x, target, weight, rule, torch.float64),
                )

            found.append((rule.name, "x".join(map(str, shape)), call))
    return found


def _loss(
    layer: Layer, x: Tensor, target: Tensor, weight: Tensor | None, rule: cross_entropy.Rule, dtype: torch.dtype
) -> Found:
    x = leaf(x, layer, dtype)
    target = (target.to(dtype) if target.is_floating_point() else target).to(layer.device)
    # What is at its default is not given: not every implementation has it.
    options: dict[str, Any] = {"reduction": "none"}
    if weight is not None:
        options["weight"] = weight.to(layer.device, dtype)
    if rule.smoothing:
        options["label_smoothing"] = rule.smoothing
    losses = layer.loss(x, target, **options)
    with asked():
        (grad,) = torch.autograd.grad(losses, x, torch.ones_like(losses))
    return {"loss": losses.detach(), "dx": grad}
