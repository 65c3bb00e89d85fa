"""Parameters and states of 16 bits: stochastic rounding, Kahan's sum, float32 masters; what is computed.

Their options and checkpoints: test_optim_precision_state.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import onepass.optim
from precision_setup import MODES, STATES, each_half, each_mode, each_rule, give_in, params_of, rounded
from reference.rounding import draws, philox, stochastic


def follow(wide, wide_optimizer, params, optimizer):
    """Gives a float32 optimizer what the other one has stored."""
    for own, param in zip(wide, params, strict=True):
        own.data.copy_(param.detach())
        for name, value in optimizer.state.get(param, {}).items():
            if name in wide_optimizer.state.get(own, {}) and name != "step":
                wide_optimizer.state[own][name].copy_(value)


def test_philox_gives_the_published_answers():
    """The known-answer vectors of Random123 for philox4x32-10."""
    for counter, key, words in (
        ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ):
        assert " ".join(f"{word:08x}" for word in philox(np.array([counter]), key)[0]) == words


@each_rule
@each_half
@pytest.mark.parametrize("wide_states", [False, True], ids=["narrow", "wide"])
def test_stochastic_rounding_is_the_references_bit_for_bit(backend, rule, dtype, wide_states):
    """Each stored value is the float32 result, rounded by the draw of its seed, step, tensor and place alone."""
    options = {"state_dtype": torch.float32} if wide_states else {}
    params = params_of(backend.device, dtype)
    wide = [torch.nn.Parameter(p.detach().float()) for p in params]
    mine = rounded(rule, params, rounding="stochastic", seed=2**63 + 5, **options)
    other = rounded(rule, wide)
    for step in range(1, 5):
        give_in(params, step)
        give_in(wide, step, dtype)
        if step == 2:  # a parameter that sits a step out keeps its number, and counts its own steps
            params[0].grad = wide[0].grad = None
        mine.step()
        other.step()
        for number, (param, own) in enumerate(zip(params, wide, strict=True)):
            if param.grad is None:
                continue
            taken = step - (number == 0 and step > 2)
            name = str(dtype).removeprefix("torch.")
            listed = [(0, param.detach(), own.detach())]
            momentum = ["momentum_buffer"] if rule == "momentum" else []
            for which, state in enumerate([*momentum] or STATES, 1):
                if state in mine.state[param]:
                    listed.append((which, mine.state[param][state], other.state[own][state]))
            for which, stored, exact in listed:
                if stored.dtype == torch.float32:
                    assert torch.equal(stored, exact)
                    continue
                draw = draws(2**63 + 5, taken, number, stored.numel(), which)
                want = stochastic(exact.flatten().cpu().numpy(), draw, name)
                assert np.array_equal(stored.flatten().double().cpu().numpy(), want), (number, which)
        follow(wide, other, params, mine)


@each_half
def test_stochastic_rounding_of_every_kind_of_number(backend, dtype):
    """Subnormals, the largest numbers, infinities, nan, and zeros of both signs."""
    tiny, top = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
    values = [0.0, -0.0, tiny, tiny / 3, -tiny / 7, tiny / 1024 / 3, top, -top, math.inf, -math.inf, math.nan, 1.0]
    start = torch.tensor(values * 50, dtype=torch.float32)
    param = torch.nn.Parameter(start.to(backend.device, dtype))
    shift = torch.tensor([1e-9, tiny / 5, -tiny / 1500, top / 5000, 0.0] * 120)
    optimizer = onepass.optim.SGD([param], lr=1.0, rounding="stochastic", seed=1)
    param.grad = shift.to(backend.device, dtype)
    exact = param.detach().float() - param.grad.float()
    optimizer.step()
    want = stochastic(exact.cpu().numpy(), draws(1, 1, 0, 600), str(dtype).removeprefix("torch."))
    assert np.array_equal(param.detach().double().cpu().numpy(), want, equal_nan=True)


@each_half
@pytest.mark.parametrize("part", [1 / 256, 0.1, 0.5, 0.97])
def test_stochastic_rounding_is_unbiased(dtype, part):
    """The share that is rounded away from zero is the part of the spacing, in 4 sigma; no lag is correlated."""
    n = 1 << 20
    spacing = torch.finfo(dtype).eps
    param = torch.nn.Parameter(torch.ones(n, dtype=dtype))
    optimizer = onepass.optim.SGD([param], lr=part * spacing, maximize=True, rounding="stochastic", seed=11)
    param.grad = torch.ones_like(param)
    optimizer.step()
    up = (param.detach() > 1).double()
    expected = math.floor(part * 2**16) / 2**16
    sigma = math.sqrt(expected * (1 - expected) / n)
    assert abs(float(up.mean()) - expected) < 4 * sigma + 2**-16
    centred = up - up.mean()
    for lag in (1, 2, 3, 4, 7, 8, 16, 256, 512, 1000):
        correlation = float((centred[lag:] * centred[:-lag]).mean() / centred.square().mean())
        assert abs(correlation) < 4 / math.sqrt(n - lag), lag
    # 128 elements apart draws share a byte: 1/256 of a correlation at most, as documented.
    shared = float((centred[128:] * centred[:-128]).mean() / centred.square().mean())
    assert abs(shared) < 1 / 256 + 4 / math.sqrt(n)


def test_draws_of_steps_tensors_lists_and_seeds_are_unrelated():
    n = 1 << 16
    base = draws(5, 1, 0, n)
    others = [draws(5, 2, 0, n), draws(5, 1, 1, n), draws(6, 1, 0, n), *(draws(5, 1, 0, n, k) for k in (1, 2, 3))]
    for other in others:
        correlation = np.corrcoef(base, other)[0, 1]
        assert abs(correlation) < 1 / 256 + 4 / math.sqrt(n)


@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
def test_a_weight_that_torch_never_moves_moves(backend, rule):
    """bfloat16 weight 1.0, AdamW with lr 1e-3: after 100 steps of torch 2.13 (loop and fused) it is still 1.0.

    Ours follow the float32 run: a master exactly, to the rounding of what is stored; Kahan's sum to the spacing of
    17 bits a step; stochastic rounding on average, each within a spacing a square root of a step.
    """

    def run(dtype, count=1, package=onepass.optim, **options):
        param = torch.nn.Parameter(torch.ones(count, device=backend.device, dtype=dtype))
        optimizer = getattr(package, rule)([param], lr=1e-3, **options)
        for _ in range(100):
            param.grad = torch.ones_like(param)
            optimizer.step()
        return param.detach().float()

    exact = run(torch.float32)
    assert 0.89 < exact.item() < 0.901
    plain = {"foreach": False, "fused": False}
    assert run(torch.bfloat16, package=torch.optim, **plain).item() == 1.0
    assert run(torch.bfloat16).item() == 1.0
    spacing = 2.0**-8  # below 1
    # The states of AdamW are bfloat16 but for the master: their own rounding is part of the others' error.
    states_too = {"state_dtype": torch.float32} if rule == "AdamW" else {}
    assert run(torch.bfloat16, master_weights=True).item() == exact.bfloat16().item()
    assert (
        abs(run(torch.bfloat16, rounding="kahan", **states_too).item() - exact.item()) < spacing / 2 + 100 * 2**-17
    )
    spread = run(torch.bfloat16, count=4096, rounding="stochastic", seed=3, **states_too)
    assert abs(spread.mean().item() - exact.item()) < 4 * 10 * spacing / math.sqrt(4096)
    assert (spread - exact).abs().max().item() < 10 * 5 * spacing


@each_rule
@each_half
def test_a_master_is_the_float32_run_bit_for_bit(backend, rule, dtype):
    """20 steps with gradients of the parameter's dtype: parameter, states and the float32 value itself."""
    params = params_of(backend.device, dtype)
    wide = [torch.nn.Parameter(p.detach().float()) for p in params]
    mine, other = rounded(rule, params, master_weights=True), rounded(rule, wide)
    for step in range(20):
        give_in(params, step)
        give_in(wide, step, dtype)
        mine.step()
        other.step()
    for param, own in zip(params, wide, strict=True):
        state = dict(mine.state[param])
        if dtype == torch.bfloat16:
            remainder = state.pop("remainder")
            assert remainder.dtype == torch.int16
            upper = param.detach().view(torch.int16).to(torch.int32) << 16
            master = (upper + remainder.to(torch.int32)).view(torch.float32)
        else:
            master = state.pop("master_param")
            assert torch.equal(param.detach(), master.to(dtype))
        assert torch.equal(master, own.detach())
        assert torch.equal(param.detach().float(), own.detach().to(dtype).float()) or dtype == torch.bfloat16
        assert all(torch.equal(value, other.state[own][name]) for name, value in state.items())


@each_rule
@each_half
def test_kahans_sum_keeps_what_is_rounded_away(backend, rule, dtype):
    """Parameter and compensation together are the float32 result, rounded twice."""
    params = params_of(backend.device, dtype)
    mine = rounded(rule, params, rounding="kahan", state_dtype=torch.float32)
    wide = [torch.nn.Parameter(p.detach().float()) for p in params]
    other = rounded(rule, wide)
    for step in range(5):
        give_in(params, step)
        give_in(wide, step, dtype)
        mine.step()
        other.step()
        for param, own in zip(params, wide, strict=True):
            low = mine.state[param]["kahan_comp"]
            exact = own.detach()
            assert torch.equal(param.detach(), exact.to(dtype))
            assert torch.equal(low, (exact - exact.to(dtype).float()).to(dtype))
            own.data.copy_(param.detach().float() + low.float())
            for name, value in mine.state[param].items():
                if name in other.state[own] and name != "step":
                    other.state[own][name].copy_(value)


@each_mode
@each_half
def test_infinities_and_nans_stay(backend, mode, dtype):
    values = torch.tensor([math.inf, -math.inf, math.nan, 1.0], dtype=dtype, device=backend.device)
    param = torch.nn.Parameter(values.clone())
    optimizer = onepass.optim.SGD([param], lr=0.5, **MODES[mode])
    for _ in range(3):
        param.grad = torch.zeros_like(param)
        optimizer.step()
    assert torch.equal(param.detach().nan_to_num(nan=5.0), values.nan_to_num(nan=5.0))


def test_weights_written_after_the_master_was_made_count(backend):
    """A stale float32 copy would undo the loading of weights: the trap of master weights kept apart."""
    param = torch.nn.Parameter(torch.ones(300, dtype=torch.float16, device=backend.device))
    optimizer = onepass.optim.SGD([param], lr=0.25, master_weights=True)
    param.grad = torch.ones_like(param)
    optimizer.step()
    with torch.no_grad():
        param[:100] = 8.0
    optimizer.step()
    assert (param[:100] == 7.75).all()
    assert (param[100:] == 0.5).all()


@each_mode
def test_a_layout_of_its_own(backend, mode):
    """channels_last, and a strided view: right, through a copy; as many bits as the contiguous run."""
    base = torch.randn(4, 6, 5, 3, generator=torch.Generator().manual_seed(0)).bfloat16().to(backend.device)
    grads = torch.randn(4, 6, 5, 3, generator=torch.Generator().manual_seed(1)).bfloat16().to(backend.device)
    dense = torch.nn.Parameter(base.clone())
    memory = torch.zeros(4, 6, 5, 9, dtype=torch.bfloat16, device=backend.device)
    memory[..., ::3] = base
    view = torch.nn.Parameter(memory[..., ::3])
    last = torch.nn.Parameter(base.clone(memory_format=torch.channels_last))
    for param in (dense, view, last):
        optimizer = onepass.optim.AdamW([param], lr=0.01, **MODES[mode])
        for _ in range(3):
            param.grad = grads.clone()
            optimizer.step()
    assert torch.equal(view.detach(), dense.detach())
    assert (memory[..., 1::3] == 0).all()
    if mode != "stochastic":  # the draws go by the place in memory
        assert torch.equal(last.detach(), dense.detach())
    else:
        assert not torch.equal(last.detach(), base)
