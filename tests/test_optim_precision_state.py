"""Parameters and states of 16 bits: dtypes of states, checkpoints of any mode in any other, senseless options."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import onepass.optim
from optim_setup import states
from precision_setup import MODES, RULES, STATES, each_half, each_mode, give_in, params_of, rounded
from tail_setup import flat, same_states


@pytest.mark.parametrize("state_dtype", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", [name for name in RULES if name != "sgd"])
def test_state_dtype(backend, rule, dtype, state_dtype):
    """The dtype asked for, from the first step on and through a checkpoint; results within its rounding."""
    params = params_of(backend.device, dtype)
    optimizer = rounded(rule, params, state_dtype=state_dtype)
    for step in range(3):
        give_in(params, step)
        optimizer.step()
    again = rounded(rule, params, state_dtype=state_dtype)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, again):
        for param in params:
            for name, value in one.state.get(param, {}).items():
                assert value.dtype == (torch.float32 if name == "step" else state_dtype or dtype)
    assert same_states(states(params, optimizer), states(params, again))


@each_mode
@each_half
@pytest.mark.parametrize("rule", ["momentum", "amsgrad"])
def test_a_resumed_run_has_the_same_bits(backend, mode, rule, dtype):
    """state_dict, deepcopy and pickle in mid-training; a new optimizer takes the seed from the checkpoint."""
    params = params_of(backend.device, dtype)
    options = {key: value for key, value in MODES[mode].items() if key != "seed"}
    torch.manual_seed(0)
    optimizer = rounded(rule, params, **MODES[mode])
    for step in range(3):
        give_in(params, step)
        optimizer.step()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = rounded(rule, others, **options)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twins = copy.deepcopy(optimizer)
    pickled = pickle.loads(pickle.dumps(optimizer))
    runs = [(params, optimizer), (others, resumed)]
    runs += [([*one.param_groups[0]["params"]], one) for one in (twins, pickled)]
    for step in (3, 4):
        for own, one in runs:
            give_in(own, step)
            one.step()
    for own, one in runs[1:]:
        assert torch.equal(flat(own), flat(params))
        assert same_states(states(own, one), states(params, optimizer))


@each_half
@pytest.mark.parametrize("source", [None, *MODES])
@pytest.mark.parametrize("target", [None, *MODES])
def test_a_checkpoint_of_any_mode_loads_into_any(backend, source, target, dtype):
    """The parameter's value is kept as exactly as the target can; then a step like any other."""
    params = params_of(backend.device, dtype)
    one = rounded("adamw", params, **MODES.get(source, {}))
    for step in range(3):
        give_in(params, step)
        one.step()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = rounded("adamw", others, **MODES.get(target, {}))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    # A float32 run from the value that the source had.
    wide = [torch.nn.Parameter(_value(one, p)) for p in params]
    exact = onepass.optim.AdamW(wide, lr=1e-3)
    exact.load_state_dict(copy.deepcopy(one.state_dict()))
    give_in(others, 3)
    give_in(wide, 3, dtype)
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
    mine = rounded("adamw", params, **MODES[mode])
    give_in(params, 0)
    mine.step()
    theirs = torch.optim.AdamW([torch.nn.Parameter(p.detach().clone()) for p in params])
    theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
    others = theirs.param_groups[0]["params"]

    def assert_same_moments(optimizer):
        for param, other in zip(params, others, strict=True):
            for name in ("exp_avg", "exp_avg_sq"):
                moment = optimizer.state[param][name]
                assert torch.equal(moment.to(other.dtype), theirs.state[other][name])
            assert float(optimizer.state[param]["step"]) == float(theirs.state[other]["step"])

    assert_same_moments(mine)
    for param in others:
        param.grad = torch.ones_like(param)
    theirs.step()
    back = rounded("adamw", params, **MODES[mode])
    back.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert_same_moments(back)
    before = _value(back, params[0])
    give_in(params, 1)
    back.step()
    assert (_value(back, params[0]) != before).any()


def test_a_checkpoint_without_such_options_is_torchs_alone():
    """Keys that torch's class does not know are in a checkpoint only where they are not the defaults."""
    param = torch.nn.Parameter(torch.ones(3))
    ours, theirs = onepass.optim.AdamW([param]).state_dict(), torch.optim.AdamW([param]).state_dict()
    assert ours["param_groups"][0].keys() == theirs["param_groups"][0].keys()


@each_half
@pytest.mark.parametrize(("source", "target"), [("kahan", "master"), ("master", "kahan")])
def test_a_step_that_is_not_taken_keeps_what_the_checkpoint_had(backend, source, target, dtype):
    """Skipped, and rejected: the low bits are still there, and are converted by the next step."""
    params = params_of(backend.device, dtype)
    one = rounded("adamw", params, **MODES[source])
    give_in(params, 0)
    one.step()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = rounded("adamw", others, skip_nonfinite=True, **MODES[target])
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    before = states(others, other)
    give_in(others, 1)
    others[0].grad.fill_(float("nan"))
    other.step()
    if backend.name != "cuda":  # there the device alone knows
        assert same_states(states(others, other), before)
    other.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be"):
        other.step()
    other.param_groups[0]["lr"] = 1e-3
    give_in(others, 1)
    other.step()
    assert all(bool(p.isfinite().all()) for p in others)


@pytest.mark.parametrize("seed", ["x", -1, 1.5])
def test_a_checkpoint_with_a_senseless_seed(seed):
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = onepass.optim.AdamW([param], rounding="stochastic", seed=1)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["seed"] = seed
    with pytest.raises((ValueError, TypeError), match="AdamW: seed must be"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["seed"] == 1


def test_what_torch_made_of_wide_states_is_widened_again():
    """A trip through torch's class rounds float32 averages and masters to the parameter's dtype."""
    params = params_of("cpu", torch.float16)
    mine = rounded("adamw", params, master_weights=True, ema_decay=0.9)
    give_in(params, 0)
    mine.step()
    theirs = torch.optim.AdamW([torch.nn.Parameter(p.detach().clone()) for p in params])
    theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
    mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    give_in(params, 1)
    mine.step()
    assert mine.state[params[0]]["ema"].dtype == mine.state[params[0]]["master_param"].dtype == torch.float32
