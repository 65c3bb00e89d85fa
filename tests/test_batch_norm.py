"""Batch norm against float64 and torch by the parity rule: values, gradients, statistics, layouts, bits."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from batch_norm_setup import (
    DTYPE_IDS,
    DTYPES,
    OPTIONS,
    SHAPE_IDS,
    SHAPES,
    Options,
    Outputs,
    exactly,
    expected,
    inputs,
    laid_out,
)
from batch_norm_setup import ours as compute
from batch_norm_setup import torchs as compute_torchs
from conftest import Backend
from onepass import _native
from onepass.nn import BatchNorm2d
from onepass.nn.functional import batch_norm
from tolerance import assert_parity

LAYOUTS = ("contiguous", "channels_last", "strided")
ALL = Options(training=True, relu=True, residual=True)


def assert_all(results: list[tuple[Outputs, Outputs, Outputs]]) -> None:
    """Judges ours, torch's and the exact results, all shapes as one: few numbers would compare luck with luck."""
    for name in vars(results[0][0]):
        mine, theirs, exact = (
            torch.cat([getattr(one, name).flatten().cpu() for one in kind]) for kind in zip(*results, strict=True)
        )
        assert_parity(mine, theirs, exact, name)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "param"), DTYPES, ids=DTYPE_IDS)
def test_values_and_gradients(backend, dtype, param, layout, options):
    results = []
    for shape in SHAPES:
        given, theirs, exact = expected(shape, dtype, param, options)
        results.append((compute(given, options, backend, layout), theirs, exact))
    assert_all(results)


@pytest.mark.parametrize("mean", [10.0, -1000.0])
@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_large_means(backend, dtype, layout, mean):
    """A variance computed as E[x^2] - E[x]^2 would have no right digit here."""
    param = torch.float64 if dtype == torch.float64 else torch.float32
    given, exact = exactly(inputs((6, 5, 9, 7), dtype, param, mean), Options())
    assert_all([(compute(given, Options(), backend, layout), compute_torchs(given, Options()), exact)])


@pytest.mark.parametrize("mean", [0.0, 10.0, 1000.0])
def test_channels_last_statistics_are_as_accurate_as_torchs_without(mean):
    """torch's channels_last sums are float32, one after another: running_var is wrong by 2e-4 with one thread.

    With two by 7e-5, and with a mean of 1000 it is fifteen times too large, or wrong by 2e-4. Its contiguous sums
    are wrong by 5e-8. Ours have to be as good as those in every layout.
    """
    x = torch.randn(8, 4, 256, 256, generator=torch.Generator().manual_seed(0)) + mean
    exact = x.double().var((0, 2, 3))
    errors = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        for who, function in (("ours", batch_norm), ("torch", F.batch_norm)):
            var = torch.ones(4)
            function(x.contiguous(memory_format=layout), torch.zeros(4), var, training=True, momentum=1.0)
            errors[who, layout] = ((var.double() - exact).abs() / exact).max().item()
    best = max(errors["torch", torch.contiguous_format], torch.finfo(torch.float32).eps / 2)
    assert errors["ours", torch.contiguous_format] <= best
    assert errors["ours", torch.channels_last] <= best
    assert errors["torch", torch.channels_last] > 100 * errors["ours", torch.channels_last]


def test_running_var_is_unbiased_and_the_output_is_not(backend):
    """torch does the same, which its documentation did not say clearly (pytorch/pytorch#77427)."""
    x = torch.tensor([[1.0], [3.0]], device=backend.device)
    mean, var = torch.zeros(1, device=backend.device), torch.zeros(1, device=backend.device)
    y = batch_norm(x, mean, var, training=True, momentum=1.0, eps=1e-12)
    assert (mean.item(), var.item()) == (2.0, 2.0)
    assert y.flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_same_bits_in_every_layout(backend, shape):
    given, _ = exactly(inputs(shape, torch.float32, torch.float32), ALL)
    results = [compute(given, ALL, backend, layout) for layout in LAYOUTS]
    for other in results[1:]:
        for name, value in vars(results[0]).items():
            assert torch.equal(value, getattr(other, name)), name


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize("shape", [(3, 2, 70, 67), (40, 33, 5, 5), (301, 20)], ids=str)
def test_same_bits_for_any_number_of_threads(backend, shape, layout):
    given, _ = exactly(inputs(shape, torch.float32, torch.float32), ALL)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(compute(given, ALL, backend, layout))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in vars(results[0]).items():
            assert torch.equal(value, getattr(other, name)), name


def test_every_instruction_set_gives_the_same_bits():
    script = (
        "import torch, onepass.nn.functional as f; torch.manual_seed(0); total = [];\n"
        "for dtype in (torch.float32, torch.bfloat16, torch.float64):\n"
        "  for last in (False, True):\n"
        "    x = torch.randn(5, 35, 9, 7).to(dtype); w = torch.randn(35).double().requires_grad_()\n"
        "    x = (x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x).requires_grad_()\n"
        "    p = w if dtype == torch.float64 else w.float()\n"
        "    y = f.batch_norm(x, None, None, p, None, True, activation='relu', dropout=0.2, seed=1)\n"
        "    y.backward(torch.randn(5, 35, 9, 7).to(dtype))\n"
        "    total += [t.detach().double().flatten()[::7].tolist() for t in (y, x.grad, w.grad)]\n"
        "print(hash(str(total)))"
    )
    # All at once: most of each one's time is torch's import.
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "ONEPASS_ISA": isa, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for isa in _native.core.build_info()["isa_compiled"]
    ]
    seen = set()
    for process in started:
        output, errors = process.communicate()
        if "not supported" not in errors:
            assert process.returncode == 0, errors
            seen.add(output)
    assert len(seen) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_the_output(backend, layout):
    """What torch gives, but that a transposed (N, L, C) keeps its layout instead of costing a copy."""
    for shape in SHAPES:
        x = laid_out(torch.randn(shape, device=backend.device), layout)
        y = batch_norm(x, None, None, training=True)
        theirs = F.batch_norm(x, None, None, training=True)
        if layout == "channels_last" and x.dim() == 3:
            assert y.stride() == x.stride()
        else:
            assert y.stride() == theirs.stride()


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_nothing_is_written_beyond_the_outputs(backend, dtype, layout):
    """Every output lies in a block of sentinels."""
    guard, sentinel = 64, 7.0
    for shape in SHAPES:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        blocks = []

        def guarded(*size: int, dtype: torch.dtype, last: bool = False, into=blocks) -> torch.Tensor:
            numel = torch.Size(size).numel()
            block = torch.full((numel + 2 * guard,), sentinel, dtype=dtype, device=backend.device)
            into.append(block)
            inner = block[guard : guard + numel]
            if last and len(size) > 2:
                return inner.view(size[0], *size[2:], size[1]).movedim(-1, 1)
            return inner.view(size)

        last = layout == "channels_last"
        x, residual, y, dy, dx, dresidual = (guarded(*shape, dtype=dtype, last=last) for _ in range(6))
        for tensor in (x, residual, dy):
            tensor.normal_()
        mean, invstd, weight, bias, dweight, dbias, running_mean, running_var = (
            guarded(shape[1], dtype=wide) for _ in range(8)
        )
        mask = guarded((x.numel() + 7) // 8, dtype=torch.uint8)
        threads = torch.get_num_threads()
        size = _native.core.batch_norm_workspace(x=x)
        shared = {"activation": "relu", "dropout": 0.25, "seed": 3, "mask": mask, "threads": threads}
        params = {"x": x, "weight": weight, "bias": bias}
        work = {"workspace": guarded(size, dtype=torch.float64)}
        _native.core.batch_norm_forward(
            **params,
            **shared,
            **work,
            y=y,
            residual=residual,
            mean=mean,
            invstd=invstd,
            running_mean=running_mean,
            running_var=running_var,
            momentum=0.1,
            batches=None,
            eps=1e-5,
        )
        _native.core.batch_norm_backward(
            **params,
            **shared,
            **work,
            dy=dy,
            dx=dx,
            dweight=dweight,
            dbias=dbias,
            dresidual=dresidual,
            mean=mean,
            invstd=invstd,
            training=True,
        )
        for block in blocks:
            assert (block[:guard] == sentinel).all()
            assert (block[-guard:] == sentinel).all()


def test_signs_are_the_same_in_both_passes(backend):
    """A gradient passes exactly where the output is positive, also where rounding decides it."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = (torch.randint(-3, 4, (64, 8, 5, 5), device=backend.device) / 3).to(dtype).requires_grad_()
        r = (torch.randint(-3, 4, (64, 8, 5, 5), device=backend.device) / 3).to(dtype).requires_grad_()
        for residual in (None, r):
            bias = torch.zeros(8, device=backend.device, dtype=x.dtype, requires_grad=True)
            for training in (True, False):
                stats = (torch.zeros_like(bias).detach(), torch.ones_like(bias).detach())
                y = batch_norm(x, *stats, None, bias, training, activation="relu", residual=residual)
                (count,) = torch.autograd.grad(y, bias, torch.ones_like(y))
                expected = (y > 0).sum((0, 2, 3)).to(dtype)
                assert torch.equal(count, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nonfinite_values_spread_as_in_torch(backend, bad):
    """Over their channel, and no further."""
    for shape in ((4, 3, 5, 6), (9, 5)):
        for layout in LAYOUTS[:2]:
            x = torch.randn(shape, device=backend.device)
            x[1, 1] = bad
            x = laid_out(x, layout)
            theirs, mine = F.batch_norm(x, None, None, training=True), batch_norm(x, None, None, training=True)
            assert torch.equal(mine.isnan(), theirs.isnan())
            relu = batch_norm(x, None, None, training=True, activation="relu")
            assert torch.equal(relu.isnan(), theirs.relu().isnan())


def test_a_constant_channel(backend):
    x = torch.full((6, 2, 4), 3.0, device=backend.device, requires_grad=True)
    mean, var = torch.zeros(2, device=backend.device), torch.ones(2, device=backend.device)
    y = batch_norm(x, mean, var, training=True, momentum=1.0)
    y.sum().backward()
    assert (y == 0).all()
    assert (x.grad == 0).all()
    assert (mean == 3).all()
    assert (var == 0).all()


@pytest.mark.large
def test_more_than_2_to_the_31_elements():
    x = torch.zeros(3, 2, 2**29, dtype=torch.bfloat16)
    x[2, 1, -1] = 1000.0
    y = batch_norm(x, None, None, training=True, dropout=0.5, seed=1)
    assert y[2, 1, -2].item() == y[0, 1, 0].item() or 0.0 in (y[2, 1, -2].item(), y[0, 1, 0].item())
    assert (y[:, 0] == 0).all()


def test_module_gives_the_functions_numbers():
    backend = Backend("cpu", torch.device("cpu"))
    given, _ = exactly(inputs((2, 3, 5, 7), torch.float32, torch.float32), ALL)
    module = BatchNorm2d(3, eps=1e-3, momentum=0.3, activation="relu")
    with torch.no_grad():
        for own, value in (
            (module.weight, given.weight),
            (module.bias, given.bias),
            (module.running_mean, given.running_mean),
            (module.running_var, given.running_var),
        ):
            own.copy_(value)
    y = module(given.x, given.residual)
    expected = compute(given, ALL, backend)
    assert torch.equal(y, expected.y)
    assert torch.equal(module.running_var, expected.running_var)


@pytest.mark.parametrize("place", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("payload", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00001, 0x7F800001])
def test_any_nan_of_a_parameter_is_a_nan(backend, place, payload):
    """A GPU's is all ones: rounded to bfloat16 as a number it would be -0."""
    x = torch.linspace(-1, 1, 2 * 3 * 37).view(2, 3, 37).to(backend.device, torch.bfloat16).requires_grad_()
    given = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    given.update(weight=torch.ones(3), bias=torch.zeros(3))
    given[place][1] = torch.from_numpy(np.array([payload], dtype=np.uint32).view(np.float32))[0]
    given = {name: value.to(backend.device) for name, value in given.items()}
    y = batch_norm(x, **given, training=False)
    assert y[:, 1].isnan().all()
    assert not y[:, [0, 2]].isnan().any()
    if place != "bias" and place != "running_mean":
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert dx[:, 1].isnan().all()


VECTORS = {
    "module": lambda training: BatchNorm2d(3).train(training),
    "without affine": lambda training: BatchNorm2d(3, affine=False).train(training),
    "without statistics": lambda training: BatchNorm2d(3, track_running_stats=False).train(training),
    "compiled": lambda training: torch.compile(BatchNorm2d(3).train(training), backend="eager"),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("examples", [2, 0])
@pytest.mark.parametrize("kind", VECTORS)
def test_another_number_of_channels_is_the_inputs(kind, examples, training):
    x, like = torch.randn(examples, 4, 5, 5), "weight" if "statistics" in kind else "running_mean"
    norm = VECTORS[kind](training)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with pytest.raises(ValueError, match=f"^batch_norm: {like} must have 4 elements, got 3: input has") as raised:
        norm(x)
    assert re.search(rf": input has 4 channels in shape \({examples}, 4, 5, 5\), {like}.* 3$", str(raised.value))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("momentum", [float("nan"), float("inf"), np.float32("nan")])
def test_a_momentum_that_is_not_finite(momentum):
    x = torch.randn(8, 4)
    mean, var = torch.zeros(4), torch.ones(4)
    for training in (True, False):
        with pytest.raises(ValueError, match=f"^batch_norm: momentum must be finite, got {momentum}"):
            batch_norm(x, mean, var, training=training, momentum=momentum)
    with pytest.raises(ValueError, match=f"^BatchNorm2d: momentum must be finite or None, got {momentum}"):
        BatchNorm2d(4, momentum=momentum)
    norm = BatchNorm2d(4)
    norm.momentum = momentum
    with pytest.raises(ValueError, match=f"^batch_norm: momentum must be finite, got {momentum}"):
        norm(x[:, :, None, None])
    assert torch.equal(mean, torch.zeros(4))
    assert torch.equal(var, torch.ones(4))
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("features", [None, "4", -1, 2.0, True, []])
def test_features_that_are_no_number(features):
    with pytest.raises((TypeError, ValueError), match=r"^BatchNorm2d: num_features must be (an|at)"):
        BatchNorm2d(features)
