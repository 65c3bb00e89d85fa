"""clip_grad_norm_ and clip_grad_value_ against torch's and against float64, on every backend."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from torch.nn.utils import clip_grad_norm_ as torch_norm
from torch.nn.utils import clip_grad_value_ as torch_value

from conftest import Backend
from onepass import _native
from onepass.optim import clip_grad_norm_, clip_grad_value_
from tolerance import CLIPPED_HALF_RTOL, NORM_FLOAT64_RTOL, NORM_RTOL

# torch.compile itself warns of what it cannot profile.
pytestmark = pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Nothing, one, tails of every vector width, a leaf of the reduction and its neighbours, several leaves.
SIZES = (0, 1, 7, 31, 32, 33, 257, 511, 2049, 16383, 16384, 16385, 50001)
ORDERS = (1.0, 2.0, float("inf"), 3.0, 0.5)


def with_grads(backend: Backend, dtype: torch.dtype, sizes=SIZES, scale=1.0, seed=0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    params = []
    for size in sizes:
        grad = (torch.randn(size, generator=generator) * scale).to(dtype=dtype, device=backend.device)
        param = torch.nn.Parameter(torch.zeros_like(grad))
        param.grad = grad
        params.append(param)
    return params


def grads_of(params) -> torch.Tensor:
    return torch.cat([p.grad.flatten().double().cpu() for p in params])


def exact_norm(values: torch.Tensor, order: float) -> torch.Tensor:
    """The norm by a sum without rounding; torch's own float64 sum is thousands of ulp away."""
    magnitudes = values.abs().tolist()
    if order == float("inf"):
        return torch.tensor(max(magnitudes), dtype=torch.float64)
    return torch.tensor(math.fsum(x**order for x in magnitudes) ** (1 / order), dtype=torch.float64)


def ulp(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.abs() * torch.finfo(dtype).eps + torch.finfo(dtype).smallest_normal


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_norm_is_at_most_an_ulp_from_float64(backend, dtype, order):
    params = with_grads(backend, dtype)
    exact = exact_norm(grads_of(params), order)
    total = clip_grad_norm_(params, 1e-3, norm_type=order)
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert total.shape == ()
    assert total.device == params[0].grad.device
    # Sums of float64 are rounded in float64 themselves, and so are powers and roots.
    slack = 1 if dtype != torch.float64 else 4
    assert (total.double().cpu() - exact).abs() <= slack * ulp(exact, total.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e9, float("inf")])
def test_gradients_are_scaled_as_well_as_by_torch(backend, dtype, order, max_norm):
    # torch knows no largest element of an empty tensor.
    sizes = [size for size in SIZES if size > 0]
    ours, theirs = with_grads(backend, dtype, sizes), with_grads(backend, dtype, sizes)
    before = grads_of(ours)
    norm = torch.linalg.vector_norm(before, order)
    exact = before * (max_norm / (norm + 1e-6)).clamp(max=1)
    clip_grad_norm_(ours, max_norm, order)
    of_torch = torch_norm(theirs, max_norm, order, foreach=False)
    mine, other = (grads_of(p) - exact for p in (ours, theirs))
    if of_torch.isinf():  # a float16 sum that overflowed
        other = torch.zeros_like(exact)
    assert (mine.abs() <= 2 * other.abs() + ulp(exact, dtype)).all()
    if max_norm >= 1e9:
        assert torch.equal(grads_of(ours), before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("limit", [0.0, 0.5, 6e4])
def test_values_are_clamped_as_by_torch(backend, dtype, limit):
    ours, theirs = with_grads(backend, dtype), with_grads(backend, dtype)
    for params in (ours, theirs):
        params[6].grad[3] = float("nan")
        params[6].grad[4] = float("-inf")
    clip_grad_value_(ours, limit)
    torch_value(theirs, limit, foreach=False)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.grad.isnan(), other.grad.isnan())
        assert torch.equal(mine.grad.nan_to_num(7.0), other.grad.nan_to_num(7.0))


def test_finite_float16_gradients_have_a_finite_norm(backend):
    """torch's own is inf, and every gradient becomes 0."""
    params = with_grads(backend, torch.float16, sizes=(1000,))
    params[0].grad.fill_(60000.0)
    total = clip_grad_norm_(params, 1.0)
    assert total.item() == pytest.approx(60000 * 1000**0.5, rel=NORM_RTOL)
    assert grads_of(params).norm().item() == pytest.approx(1.0, rel=CLIPPED_HALF_RTOL)


def test_squares_beyond_float32_have_a_finite_norm(backend):
    params = with_grads(backend, torch.float32, sizes=(4,))
    params[0].grad.fill_(2e38)
    assert clip_grad_norm_(params, 1.0, error_if_nonfinite=False).isinf()  # 4e38 is beyond float32 itself
    params[0].grad.fill_(1e30)
    assert clip_grad_norm_(params, 1.0).item() == pytest.approx(2e30)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_nonfinite_norm(backend, bad):
    params = with_grads(backend, torch.float32)
    params[8].grad[5] = bad
    before = grads_of(params)
    with pytest.raises(RuntimeError, match=r"clip_grad_norm_: the gradients' norm of order 2.0 must be finite"):
        clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert torch.equal(grads_of(params).nan_to_num(1), before.nan_to_num(1))
    other = with_grads(backend, torch.float32)
    other[8].grad[5] = bad
    total = clip_grad_norm_(params, 1.0)
    expected = torch_norm(other, 1.0, foreach=False)
    assert torch.equal(total.isnan(), expected.isnan())
    assert torch.equal(total.isinf(), expected.isinf())
    assert torch.equal(grads_of(params).isnan(), grads_of(other).isnan())


def test_a_nan_of_any_bits_reaches_every_gradient(backend):
    """Rounding to bfloat16 must not carry the bits of another dtype's nan over into its sign."""
    params = [p for dtype in (torch.float32, torch.bfloat16) for p in with_grads(backend, dtype, sizes=(64,))]
    for bits in (-1, 0x7FFFFFFF, 0x7F800001):
        params[0].grad.view(torch.int32)[3] = bits
        params[1].grad.fill_(1.0)
        clip_grad_norm_(params, 1.0)
        assert grads_of(params).isnan().all()


def test_same_bits_for_any_number_of_threads(backend):
    def run(threads: int) -> tuple[float, torch.Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            params = with_grads(backend, torch.float64)
            return clip_grad_norm_(params, 0.5).item(), grads_of(params)
        finally:
            torch.set_num_threads(before)

    norm, grads = run(1)
    for threads in (2, 5):
        assert run(threads)[0] == norm
        assert torch.equal(run(threads)[1], grads)


def test_same_bits_wherever_the_gradient_lies(backend):
    base = torch.randn(40000, device=backend.device, dtype=torch.float64)
    norms = set()
    for offset in range(4):
        param = torch.nn.Parameter(torch.zeros_like(base))
        param.grad = torch.empty(40008, device=backend.device, dtype=torch.float64)[offset : offset + 40000]
        param.grad.copy_(base)
        norms.add(clip_grad_norm_(param, 1e9).item())
    assert len(norms) == 1


def test_mixed_dtypes_and_one_tensor(backend):
    params = [p for dtype in DTYPES for p in with_grads(backend, dtype, sizes=(100, 7))]
    exact = torch.linalg.vector_norm(grads_of(params))
    assert clip_grad_norm_(iter(params), 1e9).item() == pytest.approx(exact.item(), rel=NORM_FLOAT64_RTOL)
    assert clip_grad_norm_(params[0], 1e9).item() == pytest.approx(params[0].grad.norm().item(), rel=NORM_RTOL)


def test_views_and_layouts(backend):
    """Dense in another order, and strided: elements between those of a view stay as they are."""
    base = torch.arange(24.0, device=backend.device).reshape(4, 6)
    view = torch.nn.Parameter(torch.zeros(4, 3, device=backend.device))
    view.grad = base[:, ::2]
    last = torch.nn.Parameter(torch.zeros(2, 3, 4, 5, device=backend.device))
    last.grad = torch.ones(2, 3, 4, 5, device=backend.device).contiguous(memory_format=torch.channels_last)
    norm = torch.linalg.vector_norm(grads_of([view, last])).item()
    untouched = base[:, 1::2].clone()
    kept = base[:, ::2].clone()
    assert clip_grad_norm_([view, last], norm / 2).item() == pytest.approx(norm)
    assert torch.equal(base[:, 1::2], untouched)
    torch.testing.assert_close(base[:, ::2], kept / 2)
    torch.testing.assert_close(last.grad, torch.full_like(last.grad, 0.5))


def test_torchs_own_function_takes_what_the_kernels_do_not():
    ours, theirs = (torch.nn.Parameter(torch.zeros(5)) for _ in range(2))
    for param in (ours, theirs):
        param.grad = torch.sparse_coo_tensor([[1, 3]], [3.0, 4.0], (5,), check_invariants=True)
    try:
        expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    except NotImplementedError:  # torch before 2.15
        with pytest.raises(NotImplementedError):
            clip_grad_norm_(ours, 1.0)
    else:
        assert clip_grad_norm_(ours, 1.0).item() == expected.item() == 5.0
        assert torch.equal(ours.grad.to_dense(), theirs.grad.to_dense())
    param = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    param.grad = torch.tensor([3j, 4.0])
    assert clip_grad_norm_(param, 1.0).item() == pytest.approx(5.0)
    param = torch.nn.Parameter(torch.zeros(3))
    param.grad = torch.tensor([1.0, 0.0, 2.0])
    assert clip_grad_norm_(param, 1.0, norm_type=0).item() == 1.0  # torch: of one tensor's count of 2
    assert clip_grad_norm_(param, 1.0, foreach=False).item() > 0


@pytest.mark.parametrize("bad", [-1.0, float("nan"), "much"])
def test_bad_limits(bad):
    param = torch.nn.Parameter(torch.zeros(3))
    param.grad = torch.ones(3)
    with pytest.raises((ValueError, TypeError), match="clip_grad_norm_: max_norm must be"):
        clip_grad_norm_(param, bad)
    with pytest.raises((ValueError, TypeError), match="clip_grad_value_: clip_value must be"):
        clip_grad_value_(param, bad)
    assert torch.equal(param.grad, torch.ones(3))


def test_shared_gradients_are_refused():
    grad = torch.ones(8)
    params = [torch.nn.Parameter(torch.zeros(8)), torch.nn.Parameter(torch.zeros(4))]
    params[0].grad, params[1].grad = grad, grad[4:]
    for clip in (lambda: clip_grad_norm_(params, 0.1), lambda: clip_grad_value_(params, 0.1)):
        with pytest.raises(ValueError, match=r"grads\[0\] and grads\[1\] must not share memory"):
            clip()
    assert torch.equal(grad, torch.ones(8))


def test_nothing_to_clip():
    assert clip_grad_norm_([], 1.0).item() == 0
    assert clip_grad_norm_([torch.nn.Parameter(torch.zeros(3))], 1.0).item() == 0
    clip_grad_value_([], 1.0)
    with pytest.warns(UserWarning, match="empty generator"):
        clip_grad_norm_((p for p in []), 1.0)


def test_autograd_notices_the_write():
    grad = torch.ones(3, requires_grad=True)
    product = grad * grad
    param = torch.nn.Parameter(torch.zeros(3))
    param.grad = grad.detach()
    clip_grad_norm_(param, 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_compiled():
    @torch.compile(fullgraph=True)
    def clip(params):
        clip_grad_value_(params, 2.0)
        return clip_grad_norm_(params, 0.5)

    backend = Backend("cpu", torch.device("cpu"))
    ours, eager = (with_grads(backend, torch.float32, sizes=(7, 100)) for _ in range(2))
    norm = clip(ours)
    clip_grad_value_(eager, 2.0)
    assert norm.item() == clip_grad_norm_(eager, 0.5).item()
    assert torch.equal(grads_of(ours), grads_of(eager))


def test_operators_pass_opcheck():
    grads = [torch.randn(7), torch.randn(33)]
    torch.library.opcheck(torch.ops.onepass.clip_grad_norm_.default, (grads, 0.5, 2.0))
    torch.library.opcheck(torch.ops.onepass.clip_grad_value_.default, (grads, 0.5))


def test_every_instruction_set_gives_the_same_bits():
    script = (
        "import torch, onepass.optim as o; torch.manual_seed(0); p = torch.nn.Parameter(torch.zeros(70001));"
        "p.grad = torch.randn(70001); print([o.clip_grad_norm_(p, m, t).item().hex() for t in (1, 2, 3, 'inf')"
        " for m in (1e9, 0.5)], p.grad.double().sum().item().hex())"
    )
    seen = set()
    for isa in _native.core.build_info()["isa_compiled"]:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "ONEPASS_ISA": isa},
            capture_output=True,
            text=True,
            check=False,
        )
        if "not supported" not in done.stderr:
            assert done.returncode == 0, done.stderr
            seen.add(done.stdout)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "clip", [lambda ps: clip_grad_norm_(ps, 0.1), lambda ps: clip_grad_value_(ps, 0.1)], ids=["norm", "value"]
)
@pytest.mark.parametrize(
    ("grads", "words"),
    [
        (lambda: (torch.ones(4), torch.ones(1).expand(4)), r"grads\[1\] must have one place in memory for each"),
        (lambda: (torch.ones(4, 8)[:, ::2],) * 2, r"grads\[0\] and grads\[1\] must not share memory"),
    ],
    ids=["expanded", "shared"],
)
def test_gradients_that_cannot_be_written_are_refused_before_any_is(clip, grads, words):
    found = grads()
    params = [torch.nn.Parameter(torch.zeros(grad.shape)) for grad in found]
    for param, grad in zip(params, found, strict=True):
        param.grad = grad
    with pytest.raises(ValueError, match=words):
        clip(params)
    assert all((param.grad == 1).all() for param in params)


@pytest.mark.parametrize("order", [float("nan"), "nan", torch.tensor(float("nan"))])
@pytest.mark.parametrize("foreach", [None, False])
def test_an_order_that_is_no_number(order, foreach):
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"^clip_grad_norm_: norm_type must be a number or 'inf', got nan"):
        clip_grad_norm_([param], 0.5, order, foreach=foreach)
    assert torch.equal(param.grad, torch.ones(2))
    with pytest.raises(ValueError, match=r"^clip_grad_norm_: norm_type must be a number or 'inf', got 'two'"):
        clip_grad_norm_([param], 0.5, "two")
    for parameters in ([param, 3], (one for one in [param, 3])):
        with pytest.raises(TypeError, match=r"^clip_grad_norm_: parameters\[1\] must be a tensor, got 3"):
            clip_grad_norm_(parameters, 0.5)
    assert torch.equal(param.grad, torch.ones(2))
