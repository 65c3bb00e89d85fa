"""Dropout as torch.compile, torch.export, torch.func, modes and fake tensors see it."""

from __future__ import annotations

import pytest
import torch
import torch._functorch.config
import torch._inductor.config
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import onepass.nn
import onepass.nn.functional as ours

# torch.compile itself warns of what it cannot profile.
pytestmark = pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")

CASES = {
    "dropout": ((4, 6, 5), "contiguous"),
    "dropout1d": ((4, 6, 5), "strided"),
    "dropout2d": ((2, 3, 4, 4), "channels_last"),
    "alpha_dropout": ((4, 6, 5), "strided"),
    "feature_alpha_dropout": ((2, 3, 4, 4), "channels_last"),
}


@pytest.fixture(autouse=True)
def _no_cache():
    """torch keeps the traced backward on disk; its key knows nothing of the code of an operator's derivative."""
    functorch, inductor = torch._functorch.config, torch._inductor.config
    torch.compiler.reset()
    with functorch.patch(enable_autograd_cache=False), inductor.patch(fx_graph_cache=False):
        yield


def leaf(shape, layout):
    x = torch.randn(shape)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "strided":
        x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]
    return x.requires_grad_()


@pytest.mark.parametrize(("function", "compiler"), [(f, "aot_eager") for f in CASES] + [("dropout", "inductor")])
def test_compiled_is_the_same_bits(function, compiler):
    """The compiled call draws the seed of the eager one; with residual and in place, too."""
    shape, layout = CASES[function]
    call = getattr(ours, function)

    def run(x, r):
        y = call(x * 2, 0.4, True)
        if "alpha" in function:
            return y
        y = call(y, 0.3, True, residual=r)
        z = y * 1
        return call(z, 0.5, True, True)

    x, r = leaf(shape, layout), leaf(shape, "contiguous")
    results = []
    for one in (run, torch.compile(run, fullgraph=True, backend=compiler)):
        torch.manual_seed(3)
        y = one(x, r)
        results.append((y, *torch.autograd.grad(y, (x, r), torch.ones_like(y), allow_unused=True)))
    for eager, compiled in zip(*results, strict=True):
        assert (eager is None and compiled is None) or torch.equal(eager, compiled)


def test_compiled_modules_and_dynamic_shapes():
    module = onepass.nn.Dropout(0.3)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (2, 7, 11):
        x = torch.randn(size, 5)
        torch.manual_seed(size)
        mine = compiled(x)
        torch.manual_seed(size)
        assert torch.equal(mine, module(x))


def test_operator_passes_opcheck():
    operator = torch.ops.onepass.dropout.default
    x, r = leaf((4, 3, 5), "contiguous"), leaf((4, 3, 5), "contiguous")
    seed = torch.tensor([5])
    for args in (
        (x, None, seed, 0.3, "inverted", False, False, False),
        (x, r, seed, 0.3, "inverted", False, True, False),
        (x, r, seed, 0.3, "test_time", False, False, True),
        (x, None, seed, 0.3, "alpha", False, True, True),
        (x, None, seed, 0.3, "alpha", True, False, False),
        (leaf((2, 3, 4, 4), "channels_last"), None, seed, 0.3, "inverted", False, False, False),
        (leaf((4, 6), "strided"), None, seed, 0.3, "inverted", False, False, False),
    ):
        torch.library.opcheck(operator, args)


def test_fake_and_meta_tensors():
    x = torch.empty(2, 3, 4, 4, device="meta").to(memory_format=torch.channels_last)
    y = onepass.nn.Dropout()(x)
    assert (y.device.type, y.shape, y.stride()) == ("meta", x.shape, x.stride())
    with torch._subclasses.FakeTensorMode():
        onepass.nn.Dropout2d()(torch.empty(2, 3, 4, 4, requires_grad=True)).sum().backward()
    exported = torch.export.export(onepass.nn.Dropout(0.5).train(), (torch.randn(50, 4),))
    x = torch.ones(50, 4)
    torch.manual_seed(1)
    mine = exported.module()(x)
    torch.manual_seed(1)
    assert torch.equal(mine, torch.dropout(x, 0.5, True))  # torch's operator, hence torch's mask


@pytest.mark.parametrize("function", ["dropout", "alpha_dropout"])
def test_torch_func(function):
    """grad, jvp and vmap: composed of torch's operations with the kernel's mask."""
    x, r = torch.randn(40, 3, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    more = {} if "alpha" in function else {"residual": r}

    def call(x):
        return getattr(ours, function)(x, 0.4, True, seed=3, **more)

    slope = torch.func.grad(lambda x: call(x).sum())(x)
    value = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(call(value).sum(), value)
    torch.testing.assert_close(slope, expected)
    y, tangent = torch.func.jvp(call, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(y, call(x))
    torch.testing.assert_close(tangent, expected)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x))))
    torch.testing.assert_close(dual.tangent, expected)
    several = torch.randn(5, 40, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(call)(several), torch.stack([call(one) for one in several]))


def test_vmap_draws_only_where_it_may():
    """torch's rule: without randomness= a random function under vmap is an error."""
    x = torch.ones(3, 50)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(ours.dropout)(x)
    y = torch.vmap(ours.dropout, randomness="same")(x)
    assert torch.equal(y[0], y[1])
    with pytest.raises(RuntimeError, match="random"):
        torch.vmap(ours.dropout, randomness="different")(x)


def test_modes_see_the_call():
    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x = torch.randn(4, 3, requires_grad=True)
    with Names() as names:
        ours.dropout(x, seed=3).sum().backward()
    assert names.seen.count("onepass.dropout.default") == 2

    class Functions(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    seen = []
    functions = (ours.dropout, ours.dropout1d, ours.alpha_dropout, ours.feature_alpha_dropout)
    with Functions():
        for function in functions:
            function(torch.randn(4, 3, 2), 0.5, True)
        ours.dropout2d(torch.randn(4, 3, 2, 2))
        ours.dropout3d(torch.randn(4, 3, 2, 2, 1))
    assert {*functions, ours.dropout2d, ours.dropout3d} <= set(seen)
