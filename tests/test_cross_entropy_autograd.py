"""Cross-entropy as autograd, torch.compile, torch.export, torch.func, modes and fake tensors see it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch._functorch.config
import torch._inductor.config
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import onepass.nn
from onepass.nn.functional import cross_entropy

# torch.compile itself warns of what it cannot profile.
pytestmark = pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")

TARGET, SECOND = torch.tensor([1, 4, -100, 0]), torch.tensor([2, -100, -100, 0])
LAM = torch.tensor([0.2, 0.9, 0.5, 0.7])
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5], dtype=torch.float64)
SETS = [
    {},
    {"label_smoothing": 0.2, "weight": WEIGHT, "z_loss": 0.1},
    {"target2": SECOND, "lam": LAM, "label_smoothing": 0.1, "reduction": "none", "z_loss": 0.05},
    {"target2": SECOND, "lam": 0.3, "reduction": "sum"},
]
IDS = ["plain", "smoothed-weighted-z", "two-per-sample", "two"]


@pytest.fixture(autouse=True)
def _no_cache():
    """torch keeps the traced backward on disk; its key knows nothing of the code of an operator's derivative."""
    functorch, inductor = torch._functorch.config, torch._inductor.config
    with functorch.patch(enable_autograd_cache=False), inductor.patch(fx_graph_cache=False):
        yield


def logits(*shape, dtype=torch.float64):
    return torch.randn(shape or (4, 5), generator=torch.Generator().manual_seed(2), dtype=dtype).requires_grad_()


@pytest.mark.parametrize("options", SETS, ids=IDS)
def test_first_and_second_derivatives(backend, options):
    def there(value):
        return value.to(backend.device) if isinstance(value, torch.Tensor) else value

    more = {name: there(value) for name, value in options.items()}
    x = logits().detach().to(backend.device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, there(TARGET), **more), x)
    assert torch.autograd.gradgradcheck(lambda x: cross_entropy(x, there(TARGET), **more), x)
    # The composed gradient, of which the second derivative is made, is the kernel's.
    loss = cross_entropy(x, there(TARGET), **more).sum()
    kernel, composed = (torch.autograd.grad(loss, x, retain_graph=True, create_graph=c)[0] for c in (False, True))
    torch.testing.assert_close(kernel, composed.detach())


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_derivatives_of_probabilities(reduction):
    x, y = logits(2, 5, 3), logits(2, 5, 3).detach().softmax(1).requires_grad_()

    def loss(x, y):
        return cross_entropy(x, y, WEIGHT, label_smoothing=0.1, reduction=reduction)

    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))
    theirs = F.cross_entropy(x, y, WEIGHT, label_smoothing=0.1, reduction=reduction)
    for mine, other in zip(*(torch.autograd.grad(out.sum(), (x, y)) for out in (loss(x, y), theirs)), strict=True):
        torch.testing.assert_close(mine, other)


def call(x, options=SETS[0], target=TARGET):
    options = {name: value.to(x.dtype) if name == "weight" else value for name, value in options.items()}
    return cross_entropy(x, target, **options)


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
@pytest.mark.parametrize("options", [SETS[1], SETS[2]], ids=[IDS[1], IDS[2]])
def test_compiled_is_the_same_bits(compiler, options):
    torch.compiler.reset()
    results = []
    for function in (call, torch.compile(call, fullgraph=True, backend=compiler)):
        x = logits(dtype=torch.float32)
        loss = function(x, options)
        results.append((loss, torch.autograd.grad(loss.sum() * 0.3, x)[0]))
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


def test_compiled_with_statistics_and_dynamic_shapes():
    torch.compiler.reset()
    module = onepass.nn.CrossEntropyLoss(label_smoothing=0.1, return_stats=True)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (2, 5, 9):
        x, target = torch.randn(rows, 6), torch.randint(0, 6, (rows,))
        loss, found = compiled(x, target)
        wanted, statistics = module(x, target)
        assert torch.equal(loss, wanted)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found, statistics, strict=True))


def test_operators_pass_opcheck():
    x = logits(dtype=torch.float32)
    operator = torch.ops.onepass.cross_entropy.default
    rest = (-100, 0.1, 0.01)
    probabilities = torch.full((4, 5), 0.2)
    for args in (
        (x, TARGET, None, None, 1.0, None, *rest, "mean", False),
        (x, TARGET, SECOND, LAM, 1.0, WEIGHT.float(), *rest, "none", True),
        (x, probabilities, None, None, 1.0, None, *rest, "sum", False),
    ):
        torch.library.opcheck(operator, args)
        loss, saved, totals = operator(*args)
        backward = (torch.ones_like(loss), x.detach(), saved, totals, *args[1:-1])
        torch.library.opcheck(torch.ops.onepass.cross_entropy_backward.default, backward)


def test_fake_meta_and_export():
    x, target = torch.empty(2, 3, 4, device="meta"), torch.empty(2, 4, dtype=torch.int64, device="meta")
    assert cross_entropy(x, target, reduction="none").shape == (2, 4)
    with torch._subclasses.FakeTensorMode():
        y = torch.empty(2, 3, requires_grad=True)
        cross_entropy(y, torch.empty(2, dtype=torch.int64)).backward()
    exported = torch.export.export(onepass.nn.CrossEntropyLoss(), (torch.randn(4, 5), TARGET))
    x = torch.randn(4, 5)
    assert torch.equal(exported.module()(x, TARGET), F.cross_entropy(x, TARGET))  # torch's operator


def test_torch_func_is_as_with_torch():
    x = logits().detach()
    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacrev):
        torch.testing.assert_close(
            transform(lambda x: cross_entropy(x, TARGET))(x), transform(lambda x: F.cross_entropy(x, TARGET))(x)
        )
    several = torch.randn(3, 4, 5)
    each = torch.stack([cross_entropy(one, TARGET, label_smoothing=0.1) for one in several])
    mapped = torch.func.vmap(lambda x: cross_entropy(x, TARGET, label_smoothing=0.1))(several)
    torch.testing.assert_close(mapped, each)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        mine, theirs = (forward_ad.unpack_dual(f(dual, TARGET)).tangent for f in (cross_entropy, F.cross_entropy))
    torch.testing.assert_close(mine, theirs)


def test_errors_where_only_torch_works():
    x = torch.randn(4, 5)
    with pytest.raises(RuntimeError, match=r"return_stats must be False under torch.func, got True"):
        torch.func.grad(lambda x: cross_entropy(x, TARGET, return_stats=True)[0])(x)
    with pytest.raises(RuntimeError, match=r"inplace_backward must be False under torch.compile"):
        torch.func.grad(lambda x: cross_entropy(x, TARGET, inplace_backward=True))(x)


def test_a_mode_sees_the_operators():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x = logits(dtype=torch.float32)
    with Names() as names:
        cross_entropy(x, TARGET).backward()
    assert {"onepass.cross_entropy.default", "onepass.cross_entropy_backward.default"} <= set(names.seen)


def test_a_second_backward_pass():
    x = logits(dtype=torch.float32)
    loss = cross_entropy(x, TARGET)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, x)[0])
    logits_ = logits(dtype=torch.float32) * 1
    loss = cross_entropy(logits_, TARGET, inplace_backward=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_negative_bit():
    """What only says that it is negative is read as what it is."""
    x, grad, target = torch.randn(4, 5), torch.rand(4), torch.arange(4)
    y, weight, lam = torch.rand(4, 5), torch.rand(5), torch.rand(4)

    def flipped(tensor):
        return torch._neg_view(-tensor)

    def results(view):
        one = view(x).requires_grad_()
        yield cross_entropy(one, target, view(weight), reduction="none")
        yield cross_entropy(one, view(y), reduction="none")
        yield cross_entropy(one, target, target2=target.flip(0), lam=view(lam), reduction="none")
        yield cross_entropy(one, view(target), reduction="none")

    for mine, theirs in zip(results(flipped), results(lambda tensor: tensor.clone()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    wanted = None
    for view in (torch.clone, flipped):
        one = x.clone().requires_grad_()
        cross_entropy(one, target, reduction="none").backward(view(grad))
        wanted = one.grad if wanted is None else wanted
        assert torch.equal(one.grad, wanted)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced():
    target = torch.arange(4)
    traced = torch.jit.trace(lambda x: cross_entropy(x, target), torch.randn(4, 5))
    x = torch.randn(4, 5, requires_grad=True)
    assert torch.equal(traced(x), cross_entropy(x, target))
    assert torch.equal(*(torch.autograd.grad(f(x), x)[0] for f in (traced, lambda x: cross_entropy(x, target))))


def test_composed_is_as_the_kernel_without_a_batch_and_in_ignored_rows():
    label = torch.tensor(2)
    for target in (label, label.view(1)):
        options = {"target2": target, "lam": torch.tensor([0.3]), "reduction": "none"}
        x = torch.randn(5)
        _, slope = torch.func.jvp(lambda x: cross_entropy(x, target, **options), (x,), (x,))  # noqa: B023
        assert slope.shape == cross_entropy(x, target, **options).shape
    x, target = torch.randn(2, 3), torch.tensor([-100, 1])
    x[0] = float("nan")
    for more in ({}, {"target2": target, "lam": 0.5}, {"z_loss": 0.1}):
        found = torch.func.grad(lambda x: cross_entropy(x, target, **more))(x)  # noqa: B023
        assert (found[0] == 0).all()
        assert found[1].isfinite().all()


@pytest.mark.parametrize("twice", [False, True], ids=["one graph", "graph of the gradient"])
@pytest.mark.parametrize(
    "tied", [lambda x: (x, (x * 0.5).softmax(1)), lambda x: (x, x), lambda y: (y * 2, y.exp())]
)
def test_probabilities_and_logits_may_be_made_of_one_tensor(tied, twice):
    """Self-distillation does this. The backward pass takes each way to that tensor once."""
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, wanted = (
        torch.autograd.grad(function(*tied(x)), x, create_graph=twice)[0]
        for function in (cross_entropy, torch.nn.functional.cross_entropy)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("return_stats", [False, True], ids=["", "stats"])
@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_the_loss_inside_of_a_checkpoint(reentrant, inplace, return_stats):
    """With the layer before it: the gradient is written over the recomputed logits."""
    torch.manual_seed(0)
    layer, first = torch.nn.Linear(5, 5), torch.randn(4, 5)

    def loss(x):
        return cross_entropy(layer(x), TARGET, inplace_backward=inplace, return_stats=return_stats)

    found = []
    for run in (loss, partial(checkpoint, loss, use_reentrant=reentrant)):
        layer.zero_grad()
        x = first.clone().requires_grad_()
        result = run(x)
        value = result[0] if return_stats else result
        value.backward()
        statistics = [v.nan_to_num() for v in result[1]] if return_stats else []
        found.append([value, x.grad, layer.weight.grad, *statistics])
    assert all(map(torch.equal, *found))
