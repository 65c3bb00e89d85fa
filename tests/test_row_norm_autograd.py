"""Layer and RMS norm as autograd, torch.compile, torch.func, modes and checkpoints see them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import onepass.nn
import onepass.nn.functional as ours
from onepass.nn.row_norm._kernels import Options
from row_norm_setup import FUNCTIONS, SEED

# torch.compile itself warns of what it cannot profile.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*record_function.*",
    "ignore::DeprecationWarning:torch",
    "ignore:Mismatch dtype between input and weight",
)
KINDS = ("plain", "residual", "dropout")


def leaves(function: str, kind: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    x, residual = (torch.randn(3, 5, dtype=dtype, requires_grad=True) for _ in range(2))
    weight, bias = (torch.randn(5, dtype=dtype, requires_grad=True) for _ in range(2))
    affine = [weight, bias] if function == "layer_norm" else [weight]
    return [x, *affine] + ([residual] if kind != "plain" else [])


def caller(function: str, kind: str):
    def call(x, *rest):
        affine = rest if kind == "plain" else rest[:-1]
        more = {} if kind == "plain" else {"residual": rest[-1]}
        if kind == "dropout":
            more |= {"dropout": 0.4, "seed": SEED}
        return getattr(ours, function)(x, [5], *affine, eps=1e-3, **more)

    return call


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradcheck(function, kind):
    given = leaves(function, kind)
    assert torch.autograd.gradcheck(caller(function, kind), given, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(caller(function, kind), given, check_batched_grad=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_third_derivative(function, kind):
    """A sum of squares of second derivatives has the gradient of torch's elementary operations.

    torch.nn.functional.layer_norm itself is no reference: the third derivative by its input is wrong (torch 2.13).
    """

    def third(call, given):
        outputs = call(*given)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum((one**3).sum() for one in outputs)
        for _ in range(2):
            found = torch.autograd.grad(total, given, create_graph=True)
            total = sum((one**2).sum() for one in found)
        return torch.autograd.grad(total, given)

    def torchs(x, *rest):
        rows = x
        if kind != "plain":
            ones = torch.ones_like(x).detach()
            rows = x * ours.dropout(ones, 0.4, True, seed=SEED) if kind == "dropout" else x
            rows = rows + rest[-1]
        affine = rest if kind == "plain" else rest[:-1]
        centred = rows - rows.mean(-1, keepdim=True) if function == "layer_norm" else rows
        y = centred * (centred.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * affine[0]
        y = y + affine[1] if function == "layer_norm" else y
        return y if kind == "plain" else (y, rows)

    given = leaves(function, kind)
    for mine, wanted in zip(third(caller(function, kind), given), third(torchs, given), strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_gradient_alone(function, kind):
    """What is not asked for is not computed, and changes nothing."""
    given = leaves(function, kind, torch.float32)
    call = caller(function, kind)
    outputs = call(*given)
    every = torch.autograd.grad(outputs, given, [torch.ones_like(one) for one in _tuple(outputs)])
    for i in range(len(given)):
        alone = [one.detach().requires_grad_(k == i) for k, one in enumerate(given)]
        outputs = call(*alone)
        (found,) = torch.autograd.grad(outputs, alone[i], [torch.ones_like(one) for one in _tuple(outputs)])
        assert torch.equal(found, every[i])


def _tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_output_only(function, kind):
    """Where only the sum was used, or only the norm, the other output's gradient is 0."""
    given, call = leaves(function, kind, torch.float32), caller(function, kind)
    for used in (0, 1):
        outputs = call(*given)
        mine = torch.autograd.grad(outputs[used].square().sum(), given, allow_unused=True)
        outputs = call(*given)
        wanted = torch.autograd.grad(outputs[used].square().sum() + 0 * outputs[1 - used].sum(), given)
        for one, other in zip(mine, wanted, strict=True):
            assert torch.equal(torch.zeros_like(other) if one is None else one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_opcheck(function, kind):
    given = leaves(function, kind, torch.float32)
    x, weight = given[:2]
    centred = function == "layer_norm"
    bias, residual = (given[2] if centred else None), (given[-1] if kind != "plain" else None)
    seed = torch.tensor([SEED]) if kind == "dropout" else None
    options = Options(centred, 5, 1e-3, 0.4 if kind == "dropout" else 0.0)
    torch.library.opcheck(torch.ops.onepass.row_norm.default, (x, weight, bias, residual, seed, *options))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_is_the_same_bits(function):
    given = [one.detach().float().requires_grad_() for one in leaves(function, "dropout")]
    call = caller(function, "dropout")

    def run(*tensors):
        y, h = call(*tensors)
        return (y * 2).sum() + h.square().sum()

    torch.compiler.reset()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    found = [torch.autograd.grad(one(*given), given) for one in (run, compiled)]
    for eager, traced in zip(*found, strict=True):
        assert torch.equal(eager, traced)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_with_dynamic_shapes(function):
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: getattr(ours, function)(x, [x.shape[-1]]), backend="aot_eager", dynamic=True
    )
    for shape in ((3, 7), (5, 9), (2, 4, 6)):
        x = torch.randn(shape)
        assert torch.equal(compiled(x), getattr(ours, function)(x, [shape[-1]]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_torch_func(function, kind):
    """Gradients, directional derivatives and vmap are those of autograd."""
    given = leaves(function, kind)
    call = caller(function, kind)

    def total(*tensors):
        return sum(one.square().sum() for one in _tuple(call(*tensors)))

    wanted = torch.autograd.grad(total(*given), given)
    plain = [one.detach() for one in given]
    for one, other in zip(torch.func.grad(total, tuple(range(len(plain))))(*plain), wanted, strict=True):
        torch.testing.assert_close(one, other)
    _, tangent = torch.func.jvp(total, tuple(plain), tuple(torch.ones_like(one) for one in plain))
    torch.testing.assert_close(tangent, sum(one.sum() for one in wanted))
    if kind == "plain":
        batch = torch.randn(4, 3, 5, dtype=torch.float64)
        mapped = torch.func.vmap(lambda x: call(x, *plain[1:]))(batch)
        torch.testing.assert_close(mapped, torch.stack([call(x, *plain[1:]) for x in batch]))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant):
    """The recomputation draws the mask again."""
    norm = onepass.nn.LayerNorm(6, dropout=0.5)
    results = []
    for wrap in (lambda x, r: norm(x, r), lambda x, r: checkpoint(norm, x, r, use_reentrant=reentrant)):
        x = torch.ones(4, 6, requires_grad=True)
        residual = torch.arange(24.0).reshape(4, 6).requires_grad_()
        torch.manual_seed(3)
        y, h = wrap(x, residual)
        (y.square().sum() + h.sum()).backward()
        results.append((x.grad, residual.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_autocast_is_torchs(function):
    """On the CPU both run in the input's dtype, with float32 parameters."""
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(3, 8).to(dtype)
            mine, torchs = (getattr(of, function)(x, [8], torch.ones(8)) for of in (ours, F))
            assert mine.dtype == torchs.dtype == dtype


def test_changed_sum_is_loud():
    """h is kept for the backward pass: a change in place raises there."""
    x = torch.randn(3, 5, requires_grad=True)
    y, h = ours.rms_norm(x, [5], residual=torch.randn(3, 5))
    with torch.no_grad():
        h.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_without_memory_or_order(function):
    """An expanded gradient, and one in another order of memory."""
    x = torch.randn(4, 5, requires_grad=True)
    (expanded,) = torch.autograd.grad(getattr(ours, function)(x, [5]).sum(), x)
    (dense,) = torch.autograd.grad(getattr(ours, function)(x, [5]), x, torch.ones(4, 5))
    (turned,) = torch.autograd.grad(getattr(ours, function)(x, [5]), x, torch.ones(5, 4).t())
    assert torch.equal(expanded, dense)
    assert torch.equal(turned, dense)


def test_export_has_torchs_operators():
    model = torch.nn.Sequential(onepass.nn.LayerNorm(6), onepass.nn.RMSNorm(6))
    x = torch.randn(2, 6)
    program = torch.export.export(model, (x,))
    names = {str(node.target) for node in program.graph.nodes}
    assert not any("onepass" in name for name in names)
    torch.testing.assert_close(program.module()(x), model(x))


def test_fake_tensors_and_modes():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        y, h = ours.layer_norm(torch.empty(3, 5), [5], residual=torch.empty(3, 5))
        assert y.shape == h.shape == (3, 5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_dtensors_take_torchs_operators(function):
    """A converted model under tensor parallelism runs; the mask is that of the whole tensor."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        x, residual, weight = torch.randn(4, 6), torch.randn(4, 6), torch.randn(6)
        parts = [distribute_tensor(one, mesh, [how]) for one, how in ((x, Shard(0)), (residual, Shard(0)))]
        shared = distribute_tensor(weight, mesh, [Replicate()])
        call = getattr(ours, function)
        y, h = call(parts[0], [6], shared, residual=parts[1], dropout=0.5, seed=SEED)
        wanted = call(x, [6], weight, residual=residual, dropout=0.5, seed=SEED)
        assert torch.equal(h.full_tensor(), wanted[1])
        torch.testing.assert_close(y.full_tensor(), wanted[0])
        torch.testing.assert_close(call(parts[0], [6], shared).full_tensor(), getattr(F, function)(x, [6], weight))
    finally:
        dist.destroy_process_group()
