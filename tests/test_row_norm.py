"""Layer and RMS norm as functions: numbers, layouts, masks, threads, and what they keep."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import onepass.nn.functional as ours
from conftest import Backend
from onepass.bench.memory import kept_bytes
from row_norm_setup import DTYPE_IDS, DTYPES, EPS, FUNCTIONS, OPTIONS, SEED, Options, inputs, kept_scaled, run
from tolerance import FLOAT64, OUTLIER_ROWS, assert_parity, error

# torch warns that it has no fused kernel for the two dtypes.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")

# (shape, dimensions of a row); 2048 elements are a strip of the CPU, 1024 a short row of the GPU.
SHAPES = (
    ((900, 1), 1),  # many, so that no luck of torch with a cancelling gradient counts
    ((90, 5), 1),
    ((37, 8), 1),
    ((2, 3, 7, 9), 2),
    ((70, 33), 1),
    ((5, 1025), 1),
    ((3, 2048), 1),
    ((2, 4, 523), 2),
    ((2, 9001), 1),
)
SHAPE_IDS = ["x".join(map(str, shape)) for shape, _ in SHAPES]


def check(function: str, given, options: Options, backend: Backend) -> None:
    """The parity rule, for every output and gradient."""
    mine = run(function, given, options, "ours", backend.device)
    torchs, exact = run(function, given, options, "torch"), run(function, given, options, "exact")
    assert set(mine) == set(exact)
    for name, value in mine.items():
        assert value.dtype == torchs[name].dtype
        if value.dtype == torch.float64:
            # torch's own result is the exact one.
            torch.testing.assert_close(value.cpu(), exact[name], **FLOAT64)
            continue
        assert_parity(value.cpu(), torchs[name], exact[name], f"{function} {name}")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("shape", "rows"), SHAPES, ids=SHAPE_IDS)
def test_shapes(function, options, shape, rows, backend):
    check(function, inputs(shape, rows, torch.float32, torch.float32), options, backend)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("dtype", "param"), DTYPES, ids=DTYPE_IDS)
def test_dtypes(function, options, dtype, param, backend):
    check(function, inputs((19, 200), 1, dtype, param), options, backend)
    check(function, inputs((2, 2100), 1, dtype, param), options, backend)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_many_rows(function, backend):
    rows = 100_000 if backend.name != "simt" else 2000
    check(function, inputs((rows, 6), 1, torch.float32, torch.float32), Options(), backend)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_far_from_zero(mean, backend):
    """Statistics are formed around a shift: a large mean costs nothing but the spacing of the input."""
    check("layer_norm", inputs((8, 700), 1, torch.float32, torch.float32, mean), Options(), backend)


def test_outlier_in_front():
    """A segment's shift is made of its first elements; next to it the others' variance is small."""
    x = torch.randn(1, 9001, generator=torch.Generator().manual_seed(1))
    x[0, :3] += 1000
    exact = F.layer_norm(x.double(), [9001])
    torch.testing.assert_close(ours.layer_norm(x, [9001]).double(), exact, **OUTLIER_ROWS)


def test_constant_rows():
    """The variance of equal elements is exactly 0."""
    x = torch.full((3, 77), 12345.678)
    assert (ours.layer_norm(x, [77]) == 0).all()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("affine", ["none", "weight"])
def test_without_parameters(function, affine, backend):
    given = inputs((6, 40), 1, torch.float32, torch.float32)
    x = given.x.to(backend.device).requires_grad_()
    weight = given.weight.to(backend.device) if affine == "weight" else None
    y = getattr(ours, function)(x, [40], weight, eps=EPS)
    (dx,) = torch.autograd.grad(y, x, given.dy.to(backend.device))
    results = []
    for wide in (torch.float32, torch.float64):
        leaf = given.x.to(wide).requires_grad_()
        w = None if weight is None else given.weight.to(wide)
        one = getattr(F, function)(leaf, [40], w, eps=EPS)
        results.append((one.detach(), torch.autograd.grad(one, leaf, given.dy.to(wide))[0]))
    for value, torchs, exact in zip((y.detach(), dx), *results, strict=True):
        assert_parity(value.cpu(), torchs, exact)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_layouts(function, layout, backend):
    base = torch.randn(6, 10, 12)
    x = {
        "transposed": base.transpose(0, 1),
        "strided": base[..., ::2],
        "expanded": base[:1].expand(4, 10, 12),
    }[layout].to(backend.device)
    weight = torch.randn(x.shape[-1], 10, device=backend.device).t() if layout != "strided" else None
    width = [10, x.shape[-1]] if weight is not None else [x.shape[-1]]
    if layout == "transposed":
        x = x.transpose(0, 1)
    y = getattr(ours, function)(x, width, weight, eps=EPS)
    assert y.is_contiguous()
    copied = None if weight is None else weight.contiguous()
    assert torch.equal(y, getattr(ours, function)(x.contiguous(), width, copied, eps=EPS))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_mask_is_dropouts(function, backend):
    """h is what dropout with the residual makes of the same seed, bit for bit."""
    given = inputs((7, 333), 1, torch.float32, torch.float32)
    x, residual = given.x.to(backend.device), given.residual.to(backend.device)
    _, h = getattr(ours, function)(x, [333], residual=residual, dropout=0.3, seed=SEED)
    assert torch.equal(h, ours.dropout(x, 0.3, True, residual=residual, seed=SEED))
    assert (kept_scaled(given, Options(True, 0.3)) == 0).any()


def test_all_and_none_dropped():
    x, residual = torch.randn(4, 50), torch.randn(4, 50)
    y, h = ours.rms_norm(x, [50], residual=residual, dropout=1.0)
    assert torch.equal(h, residual)
    assert torch.equal(y, ours.rms_norm(residual, [50]))
    y, h = ours.rms_norm(x, [50], residual=residual)
    assert torch.equal(h, x + residual)


def test_seed_and_generator():
    x = torch.randn(4, 500)
    first, second = (
        ours.layer_norm(x, [500], residual=x, dropout=0.5, generator=torch.Generator().manual_seed(3))[1]
        for _ in range(2)
    )
    assert torch.equal(first, second)
    torch.manual_seed(0)
    drawn = [ours.layer_norm(x, [500], residual=x, dropout=0.5)[1] for _ in range(2)]
    assert not torch.equal(*drawn)
    given = ours.layer_norm(x, [500], residual=x, dropout=0.5, seed=torch.tensor([7]))[1]
    assert torch.equal(given, ours.layer_norm(x, [500], residual=x, dropout=0.5, seed=7)[1])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(700, 100), (17, 5000)], ids=str)
def test_same_bits_for_any_threads(function, shape):
    given = inputs(shape, 1, torch.float32, torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(run(function, given, Options(True, 0.3), "ours"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], value) for name, value in other.items())


def test_row_does_not_depend_on_its_batch():
    x = torch.randn(50, 300)
    assert torch.equal(ours.layer_norm(x, [300])[7], ours.layer_norm(x[7], [300]))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2, 0, 3)], ids=str)
def test_empty(function, shape):
    x = torch.empty(shape, requires_grad=True)
    weight, residual = torch.ones(shape[-1:], requires_grad=True), torch.empty(shape, requires_grad=True)
    y, h = getattr(ours, function)(x, shape[-1:], weight, residual=residual, dropout=0.5)
    (y.sum() + h.sum()).backward()
    assert y.shape == h.shape == x.grad.shape == residual.grad.shape == shape
    assert weight.grad.tolist() == [0.0] * shape[-1]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_not_finite(function):
    """A row with nan or infinity spoils no other row."""
    x = torch.randn(4, 60)
    x[1, 5], x[2, 7] = float("nan"), float("inf")
    mine, torchs = getattr(ours, function)(x, [60]), getattr(F, function)(x, [60])
    assert torch.equal(mine.isfinite(), torchs.isfinite())
    assert torch.equal(mine.isnan().any(1), torchs.isnan().any(1))


def test_default_eps_of_rms_norm():
    """The epsilon of the arithmetic's dtype, as torch's."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x = torch.full((2, 8), 1e-4, dtype=dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        exact = F.rms_norm(x.double(), [8], eps=torch.finfo(wide).eps)
        assert_parity(ours.rms_norm(x, [8]), F.rms_norm(x, [8]), exact)


def test_bytes_kept():
    """With a residual: the sum, which is an output, and a number a row; torch keeps a tensor more at least."""
    rows, width = 64, 512
    x, residual = (torch.randn(rows, width, requires_grad=True) for _ in range(2))
    weight = torch.ones(width, requires_grad=True)
    mine = kept_bytes(lambda: ours.rms_norm(x, [width], weight, residual=residual)[0])
    torchs = kept_bytes(lambda: F.rms_norm(x + residual, [width], weight))
    assert mine <= 4 * (rows * width + rows + width)
    assert torchs >= mine + 4 * rows * width


def test_weight_gradients_of_many_rows_are_accurate():
    """Partial sums of 64 rows: a thousand times as many rows cost no digits."""
    x, dy = torch.randn(20_000, 16) + 3, torch.randn(20_000, 16)
    weight, bias = torch.ones(16, requires_grad=True), torch.zeros(16, requires_grad=True)
    got = torch.autograd.grad(ours.layer_norm(x, [16], weight, bias), (weight, bias), dy)
    wide = [one.detach().double().requires_grad_() for one in (weight, bias)]
    exact = torch.autograd.grad(F.layer_norm(x.double(), [16], *wide), wide, dy.double())
    theirs = torch.autograd.grad(F.layer_norm(x, [16], weight, bias), (weight, bias), dy)
    for mine, torchs, right in zip(got, theirs, exact, strict=True):
        assert float(error(mine, right).max()) <= 2 * float(error(torchs, right).max())
