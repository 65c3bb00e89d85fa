"""Dropout in batch norm's pass: which elements, on any device and in any layout; where its seeds come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from batch_norm_setup import Options, exactly, inputs, laid_out, torchs
from batch_norm_setup import ours as compute
from onepass.nn import BatchNorm2d
from onepass.nn.functional import batch_norm
from reference.dropout import dropped, philox
from tolerance import assert_parity

SHAPES = ((9, 1), (37, 8), (4, 3, 7), (2, 17, 4), (2, 3, 5, 7), (5, 33, 3, 3), (3, 2, 41, 43), (2, 3, 2, 3, 5))
LAYOUTS = ("contiguous", "channels_last", "strided")


def mask_of(shape, p, seed, backend, layout="contiguous", dtype=torch.float32) -> np.ndarray:
    """True where an element is dropped: a bias of 1 makes every other one positive."""
    x = laid_out(torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype), layout)
    bias = torch.full((shape[1],), 100.0, dtype=dtype, device=backend.device)
    y = batch_norm(x.to(backend.device), None, None, None, bias, training=True, dropout=p, seed=seed)
    return (y == 0).cpu().numpy()


def test_philox_gives_random123s_known_answers():
    """The authors' file of known answers keeps the reference below from being a copy of our own error."""
    zeros, pi = np.zeros((1, 4), np.uint32), [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert philox(zeros, 0).tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]
    answer = philox(np.array([pi], np.uint32), 0x299F31D0A4093822)
    assert answer.tolist() == [[0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mask_depends_on_seed_and_index_alone(backend, shape, layout):
    """The index in (N, C, ...) order: torch's CUDA mask depends on the number of multiprocessors, too."""
    for p in (0.1, 0.5, 0.999):
        for seed in (0, 7, 2**63 + 5, 2**64 - 1):
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                assert np.array_equal(mask_of(shape, p, seed, backend, layout, dtype), dropped(shape, p, seed))


def test_ties_are_decided_by_more_bits(backend):
    """One element in 256 draws the threshold's own 8 bits; its further bits count."""
    shape = (512, 8, 64)
    for p in (1000.5 / 65536, 1 / 3, 0.25 + 2.0**-20, 0.9999):
        assert np.array_equal(mask_of(shape, p, 11, backend), dropped(shape, p, 11))
    # Thresholds that differ in the further bits alone drop different elements.
    assert not np.array_equal(dropped(shape, 20.1 / 256, 11), dropped(shape, 20.9 / 256, 11))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_none_and_all(backend, p):
    x = torch.randn(5, 3, 4, device=backend.device, requires_grad=True)
    y = batch_norm(x, None, None, training=True, dropout=p, seed=1 if p else None)
    if p == 0:
        assert torch.equal(y, batch_norm(x, None, None, training=True))
    else:
        (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert (y == 0).all()
        assert (grad == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize("options", [Options(), Options(relu=True), Options(relu=True, residual=True)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients(backend, dtype, options, layout):
    p, seed = 0.3, 2**40 + 5
    for shape in ((4, 3, 5, 7), (64, 10), (3, 20, 33)):
        kept = torch.from_numpy((~dropped(shape, p, seed)) / (1 - p))
        given, exact = exactly(inputs(shape, dtype, torch.float32), options, kept)
        mine = compute(given, options, backend, layout, dropout=p, seed=seed)
        # torch's functions, then its own rounding of a multiplication by the same mask.
        masked = exactly(inputs(shape, dtype, torch.float32), options)[0]
        masked.dy = (given.dy * kept).to(dtype)
        theirs = torchs(masked, options)
        theirs.y = (theirs.y * kept).to(dtype)
        theirs.dresidual = masked.dy if not options.relu else theirs.dresidual
        for name, value in vars(mine).items():
            if name == "dresidual" and not options.residual:
                continue
            assert_parity(value.cpu(), getattr(theirs, name), getattr(exact, name), name)


def test_share_of_dropped_elements():
    """Within five standard deviations of p, also where 8 bits alone could not tell p."""
    n = 2**22
    for p in (0.5, 0.1, 1e-4):
        share = dropped((n,), p, 3).mean()
        assert abs(share - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_seeds_come_from_torchs_generator(backend):
    x = torch.randn(6, 4, 9, device=backend.device)

    def run(**more):
        return batch_norm(x, None, None, training=True, dropout=0.5, **more)

    torch.manual_seed(3)
    first, second = run(), run()
    torch.manual_seed(3)
    assert torch.equal(run(), first)
    assert torch.equal(run(), second)
    assert not torch.equal(first, second)
    generator = torch.Generator(backend.device).manual_seed(3)
    assert torch.equal(run(generator=generator), first)
    assert torch.equal(run(generator=generator), second)
    state = torch.get_rng_state()
    run(generator=generator)
    run(seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    tensor = torch.tensor([-3], device=backend.device)
    assert torch.equal(run(seed=tensor), run(seed=2**64 - 3))


def test_no_dropout_in_evaluation(backend):
    """Nor is a seed drawn, also where evaluation has no running statistics to use."""
    for tracked in (True, False):
        module = BatchNorm2d(3, track_running_stats=tracked, dropout=0.9, device=backend.device).eval()
        x = torch.randn(2, 3, 4, 4, device=backend.device)
        state = torch.get_rng_state()
        y = module(x)
        assert torch.equal(torch.get_rng_state(), state)
        assert (y != 0).all()
    mean, var = torch.zeros(3, device=backend.device), torch.ones(3, device=backend.device)
    torch.testing.assert_close(batch_norm(x, mean, var, dropout=0.9), F.batch_norm(x, mean, var))
