"""Cross-entropy where floats end, and bfloat16 logits, which are walked two at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from onepass.nn.functional import cross_entropy
from tolerance import LOSS_GRADIENT_ATOL, LOSS_GRADIENT_ONLY_RELATIVE, LOSS_GRADIENT_RTOL


def gradient(x: Tensor, target: Tensor, upstream: Tensor, smoothing: float = 0.0) -> Tensor:
    x = x.detach().requires_grad_()
    loss = cross_entropy(x, target, label_smoothing=smoothing, reduction="none")
    return torch.autograd.grad(loss, x, upstream)[0]


def exact(x: Tensor, target: Tensor, upstream: Tensor, smoothing: float) -> np.ndarray:
    wide = x.double().cpu().numpy().astype(np.longdouble)
    e = np.exp(wide - wide.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    q = np.full(p.shape, np.longdouble(smoothing) / p.shape[1])
    rows = np.arange(len(p))
    q[rows, target.cpu().numpy()] += 1 - np.longdouble(smoothing)
    return (p - q) * upstream.double().cpu().numpy().astype(np.longdouble)[:, None]


# 0 to 1e-36: the factor of a row's softmax is a normal number, but not if the exponential's unit were taken out.
@pytest.mark.parametrize("size", [1.0, 1e-18, 1e-19, 1e-25, 1e-36, 1e30])
@pytest.mark.parametrize("shape", [(4, 300), (20, 7)], ids=str)
def test_any_size_of_upstream_gradients(backend, shape, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 4
    target = torch.randint(0, shape[1], shape[:1], generator=generator)
    upstream = torch.full(shape[:1], size)
    found = gradient(*(v.to(backend.device) for v in (x, target, upstream)))
    wanted = exact(x, target, upstream, 0.0)
    assert np.all(np.abs(found.cpu().numpy() - wanted) <= LOSS_GRADIENT_RTOL * np.abs(wanted) + 2.0**-149)


@pytest.mark.parametrize("shape", [(2, 300), (20, 7)], ids=str)
def test_gradients_below_the_smallest_normal_number_are_rounded_once(backend, shape):
    x = torch.linspace(0, -104, shape[1]).repeat(shape[0], 1)
    target, upstream = torch.zeros(shape[0], dtype=torch.int64), torch.ones(shape[0])
    found = gradient(*(v.to(backend.device) for v in (x, target, upstream))).cpu().numpy()
    wanted = exact(x, target, upstream, 0.0)
    small = np.abs(wanted) < 2.0**-126
    assert small.any()
    assert np.all(np.abs(found[small] - wanted[small]) <= 2.0**-149)


def test_ignored_rows_are_zero_whatever_their_logits(backend):
    for dtype in (torch.float32, torch.bfloat16):
        for classes in (7, 300):
            x = torch.full((2, classes), float("nan"), dtype=dtype, device=backend.device)
            x[1] = 0
            target = torch.tensor([-100, 3], device=backend.device)
            found = gradient(x, target, torch.ones(2, device=backend.device), 0.1)
            assert (found[0] == 0).all()
            assert not found.signbit()[0].any()
            assert (found[1] != 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [*range(129, 198, 3), 4096, 4097, 8231])
def test_bfloat16_is_float32_rounded(backend, classes, smoothing):
    if backend.is_cuda_code and classes > 140:
        pytest.skip("the GPU walks logits of every type alike")
    generator = torch.Generator().manual_seed(classes)
    stored = (torch.randn(3 * classes + 1, generator=generator) * 3).bfloat16().to(backend.device)
    x = stored[1:].view(3, classes)  # words of two logits begin at odd addresses
    target = torch.tensor([0, classes // 2, classes - 1], device=backend.device)
    upstream = torch.tensor([1.0, -2.0, 0.5], device=backend.device)
    found = gradient(x, target, upstream, smoothing)
    wanted = gradient(x.float(), target, upstream, smoothing)
    # The sums of a row are formed in another order, so that a float's last bit may differ and round elsewhere.
    spacing = torch.exp2(torch.floor(torch.log2(wanted.abs().clamp(min=2.0**-126))) - 7)
    apart = (found.float() - wanted).abs()
    assert (apart <= 0.501 * spacing).all()
    assert torch.equal(gradient(x.clone(), target, upstream, smoothing), found)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [129, 143, 144, 160, 161, 4096, 4101, 4112])
def test_the_label_may_stand_anywhere(backend, classes, dtype, weighted):
    """It is left out of the sums: neither another class is, nor one of those that two steps of a walk read."""
    if backend.is_cuda_code and classes > 200:
        pytest.skip("takes the GPU's code no other way")
    generator = torch.Generator().manual_seed(classes)
    x = torch.randn(1, classes, generator=generator).to(dtype)
    weight = torch.rand(classes, generator=generator) + 0.5 if weighted else None
    edges = [k for k in range(classes) if min(k % 16, k % 4096) in (0, 1, 15) and (k < 40 or k > classes - 70)]
    target = torch.tensor(edges if classes > 200 else range(classes))
    rows = x.expand(len(target), classes).contiguous()
    found, wanted = (
        function(
            rows.to(device).to(wide),
            target.to(device),
            None
            if weight is None
            else weight.to(device).to(torch.float64 if wide == torch.float64 else torch.float32),
            label_smoothing=0.1,
            reduction="none",
        )
        for function, device, wide in (
            (cross_entropy, backend.device, dtype),
            (torch.nn.functional.cross_entropy, "cpu", torch.float64),
        )
    )
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found.cpu().double(), wanted, **LOSS_GRADIENT_ONLY_RELATIVE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("payload", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001])
def test_any_nan_upstream_is_a_nan(backend, dtype, payload):
    upstream = torch.from_numpy(np.array([payload, 0x3F800000], dtype=np.uint32).view(np.float32))
    for classes in (7, 300):
        x = torch.zeros(2, classes, dtype=dtype, device=backend.device)
        target = torch.tensor([1, 2], device=backend.device)
        found = gradient(x, target, upstream.to(backend.device), 0.1)
        assert found[0].isnan().all()
        assert not found[1].isnan().any()


def test_streamed_gradients(backend):
    """Gradients of 8 MB and more go past the caches, in lines: a row that begins in one, labels at both ends."""
    if backend.is_cuda_code:
        pytest.skip("of the CPU")
    classes = 70_001
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.randn(128, classes, generator=torch.Generator().manual_seed(1)) * 2).to(dtype)
        target = torch.arange(128) * 551
        target[:2] = torch.tensor([0, classes - 1])
        upstream = torch.ones(128)
        found, few = gradient(x, target, upstream, 0.1), slice(60, 70)
        assert torch.equal(found[few], gradient(x[few], target[few], upstream[few], 0.1))
        assert torch.equal(found[:2], gradient(x[:2], target[:2], upstream[:2], 0.1))
        assert found.float().sum(1).abs().max() < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("ignored", [[], [300], [0, 255, 256, 999], [700, 701]], ids=str)
def test_ignored_rows_of_some_tiles(backend, ignored):
    """Few classes are walked in tiles of 256 rows; what is the same in each is not filled again."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 10, generator=generator).to(backend.device)
    target = torch.randint(0, 10, (1000,), generator=generator)
    target[ignored] = -100
    found = gradient(x, target.to(backend.device), torch.ones(1000, device=backend.device), 0.1).cpu()
    wanted = exact(x, target.clamp(min=0), torch.ones(1000), 0.1)
    wanted[ignored] = 0
    assert np.abs(found.numpy() - wanted).max() < LOSS_GRADIENT_ATOL
    loss = cross_entropy(x, target.to(backend.device), label_smoothing=0.1).cpu()
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(x.cpu(), target, label_smoothing=0.1))


@pytest.mark.parametrize("classes", [20, 32000])
@pytest.mark.parametrize(
    ("smoothing", "at_label"), [(0.0, 1.0), (0.1, 0.0), (0.1, 1e-3), (0.9, 1.0), (0.999, 1.0), (1.0, 1.0)]
)
def test_a_label_that_hardly_counts_has_an_exact_gradient(backend, classes, smoothing, at_label):
    """Against A p_t - q_t in float64: what is computed must not be the difference of larger numbers."""
    if backend.is_cuda_code and classes > 1000:
        pytest.skip("one formula; long rows are slow on the host")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, classes, generator=generator)
    target = torch.arange(8)
    weight = torch.ones(classes)
    weight[:8] = at_label
    results = []
    for function, device, dtype in (
        (cross_entropy, backend.device, torch.float32),
        (torch.nn.functional.cross_entropy, "cpu", torch.float32),
        (torch.nn.functional.cross_entropy, "cpu", torch.float64),
    ):
        leaf = x.to(device).to(dtype).requires_grad_()
        loss = function(
            leaf, target.to(device), weight.to(device).to(dtype), label_smoothing=smoothing, reduction="sum"
        )
        gradient = torch.autograd.grad(loss, leaf)[0].cpu()
        results.append(gradient[torch.arange(8), target].double())
    found, torchs, exact = results
    of_label = weight[:8].double() * (1 - smoothing + smoothing / classes)
    error, other = (((one - exact).abs() / (exact.abs() + of_label)).max() for one in (found, torchs))
    assert error <= 2 * other + 4e-7


@pytest.mark.parametrize("shape", [(4, 0), (0,), (2, 0, 3)])
@pytest.mark.parametrize("kind", ["labels", "ignored", "probabilities"])
def test_logits_without_classes_are_refused(shape, kind):
    labels = torch.zeros(shape[:1] + shape[2:] if len(shape) > 1 else (), dtype=torch.long)
    target = torch.zeros(shape) if kind == "probabilities" else labels - 100 * (kind == "ignored")
    with pytest.raises(ValueError, match=r"^cross_entropy: input must have a class, got shape \("):
        cross_entropy(torch.zeros(shape), target)
