"""Batch normalisation as torch.compile, torch.export, torch.func, modes and fake tensors see it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch._functorch.config
import torch._inductor.config
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import onepass.nn
from batch_norm_setup import FUSED, call, laid_out, leaves
from onepass.nn.functional import batch_norm

# torch.compile itself warns of what it cannot profile.
pytestmark = pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")


@pytest.fixture(autouse=True)
def _no_cache():
    """torch keeps the traced backward on disk; its key knows nothing of the code of an operator's derivative."""
    functorch, inductor = torch._functorch.config, torch._inductor.config
    with functorch.patch(enable_autograd_cache=False), inductor.patch(fx_graph_cache=False):
        yield


@pytest.mark.parametrize(
    ("compiler", "training", "options", "layout"),
    [
        ("inductor", True, FUSED[0], "contiguous"),
        ("inductor", True, FUSED[-1], "channels_last"),
        ("inductor", False, FUSED[1], "strided"),
        ("aot_eager", True, FUSED[-1], "contiguous"),
        ("aot_eager", True, FUSED[1], "channels_last"),
        ("aot_eager", True, FUSED[-1], "strided"),
        ("aot_eager", False, FUSED[-1], "channels_last"),
    ],
    ids=["plain", "all-channels-last", "eval-strided", "all", "relu-channels-last", "all-strided", "eval-all"],
)
def test_compiled_is_the_same_bits(compiler, training, options, layout):
    """Compares what inductor makes, and traced graphs without its C++ compiler, which takes seconds each."""
    torch.compiler.reset()
    for function in (call, torch.compile(call, fullgraph=True, backend=compiler)):
        given = leaves(dtype=torch.float32)
        x = laid_out(given[0].detach(), layout).requires_grad_()
        y = function(x, *given[1:], training=training, options=options)
        grads = torch.autograd.grad(y, (x, given[1], given[2]), torch.ones_like(y) * 0.3)
        if function is call:
            expected = (y, *grads)
    for mine, eager in zip((y, *grads), expected, strict=True):
        assert torch.equal(mine, eager)
        assert mine.stride() == eager.stride()


@pytest.mark.parametrize("momentum", [0.2, None])
def test_compiled_module_trains_as_the_eager_one(momentum):
    """momentum=None works, too, which torch cannot capture in one graph (pytorch/pytorch#194504)."""
    torch.compiler.reset()
    eager = onepass.nn.BatchNorm2d(3, momentum=momentum, activation="relu", dropout=0.25)
    other = copy.deepcopy(eager)
    compiled = torch.compile(other, fullgraph=True, backend="inductor" if momentum is None else "aot_eager")
    for step in range(3):
        results = []
        for module in (eager, compiled):
            torch.manual_seed(step)
            x = torch.randn(4, 3, 5, 5, requires_grad=True)
            y = module(x)
            y.square().sum().backward()
            results += [y, x.grad]
        assert torch.equal(results[0], results[2])
        assert torch.equal(results[1], results[3])
    for name, value in eager.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_compiled_checkpoint_draws_the_same_mask():
    torch.compiler.reset()
    module = onepass.nn.BatchNorm2d(3, dropout=0.5)

    def run(x):
        return checkpoint(module, x, use_reentrant=False)

    grads = []
    for function in (run, torch.compile(run)):
        torch.manual_seed(1)
        x = torch.randn(4, 3, 5, 5, requires_grad=True)
        y = function(x)
        y.square().sum().backward()
        grads += [y, x.grad]
    assert torch.equal(grads[0] == 0, grads[2] == 0)
    torch.testing.assert_close(grads[1], grads[3])


def test_compiled_with_dynamic_shapes():
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (2, 7, 11):
        given = leaves((size, 3, 5), torch.float32)
        assert torch.equal(compiled(*given), call(*given))


def test_operators_pass_opcheck():
    x, weight, bias, residual = leaves((4, 3, 5), torch.float32)
    mean, var, count = torch.zeros(3), torch.ones(3), torch.tensor(1)
    seed = torch.tensor([5])
    operator = torch.ops.onepass.batch_norm.default
    for args in (
        (x, weight, bias, residual, mean, var, None, seed, True, 0.1, 1e-5, "relu", 0.3),
        (x, weight, bias, None, mean, var, count, None, True, None, 1e-5, None, 0.0),
        (x, None, None, None, None, None, None, None, True, 0.1, 1e-5, "relu", 0.0),
        (x, weight, bias, residual, mean, var, None, None, False, 0.1, 1e-5, "relu", 0.0),
    ):
        torch.library.opcheck(operator, args)
    saved = [value.detach() for value in (torch.randn_like(x), x, weight, bias, mean, var)]
    bits = torch.zeros(8, dtype=torch.uint8)
    for wanted in ([True] * 4, [False, True, False, False]):
        backward_args = (*saved, bits, seed, True, 1e-5, "relu", 0.3, wanted)
        torch.library.opcheck(torch.ops.onepass.batch_norm_backward.default, backward_args)
    torch.library.opcheck(
        torch.ops.onepass.draw_seed.default, (x.detach(),), test_utils=("test_schema", "test_faketensor")
    )


def test_fake_and_meta_tensors():
    x = torch.empty(2, 3, 4, 4, device="meta").contiguous(memory_format=torch.channels_last)
    module = onepass.nn.BatchNorm2d(3, device="meta", activation="relu")
    y = module(x, torch.empty_like(x))
    assert (y.device.type, y.shape, y.stride()) == ("meta", x.shape, x.stride())
    with torch._subclasses.FakeTensorMode():
        y = onepass.nn.BatchNorm2d(3)(torch.empty(2, 3, 4, 4, requires_grad=True))
        y.sum().backward()
    exported = torch.export.export(onepass.nn.BatchNorm2d(3).eval(), (torch.randn(2, 3, 4, 4),))
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(exported.module()(x), torch.nn.BatchNorm2d(3).eval()(x))  # torch's operator


def test_torch_func_is_as_with_torch():
    """grad, jacobians, forward mode, vmap and ensembles go through torch's own operations."""
    x = torch.randn(4, 3, dtype=torch.float64)

    def of(function):
        return lambda x: function(x, None, None, training=True).square().sum()

    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacrev):
        torch.testing.assert_close(transform(of(batch_norm))(x), transform(of(F.batch_norm))(x))
    residual = torch.randn(4, 3, dtype=torch.float64)
    fused = torch.func.grad(
        lambda x: batch_norm(x, None, None, training=True, activation="relu", residual=residual).square().sum()
    )(x)
    value = x.clone().requires_grad_()
    batch_norm(value, None, None, training=True, activation="relu", residual=residual).square().sum().backward()
    torch.testing.assert_close(fused, value.grad)
    _, mine = torch.func.jvp(of(batch_norm), (x,), (torch.ones_like(x),))
    _, theirs = torch.func.jvp(of(F.batch_norm), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(mine, theirs)
    several = torch.randn(5, 4, 3, dtype=torch.float64)
    each = torch.stack([batch_norm(one, None, None, training=True, activation="relu") for one in several])
    mapped = torch.func.vmap(lambda x: batch_norm(x, None, None, training=True, activation="relu"))(several)
    torch.testing.assert_close(mapped, each)
    module = onepass.nn.BatchNorm1d(3).double().eval()
    state = {name: value + 1 for name, value in module.state_dict().items()}
    twin = nn.BatchNorm1d(3).double().eval()
    expected = torch.func.functional_call(twin, state, (x,))
    torch.testing.assert_close(torch.func.functional_call(module, state, (x,)), expected)


def test_forward_mode_is_not_lost():
    """Nothing requires a gradient here, so no node of the graph could complain."""
    x, tangent = torch.randn(4, 3), torch.randn(4, 3)
    results = []
    with forward_ad.dual_level():
        for function in (F.batch_norm, batch_norm):
            y = function(forward_ad.make_dual(x, tangent), None, None, training=True)
            results.append(forward_ad.unpack_dual(y).tangent)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("transform", ["jvp", "vjp", "grad", "vmap"])
def test_a_training_that_torch_func_refuses_changes_nothing(transform):
    """torch refuses the same calls; its count comes first."""
    x = torch.randn(6, 4)
    calls = {
        "jvp": lambda module: torch.func.jvp(module, (x,), (x,)),
        "vjp": lambda module: torch.func.vjp(module, x),
        "grad": lambda module: torch.func.grad(lambda x: module(x).sum())(x),
        "vmap": lambda module: torch.func.vmap(module)(torch.stack([x, x])),
    }
    module = onepass.nn.BatchNorm1d(4)
    for refusing in (torch.nn.BatchNorm1d(4), module):
        with pytest.raises(RuntimeError):
            calls[transform](refusing)
    fresh = torch.nn.BatchNorm1d(4)
    for buffer, untouched in zip(module.buffers(), fresh.buffers(), strict=True):
        assert torch.equal(buffer, untouched)
    module(x)
    assert module.num_batches_tracked == 1


def test_a_training_under_torch_func_counts_once():
    module, x = onepass.nn.BatchNorm1d(4), torch.randn(6, 4)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def loss(state, x):
        copied = {name: value.clone() for name, value in state.items()}
        return torch.func.functional_call(module, copied, (x,)).square().sum() + copied["num_batches_tracked"]

    plain = loss(state, x)
    assert torch.func.grad_and_value(loss, argnums=1)(state, x)[1] == plain


def test_dropout_under_torch_func_is_an_error():
    with pytest.raises(RuntimeError, match=r"batch_norm: dropout must be 0 under torch\.func, got 0\.5"):
        torch.func.grad(lambda x: batch_norm(x, None, None, training=True, dropout=0.5).sum())(torch.randn(4, 3))


def test_a_dispatch_mode_sees_the_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x, weight, bias, _ = leaves(dtype=torch.float32)
    with Names() as names:
        y = call(x, weight, bias, None)
        y.sum().backward()
    assert "onepass.batch_norm.default" in names.seen
    assert "onepass.batch_norm_backward.default" in names.seen
    assert torch.equal(y, call(x, weight, bias, None))


def test_a_function_mode_sees_the_call():
    from torch.overrides import TorchFunctionMode

    seen = []

    class Names(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Names():
        batch_norm(torch.randn(4, 3), None, None, training=True)
    assert batch_norm in seen
