"""The exponential that the loss uses, against float64 and wider."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import apart
from onepass import _native
from tolerance import EXPONENTIAL

LARGEST = 40.0  # argument


def exponential(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    _native.core.exponential(x, y, 1)
    return y


def float_errors(x: torch.Tensor) -> float:
    """Computes the largest error in ulp of the exact result; an ulp is at least the subnormal spacing."""
    exact = x.double().exp()
    spacing = torch.exp2(torch.floor(torch.log2(exact.clamp(min=2.0**-126))) - 23)
    return float(((exponential(x).double() - exact).abs() / spacing).max())


def floats(first: int, last: int, step: int) -> torch.Tensor:
    bits = np.arange(first, last, step, dtype=np.uint32)
    return torch.from_numpy(bits.view(np.float32))


# The bits from 0 to 40, and from -0 to -infinity.
RANGES = ((0, 0x42200001), (0x80000000, 0xFF800001))


def test_every_499th_float(backend):
    if backend.is_cuda_code:
        pytest.skip("the same formula: test_cuda_code_gives_the_same_bits")
    for first, last in RANGES:
        assert float_errors(floats(first, last, 499)) < 1.0


@pytest.mark.large
def test_all_floats():
    for first, last in RANGES:
        for begin in range(first, last, 1 << 24):
            assert float_errors(floats(begin, min(begin + (1 << 24), last), 1)) < 1.0


def test_edges(backend):
    values = torch.tensor([0.0, -0.0, -float("inf"), float("nan"), -104.0, -103.9, -87.3, -87.4, -1e38, 1e-45])
    found = exponential(values.to(backend.device)).cpu()
    assert found[:3].tolist() == [1.0, 1.0, 0.0]
    assert found[3].isnan()
    torch.testing.assert_close(found[4:].double(), values[4:].double().exp(), **EXPONENTIAL)


def test_doubles(backend):
    size = 20_000 if backend.is_cuda_code else 1_000_000
    x = torch.empty(size, dtype=torch.float64).uniform_(-745, LARGEST, generator=torch.Generator().manual_seed(0))
    found = exponential(x.to(backend.device)).cpu().numpy().astype(np.longdouble)
    exact = np.exp(x.numpy().astype(np.longdouble))
    spacing = np.exp2(np.maximum(np.floor(np.log2(exact)), -1022) - 52)
    assert float((abs(found - exact) / spacing).max()) < 1.1


def test_cuda_code_gives_the_same_bits(backend):
    x = floats(0xC0000000, 0xC2D00000, 997)
    assert torch.equal(exponential(x.to(backend.device)).cpu(), _cpu(x))


def _cpu(x: torch.Tensor) -> torch.Tensor:
    from onepass import _core

    y = torch.empty_like(x)
    _core.exponential(x, y, 1)
    return y


def report() -> str:
    """Processes with each instruction set print the same sums of bits."""
    from onepass.nn.functional import cross_entropy

    generator = torch.Generator().manual_seed(3)
    words = []
    for shape, rows in (((40, 10), (40,)), ((5, 9001), (5,)), ((2, 19, 33), (2, 33))):
        x = torch.randn(shape, generator=generator).requires_grad_()
        target = torch.randint(0, shape[1], rows, generator=generator)
        loss = cross_entropy(x, target, label_smoothing=0.1)
        loss.backward()
        words += [loss.item().hex(), int(x.grad.view(torch.int32).long().sum())]
    return str(words)


def test_same_bits_of_all_instruction_sets(monkeypatch):
    from test_isa import runs_here

    found = set()
    for isa in runs_here():
        monkeypatch.setenv("ONEPASS_ISA", isa)
        found.add(apart("test_exp", "print(report())"))
    assert len(found) == 1


def test_errors():
    wrong = torch.zeros(3, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=r"exponential: x and y must be torch.float32 or .*, got torch.b"):
        _native.core.exponential(wrong, wrong, 1)
    with pytest.raises(ValueError, match="exponential: x and y must be dense and of one size, got 3 and 2"):
        _native.core.exponential(torch.zeros(3), torch.zeros(2), 1)
