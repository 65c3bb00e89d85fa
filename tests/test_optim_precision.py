"""Parameters and states of 16 bits: stochastic rounding, Kahan's sum, float32 masters, and the dtype of states."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

import onepass.optim
from reference.rounding import draws, philox, stochastic
from tail_setup import flat, same_states, states

HALVES = (torch.bfloat16, torch.float16)
RULES = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "adam": ("Adam", {"weight_decay": 0.1}),
    "adamw": ("AdamW", {}),
    "amsgrad": ("AdamW", {"amsgrad": True}),
}
MODES = {
    "stochastic": {"rounding": "stochastic", "seed": 7},
    "kahan": {"rounding": "kahan"},
    "master": {"master_weights": True},
}
# Several rows of 512 and a draw group of 256 that is not whole; a scalar; nothing.
SHAPES = ((1500,), (), (0,), (3, 7), (16, 16))
STATES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
each_rule = pytest.mark.parametrize("rule", RULES)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
each_mode = pytest.mark.parametrize("mode", MODES)


def params_of(device, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(device, dtype)) for shape in SHAPES]


def make(rule, params, **options):
    kind, own = RULES[rule]
    return getattr(onepass.optim, kind)(params, lr=1e-3, **own, **options)


def give(params, step, dtype=None):
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        grad = torch.randn(param.shape, generator=generator)
        param.grad = grad.to(dtype or param.dtype).to(param.device, param.dtype)


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
    mine = make(rule, params, rounding="stochastic", seed=2**63 + 5, **options)
    other = make(rule, wide)
    for step in range(1, 5):
        give(params, step)
        give(wide, step, dtype)
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
    states_too = {"state_dtype": torch.float32}
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
    mine, other = make(rule, params, master_weights=True), make(rule, wide)
    for step in range(20):
        give(params, step)
        give(wide, step, dtype)
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
    mine = make(rule, params, rounding="kahan", state_dtype=torch.float32)
    wide = [torch.nn.Parameter(p.detach().float()) for p in params]
    other = make(rule, wide)
    for step in range(5):
        give(params, step)
        give(wide, step, dtype)
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


@pytest.mark.parametrize("state_dtype", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_rule
def test_state_dtype(backend, rule, dtype, state_dtype):
    """The dtype asked for, from the first step on and through a checkpoint; results within its rounding."""
    params = params_of(backend.device, dtype)
    optimizer = make(rule, params, state_dtype=state_dtype)
    for step in range(3):
        give(params, step)
        optimizer.step()
    again = make(rule, params, state_dtype=state_dtype)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, again):
        for param in params:
            for name, value in one.state.get(param, {}).items():
                assert value.dtype == (torch.float32 if name == "step" else state_dtype or dtype)
    assert same_states(states(optimizer, params), states(again, params))


@each_mode
@each_half
@pytest.mark.parametrize("rule", ["momentum", "amsgrad"])
def test_a_resumed_run_has_the_same_bits(backend, mode, rule, dtype):
    """state_dict, deepcopy and pickle in mid-training; a new optimizer takes the seed from the checkpoint."""
    params = params_of(backend.device, dtype)
    options = {key: value for key, value in MODES[mode].items() if key != "seed"}
    torch.manual_seed(0)
    optimizer = make(rule, params, **MODES[mode])
    for step in range(3):
        give(params, step)
        optimizer.step()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = make(rule, others, **options)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twins = copy.deepcopy(optimizer)
    pickled = pickle.loads(pickle.dumps(optimizer))
    runs = [(params, optimizer), (others, resumed)]
    runs += [([*one.param_groups[0]["params"]], one) for one in (twins, pickled)]
    for step in (3, 4):
        for own, one in runs:
            give(own, step)
            one.step()
    for own, one in runs[1:]:
        assert torch.equal(flat(own), flat(params))
        assert same_states(states(one, own), states(optimizer, params))


@each_half
@pytest.mark.parametrize("source", [None, *MODES])
@pytest.mark.parametrize("target", [None, *MODES])
def test_a_checkpoint_of_any_mode_loads_into_any(backend, source, target, dtype):
    """The parameter's value is kept as exactly as the target can; then a step like any other."""
    params = params_of(backend.device, dtype)
    one = make("adamw", params, **MODES.get(source, {}))
    for step in range(3):
        give(params, step)
        one.step()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = make("adamw", others, **MODES.get(target, {}))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    # A float32 run from the value that the source had.
    wide = [torch.nn.Parameter(_value(one, p)) for p in params]
    exact = onepass.optim.AdamW(wide, lr=1e-3)
    exact.load_state_dict(copy.deepcopy(one.state_dict()))
    give(others, 3)
    give(wide, 3, dtype)
    other.step()
    exact.step()
    spacing = torch.finfo(dtype).eps
    for own, truth in zip(others, wide, strict=True):
        error, size = (_value(other, own) - truth.detach()).abs(), truth.detach().abs()
        keeps = source in ("kahan", "master") and target in ("kahan", "master")
        # What Kahan's compensation cannot hold: below the smallest number of its dtype.
        least = torch.finfo(dtype).smallest_normal * spacing if keeps else 1e-2 * spacing
        assert (error <= (spacing**2 if keeps else 2 * spacing) * size + least).all()
        low = {"kahan": "kahan_comp", "master": "remainder" if dtype == torch.bfloat16 else "master_param"}
        assert set(other.state[own]) - {"step", *STATES} == ({low[target]} if target in low else set())


def _value(optimizer, param):
    own = optimizer.state[param]
    if "remainder" in own:
        upper = param.detach().view(torch.int16).to(torch.int32) << 16
        return (upper + own["remainder"].to(torch.int32)).view(torch.float32)
    if "master_param" in own:
        return own["master_param"].clone()
    return param.detach().float() + (own["kahan_comp"].float() if "kahan_comp" in own else 0)


@each_mode
def test_torchs_class_loads_the_checkpoint_and_back(mode):
    params = params_of("cpu", torch.bfloat16)
    mine = make("adamw", params, **MODES[mode])
    give(params, 0)
    mine.step()
    theirs = torch.optim.AdamW([torch.nn.Parameter(p.detach().clone()) for p in params])
    theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
    for param in theirs.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    theirs.step()
    back = make("adamw", params, **MODES[mode])
    back.load_state_dict(copy.deepcopy(theirs.state_dict()))
    give(params, 1)
    back.step()


def test_a_checkpoint_without_such_options_is_torchs_alone():
    """Keys that torch's class does not know are in a checkpoint only where they are not the defaults."""
    param = torch.nn.Parameter(torch.ones(3))
    ours, theirs = onepass.optim.AdamW([param]).state_dict(), torch.optim.AdamW([param]).state_dict()
    assert ours["param_groups"][0].keys() == theirs["param_groups"][0].keys()


def test_the_seed_is_torchs_generators():
    def seed_of(**options):
        param = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        return onepass.optim.SGD([param], rounding="stochastic", **options).param_groups[0]["seed"]

    torch.manual_seed(3)
    first, second = seed_of(), seed_of()
    torch.manual_seed(3)
    assert first == seed_of() != second
    assert seed_of(seed=2**64 - 1) == 2**64 - 1
    state = torch.get_rng_state()
    onepass.optim.SGD([torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))])
    assert torch.equal(state, torch.get_rng_state())


def test_groups_of_their_own(backend):
    """One group rounds stochastically, one keeps a master, a float32 one is what it always was."""
    half, other = params_of(backend.device, torch.bfloat16), params_of(backend.device, torch.bfloat16, 1)
    full = params_of(backend.device, torch.float32, 2)
    twin = [torch.nn.Parameter(p.detach().clone()) for p in full]
    optimizer = onepass.optim.AdamW(
        [
            {"params": half, "rounding": "stochastic", "seed": 1},
            {"params": other, "master_weights": True},
            {"params": full},
        ]
    )
    plain = onepass.optim.AdamW(twin)
    for params in (half, other, full, twin):
        give(params, 0)
    optimizer.step()
    plain.step()
    assert torch.equal(flat(full), flat(twin))
    assert set(optimizer.state[half[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    assert set(optimizer.state[other[0]]) == {"step", "exp_avg", "exp_avg_sq", "remainder"}
    assert optimizer.state[other[0]]["exp_avg"].dtype == torch.float32


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


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rounding": "up"}, ValueError, "rounding must be one of nearest, stochastic, kahan, got 'up'"),
        ({"state_dtype": torch.float16}, ValueError, "state_dtype must be None, torch.float32 or torch.bfloat16"),
        ({"master_weights": 1}, TypeError, "master_weights must be True or False, got 1"),
        (
            {"master_weights": True, "rounding": "kahan"},
            ValueError,
            'rounding must be "nearest" with master_weights',
        ),
        ({"seed": 3}, ValueError, 'seed must be None unless rounding="stochastic", got 3'),
        ({"seed": -1, "rounding": "stochastic"}, ValueError, r"seed must be at least 0 and below 2\*\*64, got -1"),
        ({"seed": 2**64, "rounding": "stochastic"}, ValueError, "seed must be at least 0"),
        ({"seed": 0.5, "rounding": "stochastic"}, TypeError, "seed must be an int or None, got 0.5"),
    ],
)
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
def test_options_without_sense(rule, options, error, message):
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    with pytest.raises(error, match=f"{rule}: {message}"):
        getattr(onepass.optim, rule)([param], **options)
    optimizer = getattr(onepass.optim, rule)([param])
    other = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    with pytest.raises(error, match=f"{rule}: {message}"):
        optimizer.add_param_group({"params": [other], **options})
    assert len(optimizer.param_groups) == 1


def test_options_that_would_do_nothing():
    """An argument that no parameter is concerned by would be ignored silently."""
    full = torch.nn.Parameter(torch.ones(3))
    double = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    half = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    for options, text in (
        ({"rounding": "stochastic"}, "rounding='stochastic'"),
        ({"rounding": "kahan"}, "rounding='kahan'"),
        ({"master_weights": True}, "master_weights=True"),
    ):
        with pytest.raises(
            ValueError, match=f"a torch.bfloat16 or torch.float16 one with {text}, got only torch.fl"
        ):
            onepass.optim.AdamW([full], **options)
    onepass.optim.AdamW([full], rounding="stochastic", state_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"state_dtype must be None with torch.float64 params, got torch.float32"):
        onepass.optim.AdamW([double], state_dtype=torch.float32)
    with pytest.raises(ValueError, match=r"params\[0\] must not be torch.float16 with state_dtype=torch.bfloat16"):
        onepass.optim.AdamW([half], state_dtype=torch.bfloat16)


def test_a_low_state_of_the_wrong_kind(backend):
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16, device=backend.device))
    optimizer = onepass.optim.AdamW([param], master_weights=True)
    param.grad = torch.ones_like(param)
    optimizer.step()
    before = param.detach().clone()
    remainder = optimizer.state[param]["remainder"]
    for wrong, error, message in (
        (remainder.to(torch.int32), TypeError, r"adamw: remainders?\[0\] must be torch.int16, got torch.int32"),
        (remainder[:2].clone(), ValueError, r"adamw: remainders?\[0\] must have shape \(3,\)"),
        (3, TypeError, r"adamw: remainders?\[0\] must be a torch.Tensor, got int"),
    ):
        optimizer.state[param]["remainder"] = wrong
        with pytest.raises(error, match=message):
            optimizer.step()
        assert torch.equal(param.detach(), before)
    optimizer.state[param]["remainder"] = remainder
    optimizer.step()
    assert optimizer.state[param]["step"] == 2
