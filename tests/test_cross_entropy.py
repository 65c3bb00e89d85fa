"""Loss and gradient of cross-entropy by the parity rule, on all backends, layouts, dtypes and options."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cross_entropy_setup import (
    DTYPES,
    OPTIONS,
    SHAPE_IDS,
    SHAPES,
    Options,
    exactly,
    expected,
    inputs,
    laid_out,
    ours,
    torchs,
)
from onepass.nn.functional import cross_entropy
from tolerance import (
    CONFIDENT,
    LOSS,
    LOSS_GRADIENT,
    TORCHS_LOSS,
    TORCHS_LOSS_GRADIENT,
    assert_parity,
    assert_scalar,
)


def judge(found, theirs, exact, what=""):
    if exact[0].dim() == 0:
        assert_scalar(found[0], exact[0], f"{what} loss")
    else:
        assert_parity(found[0], theirs[0].to(found[0].dtype), exact[0], f"{what} loss")
    assert_parity(found[1], theirs[1], exact[1], f"{what} gradient")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_float32(backend, shape, options):
    if backend.name == "simt" and torch.Size(shape).numel() > 12000 and options.kind == "two":
        pytest.skip("the long rows run on the simulator with the other options")
    given, theirs, exact = expected(shape, torch.float32, options)
    judge(ours(given, options, backend), theirs, exact)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("options", OPTIONS[2:7], ids=str)
@pytest.mark.parametrize("shape", [(33, 10), (3, 259), (2, 19, 3, 11)], ids=str)
def test_other_dtypes(backend, shape, options, dtype):
    given, theirs, exact = expected(shape, dtype, options)
    judge(ours(given, options, backend), theirs, exact)


@pytest.mark.parametrize("layout", ["classes last", "strided"])
@pytest.mark.parametrize("options", OPTIONS[2:6], ids=str)
def test_layouts(backend, layout, options):
    shape = (3, 21, 2, 5)
    given, theirs, exact = expected(shape, torch.float32, options)
    found = ours(given, options, backend, layout)
    judge(found, theirs, exact)
    if layout == "classes last":
        assert found[1].stride() == laid_out(given.x, layout).stride()


@pytest.mark.parametrize("options", [OPTIONS[2], OPTIONS[6], OPTIONS[7]], ids=str)
@pytest.mark.parametrize("shape", [(40, 100), (300, 5), (3, 9000), (2, 19, 70, 31)], ids=str)
def test_same_bits_for_any_number_of_threads(shape, options, request):
    given = inputs(shape, torch.float32, options)
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        x = given.x.clone().requires_grad_()
        loss, stats = cross_entropy(
            x, given.target, given.weight, label_smoothing=options.smoothing, target2=given.target2, lam=given.lam,
            return_stats=True,
        )  # fmt: skip
        loss.sum().backward()
        results.append((loss, x.grad, *stats))
    for other in results[1:]:
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(results[0], other, strict=True))


def test_rows_are_split_where_they_are_few(monkeypatch):
    """One row of many classes is shared out; its largest logit may lie in any leaf, far above the first one's."""
    torch.set_num_threads(2)
    for at in (0, 4095, 4096, 50_000, 99_999):
        x = torch.randn(1, 100_000)
        x[0, at] = 30.0
        for label in (at, 7):
            target = torch.tensor([label])
            wide = x.double().requires_grad_()
            exact = F.cross_entropy(wide, target, label_smoothing=0.1)
            exact.backward()
            narrow = x.clone().requires_grad_()
            loss = cross_entropy(narrow, target, label_smoothing=0.1)
            loss.backward()
            torch.testing.assert_close(loss.double(), exact.detach(), **LOSS)
            torch.testing.assert_close(narrow.grad.double(), wide.grad, **LOSS_GRADIENT)


def test_confident_rows_do_not_cancel(backend):
    """p - 1 of a label with p near 1: torch subtracts and is left with the rounding of 1, or with nothing."""
    x = torch.zeros(6, 8)
    x[:, 3] = torch.tensor([8.0, 12.0, 16.0, 20.0, 30.0, 60.0])
    target = torch.full((6,), 3)
    others = 7 * (-x[:, 3].double()).exp()
    narrow = x.to(backend.device, copy=True).requires_grad_()
    loss = cross_entropy(narrow, target.to(backend.device), reduction="none")
    loss.sum().backward()
    torch.testing.assert_close(loss.detach().cpu().double(), others.log1p(), **CONFIDENT)
    torch.testing.assert_close(narrow.grad[:, 3].cpu().double(), -others / (1 + others), **CONFIDENT)
    theirs = x.clone().requires_grad_()
    F.cross_entropy(theirs, target, reduction="sum").backward()
    assert theirs.grad[4, 3] == 0
    assert narrow.grad[4, 3] != 0


@pytest.mark.parametrize("shape", [(4, 6), (2, 6, 3), (2, 5000)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_that_are_not_finite(backend, shape, smoothing):
    inf, nan = float("inf"), float("nan")
    for values in ([-inf], [inf], [nan], [-inf, inf], [-inf, nan]):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        for k, value in enumerate(values):
            x[0, 2 + k] = value
        x[1, :] = -inf if len(values) == 1 else x[1, :]
        for label in (0, 2):
            target = torch.full([1 if d == 1 else n for d, n in enumerate(shape)], label).squeeze(1)
            results = []
            for function, device in ((F.cross_entropy, "cpu"), (cross_entropy, backend.device)):
                leaf = x.to(device).clone().requires_grad_()
                loss = function(leaf, target.to(device), reduction="none", label_smoothing=smoothing)
                (grad,) = torch.autograd.grad(loss, leaf, torch.ones_like(loss))
                results.append((loss.detach().cpu(), grad.cpu()))
            for theirs, mine in zip(*results, strict=True):
                torch.testing.assert_close(mine, theirs, equal_nan=True, **TORCHS_LOSS_GRADIENT)


def test_ignored_rows_have_no_gradient_whatever_they_hold(backend):
    x = torch.randn(3, 5)
    x[1] = float("nan")
    x = x.to(backend.device).requires_grad_()
    loss = cross_entropy(x, torch.tensor([1, 7, 2], device=backend.device), ignore_index=7, label_smoothing=0.1)
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(x.grad[1], torch.zeros(5, device=backend.device))
    assert x.grad[0].abs().sum() > 0


@pytest.mark.parametrize("offset", [0.0, 100.0, -3000.0])
def test_shifted_logits(backend, offset):
    """The log-sum-exp alone, rounded to float32, would lose the digits before its point."""
    options = Options(smoothing=0.1)
    given = inputs((7, 50), torch.float32, options)
    given.x += offset
    judge(ours(given, options, backend), torchs(given, options, torch.float32), exactly(given, options))


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_sorted_rows(backend, order):
    """The maximum grows from leaf to leaf, far beyond the first one's."""
    options = Options(smoothing=0.1)
    given = inputs((1, 17000), torch.float32, options, spread=40)
    given.x = given.x.sort(descending=order == "descending").values
    judge(ours(given, options, backend), torchs(given, options, torch.float32), exactly(given, options))


def test_values_of_torchs_own_samples(backend):
    """op_db and module_db: every sample input that torch tests its own function and module with."""
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

    (op,) = [op for op in op_db if op.name == "nn.functional.cross_entropy"]
    count = 0
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
            theirs = F.cross_entropy(sample.input, *sample.args, **sample.kwargs)
            mine = _moved(cross_entropy, backend, sample.input, *sample.args, **sample.kwargs)
            _same(mine, theirs, sample.input)
            count += 1
    (info,) = [info for info in module_db if info.module_cls is torch.nn.CrossEntropyLoss]
    import onepass.nn

    for sample in info.module_inputs_func(info, "cpu", torch.float64, True, training=True):
        make, call = sample.constructor_input, sample.forward_input
        theirs = torch.nn.CrossEntropyLoss(*make.args, **make.kwargs)(*call.args, **call.kwargs)
        module = onepass.nn.CrossEntropyLoss(*make.args, **make.kwargs).to(backend.device)
        _same(_moved(module, backend, *call.args, **call.kwargs), theirs, call.args[0])
        count += 1
    assert count > 100


def _moved(function, backend, *args, **kwargs):
    def move(value):
        return value.to(backend.device) if isinstance(value, torch.Tensor) else value

    return function(*map(move, args), **{name: move(value) for name, value in kwargs.items()})


def _same(mine, theirs, leaf):
    allowed = TORCHS_LOSS[torch.bfloat16 if leaf.dtype == torch.bfloat16 else torch.float32]
    assert mine.shape == theirs.shape
    torch.testing.assert_close(mine.cpu().to(theirs.dtype), theirs, **allowed, equal_nan=True)
    if leaf.requires_grad and leaf.numel():
        grads = [torch.autograd.grad(out.sum(), leaf, retain_graph=True)[0] for out in (mine, theirs)]
        torch.testing.assert_close(*grads, **allowed, equal_nan=True)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_empty_batches(backend, reduction):
    for shape, rows in (((0, 4), (0,)), ((0, 4, 5), (0, 5)), ((2, 4, 0), (2, 0))):
        x = torch.zeros(shape, device=backend.device, requires_grad=True)
        target = torch.zeros(rows, dtype=torch.int64, device=backend.device)
        theirs = F.cross_entropy(x, target, reduction=reduction)
        mine = cross_entropy(x, target, reduction=reduction)
        torch.testing.assert_close(mine, theirs, equal_nan=True)
        mine.sum().backward()
        assert x.grad.shape == shape


def test_all_rows_ignored_is_nan_as_torch(backend):
    x = torch.randn(3, 4, device=backend.device)
    target = torch.full((3,), -100, device=backend.device)
    assert cross_entropy(x, target).isnan()
    assert cross_entropy(x, target, reduction="sum") == 0


@pytest.mark.large
def test_beyond_two_to_the_31st_logits():
    x = torch.zeros(70_000, 32_000, dtype=torch.bfloat16)
    x[-1, -1] = 5
    target = torch.full((70_000,), 31_999)
    loss = cross_entropy(x, target, reduction="none")
    torch.testing.assert_close(loss[:-1], torch.full((69_999,), 32_000.0).log())
    # In float64: torch's float32 loss is wrong in the sixth digit here.
    torch.testing.assert_close(loss[-1], F.cross_entropy(x[-1].double(), target[-1]).float())
