"""Parameters and states of 16 bits: dtypes of states, checkpoints of any mode in any other, senseless options."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import onepass.optim
from precision_setup import MODES, STATES, each_half, each_mode, each_rule, give, make, params_of
from tail_setup import flat, same_states, states


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
        with pytest.raises(ValueError, match=r"got only torch\.float32"):
            onepass.optim.SGD([{"params": full, **options}])
        with pytest.raises(ValueError, match=r"got only torch\.float32"):
            onepass.optim.SGD([("weight", full)], **options)
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
