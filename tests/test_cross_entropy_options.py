"""What cross-entropy has beyond torch's: statistics, gradients in place, two labels; and its errors."""

from __future__ import annotations

import ctypes

import pytest
import torch
import torch.nn.functional as F

import onepass.nn
from onepass import _native
from onepass.nn.functional import cross_entropy
from tolerance import LOGARITHM_RTOL, STATISTICS_RTOL


def reference(x, target, ignore_index=-100):
    """Statistics by torch's operations, in float64."""
    rows = x.double().movedim(1, -1).reshape(-1, x.shape[1])
    labels = target.flatten()
    keep = labels != ignore_index
    rows, labels = rows[keep], labels[keep]
    p = rows.softmax(1)
    confidence = p.amax(1)
    bins = (confidence * 15).long().clamp(max=14)
    right = (rows.argmax(1) == labels).double()
    count = torch.bincount(bins, minlength=15).double()
    gaps = [(right[bins == b].sum() - confidence[bins == b].sum()).abs() for b in range(15)]
    return {
        "rows": float(keep.sum()),
        "accuracy": right.mean().item(),
        "entropy": torch.special.entr(p).sum(1).mean().item(),
        "largest_logit": rows.max().item(),
        "bin_rows": count,
        "ece": (sum(gaps) / keep.sum()).item(),
    }


@pytest.mark.parametrize("shape", [(500, 10), (40, 300), (6, 9000), (3, 12, 5, 7)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_statistics(backend, shape, smoothing):
    if backend.name == "simt" and shape[1] == 9000:
        shape = (2, 9000)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 4
    target = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)
    # Half of the rows are right, and some are ignored.
    target[::2] = x[::2].argmax(1)
    target.view(-1)[3::5] = -100
    loss, found = cross_entropy(
        x.to(backend.device), target.to(backend.device), label_smoothing=smoothing, return_stats=True
    )
    wanted = reference(x, target)
    torch.testing.assert_close(loss.cpu(), F.cross_entropy(x, target, label_smoothing=smoothing))
    assert found.rows == wanted["rows"]
    assert found.accuracy.item() == pytest.approx(wanted["accuracy"])
    assert found.entropy.item() == pytest.approx(wanted["entropy"], rel=STATISTICS_RTOL)
    assert found.largest_logit.item() == wanted["largest_logit"]
    assert torch.equal(found.bin_rows.cpu(), wanted["bin_rows"])
    assert found.expected_calibration_error().item() == pytest.approx(wanted["ece"], rel=STATISTICS_RTOL)


def test_statistics_of_equal_logits(backend):
    """The first of equal logits is the prediction, as with argmax."""
    for shape, rows in (((3, 4), (3,)), ((3, 5000), (3,)), ((1, 4, 3), (1, 3))):
        target = torch.tensor([0, 1, 3], device=backend.device).view(rows)
        _, found = cross_entropy(torch.zeros(shape, device=backend.device), target, return_stats=True)
        assert found.accuracy.item() == pytest.approx(1 / 3)
        assert found.entropy.item() == pytest.approx(
            torch.tensor(float(shape[1])).log().item(), rel=LOGARITHM_RTOL
        )


def test_statistics_of_two_labels_and_of_probabilities(backend):
    x = torch.tensor([[3.0, 1, 0], [0, 1, 3]], device=backend.device)
    first, second = torch.tensor([[0, 0], [1, 2]], device=backend.device)
    _, found = cross_entropy(x, first, target2=second, lam=0.25, return_stats=True)
    assert found.accuracy.item() == pytest.approx((0.25 + 0.75) / 2)
    y = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], device=backend.device)
    _, found = cross_entropy(x, y, return_stats=True)
    assert found.accuracy.item() == pytest.approx((0.5 + 0.7) / 2)
    x[0, 1] = float("-inf")
    _, found = cross_entropy(x, first, return_stats=True)
    assert found.entropy.isfinite()


def test_statistics_of_nothing():
    _, found = cross_entropy(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), return_stats=True)
    assert found.rows == 0
    assert found.accuracy.isnan()
    assert found.largest_logit == -float("inf")


@pytest.mark.parametrize("shape", [(5, 7), (3, 9000), (2, 5, 9), (1, 20000)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_in_place(backend, shape, smoothing):
    base = torch.randn(shape, device=backend.device).requires_grad_()
    target = torch.randint(0, shape[1], shape[:1] + shape[2:], device=backend.device)
    cross_entropy(base, target, label_smoothing=smoothing).backward()
    wanted, base.grad = base.grad, None
    logits = base * 1
    loss = cross_entropy(logits, target, label_smoothing=smoothing, inplace_backward=True)
    version, memory = logits._version, logits.data_ptr()
    seen = []
    logits.register_hook(lambda grad: seen.append(grad.data_ptr()))
    loss.backward()
    assert torch.equal(base.grad, wanted)
    assert seen == [memory]
    assert logits._version > version


def test_gradient_in_place_is_noticed_by_others():
    base = torch.randn(3, 4, requires_grad=True)
    logits = base * 1
    loss = cross_entropy(logits, torch.tensor([0, 1, 2]), inplace_backward=True)
    other = logits.square().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()


def test_two_labels_are_the_dense_target(backend):
    """Mixup: two labels give what their dense mixture gives."""
    x = torch.randn(6, 11, device=backend.device).requires_grad_()
    a, b = torch.randint(0, 11, (2, 6), device=backend.device)
    lam = torch.rand(6, device=backend.device)
    dense = lam[:, None] * F.one_hot(a, 11) + (1 - lam[:, None]) * F.one_hot(b, 11)
    for smoothing in (0.0, 0.2):
        mine = cross_entropy(x, a, target2=b, lam=lam, label_smoothing=smoothing)
        theirs = F.cross_entropy(x, dense, label_smoothing=smoothing)
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(torch.autograd.grad(mine, x)[0], torch.autograd.grad(theirs, x)[0])


def test_nothing_of_the_inputs_size_is_kept():
    from onepass.bench.cross_entropy import kept_beyond_logits

    ours, torchs = kept_beyond_logits((64, 1000), 0.1)
    assert ours <= 8 / 1000 + 0.2
    assert torchs >= 4


def test_half_precision_losses_are_float32():
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(4, 5, dtype=dtype, requires_grad=True)
        loss = cross_entropy(x, torch.tensor([0, 1, 2, 3]))
        assert loss.dtype == torch.float32
        assert torch.autograd.grad(loss, x)[0].dtype == dtype


def test_autocast_is_float32_without_a_copy():
    x = torch.randn(40, 5, dtype=torch.bfloat16, requires_grad=True)
    target = torch.randint(0, 5, (40,))
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = cross_entropy(x, target), F.cross_entropy(x, target)
    assert mine.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(torch.autograd.grad(mine, x)[0], torch.autograd.grad(theirs, x)[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_integer_dtypes(dtype):
    x, target = torch.randn(4, 5), torch.tensor([0, 4, 2, 1])
    assert torch.equal(cross_entropy(x, target.to(dtype)), cross_entropy(x, target))


def test_labels_beyond_the_classes():
    """On a GPU the kernel stops, as torch's does."""
    x = torch.randn(3, 4)
    for function, wrong in ((cross_entropy, 4), (cross_entropy, -1), (F.cross_entropy, 4)):
        with pytest.raises(IndexError):
            function(x, torch.tensor([0, wrong, 1]))
    match = r"cross_entropy: target must be 0 to 3 or ignore_index \(-100\), got 9 in row 2"
    for shape in ((3, 4), (3, 4, 2)):
        rows = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
        rows.view(-1)[2] = 9
        with pytest.raises(IndexError, match=match):
            cross_entropy(torch.randn(shape), rows)
    match = r"cross_entropy: target must be 0 to 199 or ignore_index \(5\), got 200 in row 0"
    with pytest.raises(IndexError, match=match):
        cross_entropy(torch.randn(1, 200), torch.tensor([200]), ignore_index=5)
    match = r"cross_entropy: target2 must be 0 to 3 or ignore_index \(-100\), got 7 in row 1"
    with pytest.raises(IndexError, match=match):
        cross_entropy(x, torch.tensor([0, 1, 2]), target2=torch.tensor([0, 7, 2]), lam=0.5)


def test_a_label_beyond_the_classes_stops_cuda_code(monkeypatch, capfd):
    from conftest import simt_core

    monkeypatch.setattr(_native, "core", simt_core())
    with pytest.raises(RuntimeError, match="__trap"):
        cross_entropy(torch.randn(3, 4), torch.tensor([0, 9, 1]))
    # C's own buffer, which Python leaves alone unless it was started unbuffered.
    ctypes.CDLL(None).fflush(None)
    assert "cross_entropy: target must be 0 to 3 or ignore_index, got 9 in row 1" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("logits", "others"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float16),
    ],
    ids=str,
)
def test_narrower_weights_and_probabilities_are_widened(backend, logits, others):
    """torch takes such probabilities, and under autocast such weights."""
    x = torch.randn(5, 7).to(backend.device, logits)
    y = torch.rand(5, 7).softmax(1).to(backend.device, others).requires_grad_()
    weight = torch.rand(7).to(backend.device, others)
    wide = torch.float64 if logits == torch.float64 else torch.float32
    loss = cross_entropy(x, y, weight=weight, label_smoothing=0.1)
    again = cross_entropy(x, y.to(wide), weight=weight.to(wide), label_smoothing=0.1)
    assert torch.equal(loss, again)
    found, wanted = (torch.autograd.grad(value, y)[0] for value in (loss, again))
    assert found.dtype == others
    assert torch.equal(found, wanted)
    labels = torch.arange(5, device=backend.device)
    assert torch.equal(cross_entropy(x, labels, weight), cross_entropy(x, labels, weight.to(wide)))
    # torch smooths in the narrow dtype.
    theirs = F.cross_entropy(x.to(wide), y.to(wide), weight=weight.to(wide), label_smoothing=0.1)
    torch.testing.assert_close(loss, theirs)


_X, _T = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
_Y = torch.full((3, 4), 0.25)


@pytest.mark.parametrize(
    ("error", "message", "args", "kwargs"),
    [
        (TypeError, "input must be torch.float32, .*, got torch.int64", (_X.long(), _T), {}),
        (ValueError, r"input must be \(C,\), \(N, C\) or \(N, C, d1, ...\), got a scalar", (_X[0, 0], _T[0]), {}),
        (ValueError, "target must be on cpu like input, got meta", (_X, _T.to("meta")), {}),
        (TypeError, "target of probabilities must be torch.float32 or a narrower .*, got torch.float64",
         (_X, _Y.double()), {}),
        (TypeError, "target of probabilities must be torch.float32 .* input of torch.bfloat16, got torch.int64",
         (_X.bfloat16(), _Y.long()), {}),
        (ValueError, "ignore_index must be negative with probabilities, got 2", (_X, _Y), {"ignore_index": 2}),
        (ValueError, r"weight must have shape \(4,\), got \(3,\)", (_X, _T, torch.ones(3)), {}),
        (TypeError, "weight must be torch.float32 or a narrower .*, got torch.float64",
         (_X, _T, torch.ones(4).double()), {}),
        (TypeError, "weight must be torch.float64 or a narrower floating dtype .*, got torch.int32",
         (_X.double(), _T, torch.ones(4).int()), {}),
        (ValueError, "weight must not require a gradient", (_X, _T, torch.ones(4, requires_grad=True)), {}),
        (ValueError, "reduction must be 'none', 'mean' or 'sum', got 'avg'", (_X, _T), {"reduction": "avg"}),
        (ValueError, "label_smoothing must be 0 to 1, got 1.5", (_X, _T), {"label_smoothing": 1.5}),
        (ValueError, "z_loss must be finite and at least 0, got -1", (_X, _T), {"z_loss": -1}),
        (ValueError, r"target must have shape \(3,\) for an input of shape \(3, 4\), got \(2,\)",
         (_X, _T[:2]), {}),
        (TypeError, "target of class indices must be torch.int64 or torch.uint8, or another .*, got torch.bool",
         (_X, _T.bool()), {}),
        (ValueError, "target2 and lam must be given together, got no lam", (_X, _T), {"target2": _T}),
        (ValueError, "target2 and lam must be given together, got no target2", (_X, _T), {"lam": 0.5}),
        (ValueError, "target2 must be None with a target of probabilities", (_X, _Y), {"target2": _T, "lam": 0.5}),
        (ValueError, "target2 must be on cpu like input, got meta", (_X, _T),
         {"target2": _T.to("meta"), "lam": 0.5}),
        (ValueError, "lam must be 0 to 1, got 2", (_X, _T), {"target2": _T, "lam": 2}),
        (ValueError, r"lam must be a number or of shape \(3,\) on cpu, got \(4,\)", (_X, _T),
         {"target2": _T, "lam": torch.ones(4)}),
        (TypeError, "lam must be of a floating dtype and require no gradient, got torch.float32 that requires one",
         (_X, _T), {"target2": _T, "lam": torch.ones(3, requires_grad=True)}),
        (ValueError, "inplace_backward must be False if input is a leaf, got True",
         (_X.clone().requires_grad_(), _T), {"inplace_backward": True}),
    ],
)  # fmt: skip
def test_errors(error, message, args, kwargs):
    with pytest.raises(error, match=f"cross_entropy: {message}"):
        cross_entropy(*args, **kwargs)


def test_errors_of_the_core():
    core = _native.core
    x, loss, saved = torch.zeros(3, 4), torch.zeros(()), torch.zeros(2, 3)
    totals, work = (
        torch.zeros(core.cross_entropy_totals, dtype=torch.float64),
        torch.zeros(999, dtype=torch.float64),
    )

    def call(x=x, target=_T, second=None, y=None, loss=loss, reduction="mean", work=work):
        core.cross_entropy_forward(
            x=x,
            threads=1,
            target=target,
            target2=second,
            lam=1.0,
            probabilities=y,
            weight=None,
            ignore_index=-100,
            label_smoothing=0.0,
            z_loss=0.0,
            reduction=reduction,
            statistics=False,
            loss=loss,
            saved=saved,
            totals=totals,
            workspace=work,
        )

    for message, error, arguments in (
        ("input must have elements, got shape", ValueError, {"x": x[:0]}),
        ("input must be contiguous or classes last, got strides", ValueError, {"x": torch.zeros(4, 3).t()}),
        ("one of target and probabilities must be given", ValueError, {"target": None}),
        ("target must be torch.int64, got torch.int32", TypeError, {"target": _T.int()}),
        ("target2 must have 3 elements, got 2", ValueError, {"second": _T[:2]}),
        ("loss must have 1 element, got 2", ValueError, {"loss": torch.zeros(2)}),
        ("probabilities must be torch.float32 like input, got torch.float64", TypeError,
         {"target": None, "y": _Y.double()}),
        ("probabilities must have input's shape", ValueError,
         {"target": None, "y": torch.zeros(4, 3)}),
        ('reduction must be "none", "mean" or "sum", got "avg"', ValueError, {"reduction": "avg"}),
        ("workspace must have [0-9]+ elements, got 0", ValueError, {"work": work[:0]}),
    ):  # fmt: skip
        with pytest.raises(error, match=f"cross_entropy: {message}"):
            call(**arguments)
    with pytest.raises(ValueError, match="share memory"):
        call(loss=x.view(-1)[0])


def test_module_is_torchs():
    module = onepass.nn.CrossEntropyLoss(torch.rand(5), label_smoothing=0.1, ignore_index=2, reduction="sum")
    theirs = torch.nn.CrossEntropyLoss(torch.rand(5))
    assert isinstance(module, torch.nn.CrossEntropyLoss)
    theirs.load_state_dict(module.state_dict())
    x, target = torch.randn(4, 5), torch.tensor([0, 2, 1, 4])
    expected = F.cross_entropy(x, target, theirs.weight, label_smoothing=0.1, ignore_index=2, reduction="sum")
    torch.testing.assert_close(module(x, target), expected)
    loss, statistics = onepass.nn.CrossEntropyLoss(return_stats=True, z_loss=0.1)(
        x, target, target2=target, lam=0.5
    )
    assert loss > F.cross_entropy(x, target)
    assert isinstance(statistics, onepass.nn.LossStatistics)


def test_deprecated_arguments():
    x, target = torch.randn(4, 5), torch.tensor([0, 2, 1, 4])
    for options in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        with pytest.warns(UserWarning, match="deprecated"):
            mine = cross_entropy(x, target, **options)
        with pytest.warns(UserWarning, match="deprecated"):
            torch.testing.assert_close(mine, F.cross_entropy(x, target, **options))


def test_gradient_in_place_spares_leaves_and_other_inputs():
    leaf, target = torch.randn(2, 2, 5, requires_grad=True), torch.arange(4)
    for view in (leaf.view(-1, 5), leaf.view(-1, 5)[:4]):
        with pytest.raises(ValueError, match="inplace_backward must be False if input is a view of a leaf"):
            cross_entropy(view, target, inplace_backward=True)
    memory = torch.randn(9, 5, requires_grad=True) * 1
    logits, detached = memory[:4], memory.detach()
    for name, options in (
        ("weight", {"weight": detached[8]}),
        ("lam", {"target2": target, "lam": detached[5, :4].zero_()}),
        ("target", {"target": detached[4:8]}),
    ):
        with pytest.raises(ValueError, match=f"must be False if {name} shares memory with input"):
            cross_entropy(logits, **{"target": target, **options}, inplace_backward=True)


def test_lam_of_each_sample_is_checked_on_the_cpu():
    x, target = torch.randn(3, 4), torch.arange(3)
    for lam in (torch.tensor([0.5, 1.5, 0]), torch.tensor([0.5, float("nan"), 0]), torch.tensor([-0.1, 0, 0])):
        with pytest.raises(ValueError, match=r"cross_entropy: lam must be 0 to 1, got \["):
            cross_entropy(x, target, target2=target, lam=lam)
