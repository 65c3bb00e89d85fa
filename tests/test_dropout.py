"""Dropout's masks and values: on any device, in any layout, with any number of threads; torch's arguments."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import onepass.nn.functional as ours
from onepass import _native
from reference.dropout import draws, kept, philox
from tolerance import assert_parity

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "transposed", "permuted", "strided")
SEEDS = (0, 7, 2**63 + 5, 2**64 - 1)
FUNCTIONS = {
    "dropout": (2, 3, 5, 7),
    "dropout1d": (5, 7, 9),
    "dropout2d": (3, 5, 4, 7),
    "dropout3d": (2, 5, 2, 3, 4),
    "alpha_dropout": (3, 5, 11),
    "feature_alpha_dropout": (4, 3, 5, 2),
}
CHANNELS = ("dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout")


def expected(function: str, shape: tuple[int, ...], p: float, seed: int) -> np.ndarray:
    """Which elements are kept."""
    if function not in CHANNELS:
        return kept(np.arange(int(np.prod(shape))), p, seed).reshape(shape)
    planes = kept(np.arange(shape[0] * shape[1]), p, seed).reshape(*shape[:2], *(1 for _ in shape[2:]))
    return np.broadcast_to(planes, shape)


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """A copy of the tensor in a layout; `permuted` is dense in an order that no kernel walks."""
    if layout == "channels_last" and tensor.dim() > 2:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "permuted" and tensor.dim() > 2:
        return (
            tensor.permute(2, 0, *range(3, tensor.dim()), 1)
            .contiguous()
            .permute(1, tensor.dim() - 1, 0, *range(2, tensor.dim() - 1))
        )
    if layout == "strided":
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), float("nan"), dtype=tensor.dtype)
        part = wide.to(tensor.device)[..., 1::2]
        part.copy_(tensor)
        return part
    return tensor.clone()


def mask_of(function: str, x: torch.Tensor, p: float, seed: int) -> np.ndarray:
    """True where an element of a tensor without zeros is kept."""
    y = getattr(ours, function)(x, p, True, seed=seed)
    if "alpha" in function:
        # What is dropped is the result's smallest value, if x is not far below 0.
        return (y.double() > y.double().min() + 1e-2).cpu().numpy()
    return (y != 0).cpu().numpy()


def test_philox_gives_random123s_known_answers():
    """The authors' three vectors of philox4x32-10."""
    ones = np.full((1, 4), 0xFFFFFFFF, np.uint32)
    assert philox(ones, 2**64 - 1).tolist() == [[0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]]
    zeros, pi = np.zeros((1, 4), np.uint32), [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert philox(zeros, 0).tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]
    answer = philox(np.array([pi], np.uint32), 0x299F31D0A4093822)
    assert answer.tolist() == [[0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]]


# Bits of the elements 0 to 63, kept or not, the first one lowest.
GOLDEN = {
    (0.5, 0): 0xC1E51562D5FBAB3,
    (0.1, 1): 0x7D7FFFFFFFF9BF9D,
    (1 / 3, 2**64 - 1): 0xEBBEFDA5F9667A0E,
    (0.9, 20261125): 0x90040040040001,
}


@pytest.mark.parametrize(("p", "seed"), GOLDEN, ids=str)
def test_golden_masks(backend, p, seed):
    """Written down: a mask may never change, as checkpoints and published runs depend on it."""
    x = torch.ones(64, device=backend.device)
    bits = ours.dropout(x, p, seed=seed).ne(0).tolist()
    assert sum(bit << i for i, bit in enumerate(bits)) == GOLDEN[p, seed]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_mask_depends_on_seed_and_index_alone(backend, function, layout):
    """Not on layout, dtype, device: torch's CUDA mask depends on the GPU's size (pytorch/pytorch#196613)."""
    shape = FUNCTIONS[function]
    for dtype in DTYPES:
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5
        x = laid_out(x.to(backend.device, dtype), layout)
        for p, seed in zip((0.1, 0.5, 1 / 3, 0.97), SEEDS, strict=True):
            want = expected(function, shape, p, seed)
            if want.all() and "alpha" in function:
                continue
            assert np.array_equal(mask_of(function, x, p, seed), want), (dtype, p)


@pytest.mark.parametrize(
    "numel", [1, 2, 15, 16, 17, 31, 255, 256, 257, 511, 513, 1023, 1024, 1025, 33_000, 100_003]
)
def test_every_tail(backend, numel):
    """Blocks, vectors, rows, tickets and warps each leave a tail; nothing is written behind the end."""
    if backend.name == "simt" and numel > 33_000:
        numel = 5_003
    for dtype in (torch.float32, torch.bfloat16):
        for offset in (0, 1):
            memory = torch.full((numel + 9,), 3.0, dtype=dtype, device=backend.device)
            out = memory[offset : offset + numel]
            _native.core.dropout(
                x=out,
                threads=torch.get_num_threads(),
                y=out,
                residual=None,
                planes=False,
                shared=False,
                p=0.3,
                scaling="inverted",
                gradient=False,
                table=None,
                seed=5,
            )
            assert np.array_equal(out.ne(0).cpu().numpy(), kept(np.arange(numel), 0.3, 5))
            assert (memory[:offset] == 3).all()
            assert (memory[offset + numel :] == 3).all()


def test_ties_are_decided_by_more_bits(backend):
    """One element in 256 draws the threshold's own 8 bits. Thresholds at both ends have no neighbour."""
    n = 40_000 if backend.name == "cpu" else 6_000
    x = torch.ones(n, device=backend.device)
    for p in (1 / 3, 0.001, 0.003, 0.9961, 0.9999, 20.1 / 256, 20.9 / 256):
        assert np.array_equal(mask_of("dropout", x, p, 11), kept(np.arange(n), p, 11)), p
    assert (kept(np.arange(n), 20.1 / 256, 11) != kept(np.arange(n), 20.9 / 256, 11)).any()


def test_any_instruction_set_and_any_number_of_threads():
    code = (
        "import torch, hashlib, onepass.nn.functional as F; "
        "x = torch.arange(1., 200_004.); digest = hashlib.sha256(); "
        "[digest.update(F.dropout(some, p, seed=9).float().numpy().tobytes()) "
        "for threads in (1, 2, 5) if torch.set_num_threads(threads) is None "
        "for p in (0.1, 0.5) for some in (x, x.bfloat16(), x.double(), x[:-3].view(2, 100, 25, -1))]; "
        "print(digest.hexdigest())"
    )
    isas = _native.core.build_info()["isa_compiled"]
    runnable = isas[: isas.index(_native.core.build_info()["isa"]) + 1]
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "ONEPASS_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for isa in runnable
    ]
    assert len(set(found)) == 1, dict(zip(runnable, found, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_and_gradients(backend, function, dtype):
    """Against float64, as near as torch's rounding of the same product."""
    shape, p, seed = FUNCTIONS[function], 0.3, 12
    generator = torch.Generator().manual_seed(3)
    x, dy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    keeps = torch.from_numpy(expected(function, shape, p, seed).copy())
    if "alpha" in function:
        limit = 1.7580993408473766
        a = ((1 - p) * (1 + p * limit * limit)) ** -0.5
        scale, dropped, shift = a, a * p * limit - a * limit, a * p * limit
    else:
        scale, dropped, shift = 1 / (1 - p), 0.0, 0.0
    exact = torch.where(keeps, x.double() * scale + shift, dropped)
    theirs = torch.where(keeps, x * scale + shift, dropped).to(dtype)
    leaf = x.to(backend.device).requires_grad_()
    y = getattr(ours, function)(leaf, p, True, seed=seed)
    assert_parity(y.cpu(), theirs, exact, "y")
    (dx,) = torch.autograd.grad(y, leaf, dy.to(backend.device))
    assert_parity(
        dx.cpu(), torch.where(keeps, dy * scale, 0).to(dtype), torch.where(keeps, dy.double() * scale, 0), "dx"
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("function", ["dropout", "dropout2d"])
def test_residual(backend, function, layout):
    """One pass; its gradient is the output's own."""
    shape = (2, 3, 5, 4)
    for dtype in DTYPES:
        x, r, dy = (laid_out(torch.randn(shape).to(dtype).to(backend.device), layout) for _ in range(3))
        r = r.contiguous()  # another layout than x's
        x, r = x.requires_grad_(), r.requires_grad_()
        keeps = torch.from_numpy(expected(function, shape, 0.25, 4).copy()).to(backend.device)
        y = getattr(ours, function)(x, 0.25, residual=r, seed=4)
        dx, dr = torch.autograd.grad(y, (x, r), dy)
        wide, other = (value.detach().cpu().double().numpy().astype(np.longdouble) for value in (x, r))
        exact = torch.from_numpy((np.where(keeps.cpu().numpy(), wide / 0.75, 0) + other).astype(np.float64))
        theirs = torch.where(keeps, x * (1 / 0.75), 0).to(dtype) + r
        assert_parity(y.detach().cpu(), theirs.detach().cpu(), exact, "y")
        assert torch.equal(dx != 0, keeps)
        assert torch.equal(dr, dy)
        off = getattr(ours, function)(x, 0.25, False, residual=r)
        assert torch.equal(off, x + r)


def test_scaling_at_test_time(backend):
    """The classic form: training masks alone, evaluation multiplies by 1 - p."""
    x = torch.randn(1000, device=backend.device)
    keeps = torch.from_numpy(kept(np.arange(1000), 0.4, 6)).to(backend.device)
    assert torch.equal(ours.dropout(x, 0.4, seed=6, scaling="test_time"), torch.where(keeps, x, 0))
    assert torch.equal(ours.dropout(x, 0.4, False, scaling="test_time"), x * (1 - 0.4))
    r = torch.randn(1000, device=backend.device)
    assert torch.equal(ours.dropout(x, 0.4, False, scaling="test_time", residual=r), x * (1 - 0.4) + r)
    again = ours.dropout(x.clone(), 0.4, False, True, scaling="test_time", residual=r)
    torch.testing.assert_close(again, x * (1 - 0.4) + r)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_none_all_and_evaluation(backend, function):
    x = torch.randn(FUNCTIONS[function], device=backend.device)
    call = getattr(ours, function)
    state = torch.get_rng_state()
    assert call(x, 0.0, True) is x
    assert call(x, 0.7, False) is x
    assert torch.equal(torch.get_rng_state(), state)
    y = call(x.clone().requires_grad_(), 1.0, True, seed=1)
    assert (y == 0).all()
    y.sum().backward()
    poisoned = torch.full_like(x, float("inf"))
    assert (call(poisoned, 1.0, True) == 0).all()
    if "alpha" not in function:
        assert not call(poisoned, 0.5, True, seed=1).isnan().any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_inplace(backend, function, layout):
    call = getattr(ours, function)
    x = laid_out(torch.randn(FUNCTIONS[function], device=backend.device), layout)
    want = call(x, 0.4, True, seed=2)
    y = x.clone() if layout != "strided" else laid_out(x, layout)
    version = y._version
    assert call(y, 0.4, True, True, seed=2) is y
    assert torch.equal(y, want)
    assert y._version == version + 1
    leaf = torch.randn(FUNCTIONS[function], device=backend.device, requires_grad=True)
    values = leaf.detach().clone()
    z = laid_out(values, layout) * 1 + 0 * leaf
    used = call(z, 0.4, True, True, seed=2)
    (dx,) = torch.autograd.grad(used, leaf, torch.ones_like(used))
    (want,) = torch.autograd.grad(call(leaf * 0, 0.4, True, seed=2), leaf, torch.ones_like(used))
    assert torch.equal(dx, want)
    with pytest.raises(
        RuntimeError, match=f"{function}: input must not be a leaf that requires grad with inplace"
    ):
        call(leaf, 0.4, True, True)
    assert torch.equal(leaf.detach(), values)


def test_what_autograd_saved_is_protected():
    """Autograd notices that a tensor which a derivative needs was changed in place."""
    x = torch.randn(5, requires_grad=True)
    y = x.exp()
    ours.dropout(y, 0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradcheck(backend, function):
    shape = tuple(min(size, 3) for size in FUNCTIONS[function])
    x = torch.randn(shape, dtype=torch.float64, device=backend.device, requires_grad=True)

    def call(x):
        return getattr(ours, function)(x, 0.4, True, seed=3)

    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))


def test_empty_and_scalars(backend):
    for shape in ((0,), (3, 0), (0, 3, 4)):
        x = torch.ones(shape, device=backend.device, requires_grad=True)
        assert ours.dropout(x, 0.5).shape == x.shape
        assert ours.dropout(x, 0.5, residual=torch.ones_like(x)).shape == x.shape
    x = torch.ones((), device=backend.device)
    assert ours.dropout(x, 0.5, seed=1).shape == ()
    assert ours.dropout2d(torch.ones(0, 3, 2, 2, device=backend.device), 0.5).shape == (0, 3, 2, 2)


def test_one_example(backend):
    """(C, L) and (C, D, H, W) are one example each."""
    x = torch.ones(40, 6, device=backend.device)
    y = ours.dropout1d(x, 0.5, seed=1)
    assert torch.equal(y, ours.dropout1d(x.unsqueeze(0), 0.5, seed=1).squeeze(0))
    assert ((y == 0).all(1) | (y == 2).all(1)).all()
    r = torch.ones_like(x)
    assert torch.equal(ours.dropout1d(x, 0.5, seed=1, residual=r), y + 1)
    z = ours.dropout1d(x, 0.5, True, True, seed=1)
    assert z is x
    assert torch.equal(x, y)
    with pytest.warns(UserWarning, match=r"dropout2d: input with 3 dimensions is taken as \(N, C, L\)"):
        ours.dropout2d(x.unsqueeze(0), 0.5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_shared_draws(backend, function):
    """With shared=True every example has the first one's mask."""
    shape = FUNCTIONS[function]
    for layout in LAYOUTS:
        x = laid_out(torch.rand(shape, device=backend.device) + 0.5, layout)
        y = getattr(ours, function)(x, 0.5, True, seed=8, shared=True)
        first = getattr(ours, function)(x[:1], 0.5, True, seed=8)
        assert torch.equal(y[:1], first)
        mask = y == y.min() if "alpha" in function else y == 0
        assert (mask == mask[:1]).all()


@pytest.mark.large
def test_more_elements_than_32_bits_count():
    n = 2**32 + 5_000
    y = ours.dropout(torch.empty(n, dtype=torch.bfloat16).fill_(1), 0.3, inplace=True, seed=17)
    for begin in (0, 2**31 - 2_000, 2**32 - 2_500):
        some = y[begin : begin + 5_000] != 0
        assert np.array_equal(some.numpy(), kept(np.arange(begin, begin + 5_000), 0.3, 17))


def test_the_counter_does_not_wrap():
    """The block's number has 64 bits: elements that lie 2**36 apart, where 32 would repeat, differ."""
    far = np.arange(2**36, 2**36 + 4096, dtype=np.uint64)
    assert (draws(far, 3) != draws(far - 2**36, 3)).any()
