"""Batch normalisation within autograd: gradients of every order, what is kept for them, checkpoints, versions."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import onepass.nn
from batch_norm_setup import FUSED, FUSED_IDS, call, laid_out, leaves
from onepass.nn.functional import batch_norm
from tolerance import FLOAT64, NORM_GRADIENTS, SECOND_DERIVATIVES

fused = pytest.mark.parametrize("options", FUSED, ids=FUSED_IDS)
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@modes
@fused
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradcheck(backend, training, options, layout):
    """First and second order, in float64 against finite differences."""
    x, weight, bias, residual = leaves((3, 2, 3), device=backend.device)
    x = laid_out(x.detach(), layout).requires_grad_()
    residual = residual if options.get("residual") else None
    inputs = [value for value in (x, weight, bias, residual) if value is not None]

    def function(*values):
        return call(*values, *[None] * (4 - len(values)), training=training, options=options)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@modes
@fused
def test_gradients_that_can_be_differentiated_are_the_same(backend, training, options):
    """They are composed of torch's operations, and gradcheck holds them against themselves alone."""
    given = leaves(device=backend.device)
    wanted = given if options.get("residual") else given[:3]
    y = call(*given, training, options)
    dy = torch.randn(4, 3, 5, dtype=torch.float64, device=backend.device)
    kernels = torch.autograd.grad(y, wanted, dy, retain_graph=True)
    composed = torch.autograd.grad(y, wanted, dy, create_graph=True)
    for mine, other in zip(composed, kernels, strict=True):
        torch.testing.assert_close(mine, other, **FLOAT64)


def test_second_derivatives_are_torchs():
    """With float32 and float16, whose parameters are wider than the input."""
    for dtype, tolerance in SECOND_DERIVATIVES.items():
        results = []
        for function in (F.batch_norm, batch_norm):
            x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
            weight = torch.full((3,), 1.5, requires_grad=True)
            y = function(x, None, None, weight, training=True).float()
            (grad,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
            results.append(torch.autograd.grad(grad.float().square().sum(), (x, weight)))
        for mine, theirs in zip(*results, strict=True):
            assert mine.dtype == theirs.dtype
            torch.testing.assert_close(mine, theirs, **tolerance)


def test_third_order():
    """torch's formula for it leaves terms out, silently (pytorch/pytorch#186256)."""
    x, weight, bias, _ = leaves((4, 2, 2))

    def first_order(x, weight):
        y = call(x, weight, bias, None, options={"activation": "relu"})
        return torch.autograd.grad(
            y, (x, weight), torch.linspace(-1, 1, y.numel()).double().view_as(y), create_graph=True
        )

    assert torch.autograd.gradgradcheck(first_order, (x, weight))


@modes
@fused
def test_gradients_of_some_inputs_alone(backend, training, options):
    """Only what is asked for, with the numbers of all together."""
    everything = leaves(device=backend.device)
    names = [0, 1, 2] + [3] * bool(options.get("residual"))
    dy = torch.randn(4, 3, 5, dtype=torch.float64, device=backend.device)
    whole = torch.autograd.grad(call(*everything, training, options), [everything[k] for k in names], dy)
    for alone in names:
        given = [value.detach().requires_grad_(k == alone) for k, value in enumerate(everything)]
        y = call(*given, training, options)
        y.backward(dy)
        assert [value.grad is not None for value in given] == [k == alone for k in range(4)]
        assert torch.equal(given[alone].grad, whole[names.index(alone)])
    with torch.no_grad():
        assert torch.equal(call(*everything, training, options), y)


@contextmanager
def kept_for_backward():
    """Collects what autograd keeps."""
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def bytes_per_element(function, x: torch.Tensor) -> float:
    """Bytes of different memory that are kept for the backward pass, in vectors of C not counted."""
    with kept_for_backward() as kept:
        y = function(x)
    assert y.requires_grad
    large = {t.data_ptr(): t.numel() * t.element_size() for t in kept if t.numel() > 100}
    return sum(large.values()) / x.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_kept_for_backward(backend, dtype):
    """x alone, and one bit with a residual; torch keeps x, ReLU's output and dropout's noise: three times that."""
    x = torch.randn(8, 16, 12, 12, dtype=dtype, device=backend.device)
    residual = torch.randn_like(x)
    size = dtype.itemsize
    weight = torch.ones(16, device=backend.device, requires_grad=True)

    def run(x, **more):
        return batch_norm(x.requires_grad_(), None, None, weight, training=True, **more)

    assert bytes_per_element(run, x) == size
    assert bytes_per_element(partial(run, activation="relu", dropout=0.5), x) == size
    assert bytes_per_element(partial(run, activation="relu", dropout=0.5, residual=residual), x) == size + 1 / 8

    def torchs(x):
        return F.dropout(F.batch_norm(x.requires_grad_(), None, None, weight, training=True).relu(), 0.5)

    if backend.name != "cuda":
        assert bytes_per_element(torchs, x) == 3 * size


def test_two_forwards_before_one_backward(backend):
    """Each keeps its own statistics; apex's group batch norm has them overwritten by the second."""
    pair = nn.BatchNorm2d(3, device=backend.device), onepass.nn.BatchNorm2d(3, device=backend.device)
    xs = [torch.randn(4, 3, 5, 5, device=backend.device) + k for k in range(2)]
    grads = []
    for module in pair:
        values = [x.clone().requires_grad_() for x in xs]
        first, second = (module(value) for value in values)
        (first.square() * second).sum().backward()
        grads.append([value.grad for value in values] + [module.weight.grad])
    for theirs, mine in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, **NORM_GRADIENTS)


def test_running_statistics_changed_between_forward_and_backward(backend):
    """DistributedDataParallel broadcasts buffers before each forward pass.

    torch's backward in training then fails ("modified by an inplace operation", pytorch/pytorch#175024), though
    the derivative does not depend on them.
    """
    errors = []
    for kind in (nn.BatchNorm1d, onepass.nn.BatchNorm1d):
        module = kind(3, device=backend.device)
        y = module(torch.randn(5, 3, device=backend.device))
        module.running_mean.copy_(torch.ones(3))
        try:
            y.sum().backward()
            errors.append(None)
        except RuntimeError as error:
            errors.append(str(error))
    assert "modified by an inplace operation" in errors[0]
    assert errors[1] is None


def test_a_training_step_between_an_evaluation_and_its_backward(backend):
    """torch's gradients are silently those of the new running statistics, which it changes unknown to autograd."""
    x = torch.randn(5, 3, dtype=torch.float64)
    results = {}
    for name, function in (("torch", F.batch_norm), ("ours", batch_norm)):
        for between in (False, True):
            device = backend.device if name == "ours" else "cpu"
            mean, var = torch.zeros(3, device=device).double(), torch.ones(3, device=device).double()
            value = x.clone().to(device).requires_grad_()
            y = function(value, mean, var)
            if between:
                function(5 * x.to(device) + 3, mean, var, training=True, momentum=1.0)
            y.square().sum().backward()
            results[name, between] = value.grad.cpu()
    assert torch.equal(results["ours", True], results["ours", False])
    torch.testing.assert_close(results["ours", True], results["torch", False])
    assert not torch.allclose(results["torch", True], results["torch", False])


def test_autograd_notices_the_change_of_running_statistics(backend):
    """torch changes them without counting a version: whoever kept them computes with other values, silently."""
    mean = torch.zeros(3, device=backend.device)
    scale = torch.ones(3, device=backend.device, requires_grad=True)
    product = scale * mean
    batch_norm(torch.randn(4, 3, device=backend.device), mean, torch.ones_like(mean), training=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_inference_mode():
    with torch.inference_mode():
        module = onepass.nn.BatchNorm1d(3)
        module(torch.randn(4, 3))
        module.eval()(torch.randn(4, 3))
    assert module.num_batches_tracked.item() == 1


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "plain"])
def test_gradients_under_activation_checkpointing_are_torchs(reentrant):
    """The statistics are torch's without a checkpoint, under which torch moves them twice."""
    results = []
    for kind in (nn.BatchNorm2d, onepass.nn.BatchNorm2d):
        torch.manual_seed(0)
        x = torch.randn(4, 3, 5, 5, requires_grad=True)
        module = kind(3)
        run = module if kind is nn.BatchNorm2d else partial(checkpoint, module, use_reentrant=reentrant)
        run(x).square().sum().backward()
        results.append([x.grad, module.weight.grad, module.running_mean, module.running_var])
    for theirs, mine in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, **NORM_GRADIENTS)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "plain"])
def test_checkpointed_dropout_is_the_same_in_both_passes(reentrant):
    """torch.compile's has been another one (pytorch/pytorch#198333)."""
    module = onepass.nn.BatchNorm2d(3, activation="relu", dropout=0.5)
    grads = []
    for run in (module, partial(checkpoint, module, use_reentrant=reentrant)):
        torch.manual_seed(1)
        x = torch.randn(4, 3, 5, 5, requires_grad=True)
        run(x).square().sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_decides_dtypes_as_for_torch(dtype):
    for enabled in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=enabled):
            x = torch.randn(4, 3, dtype=dtype)
            theirs, mine = nn.BatchNorm1d(3)(x), onepass.nn.BatchNorm1d(3)(x)
        assert mine.dtype == theirs.dtype
