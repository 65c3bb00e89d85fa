"""Options of low precision: by group, by hand, on odd tensors, without sense."""

from __future__ import annotations

import pytest
import torch

import onepass.optim
from precision_setup import MODES, each_half, each_mode, give_in, params_of, rounded
from tail_setup import flat


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
        give_in(params, 0)
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


ASKED = {
    "stochastic": ({"rounding": "stochastic"}, "rounding='stochastic'"),
    "kahan": ({"rounding": "kahan"}, "rounding='kahan'"),
    "master": ({"master_weights": True}, "master_weights=True"),
}


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("mode", ASKED)
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "Lion"])
def test_options_that_would_do_nothing_when_set_by_hand(rule, mode, steps):
    """Also in one of two groups, whose other one the option would concern; before the first step and later."""
    options, text = ASKED[mode]
    full, half = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = getattr(onepass.optim, rule)([{"params": [half], **options}, {"params": [full]}], lr=0.1)
    full.grad, half.grad = torch.ones_like(full), torch.ones_like(half)
    for _ in range(steps):
        optimizer.step()
    before, saved = [full.detach().clone(), half.detach().clone()], dict(optimizer.param_groups[1])
    optimizer.param_groups[1].update(options)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{rule}: params must .* with {text}, got only torch.float32"):
            optimizer.step()
    assert torch.equal(full, before[0])
    assert torch.equal(half, before[1])
    assert "seed" not in optimizer.param_groups[1]
    optimizer.param_groups[1].clear()
    optimizer.param_groups[1].update(saved)
    optimizer.step()
    assert not torch.equal(full, before[0])


def test_options_set_by_hand_in_all_groups():
    """As with defaults, one of the groups that were changed together has to be concerned."""
    params = [torch.nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.float32, torch.float16)]
    optimizer = onepass.optim.AdamW([{"params": [param]} for param in params])
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    for group in optimizer.param_groups:
        group["rounding"] = "stochastic"
    optimizer.step()
    optimizer.param_groups[0]["seed"] = 3
    optimizer.step()
    assert optimizer.state[params[1]]["step"] == 3


def test_a_state_dtype_set_by_hand_where_there_is_no_state():
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = onepass.optim.SGD([param])
    optimizer.step()
    optimizer.param_groups[0]["state_dtype"] = torch.bfloat16
    with pytest.raises(ValueError, match=r"SGD: state_dtype must be None with momentum=0 .*, got torch\.bfloat16"):
        optimizer.step()


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ("rounding", ValueError, "rounding must be one of nearest, stochastic, kahan, got None"),
        ("master_weights", TypeError, "master_weights must be True or False, got None"),
    ],
)
@pytest.mark.parametrize("rule", ["SGD", "AdamW", "Lion"])
def test_none_set_by_hand(rule, option, error, message, steps):
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    param.grad = torch.ones_like(param)
    optimizer = getattr(onepass.optim, rule)([param])
    for _ in range(steps):
        optimizer.step()
    before = param.detach().clone()
    optimizer.param_groups[0][option] = None
    for _ in range(2):
        with pytest.raises(error, match=f"{rule}: {message}"):
            optimizer.step()
    with pytest.raises(error, match=f"{rule}: {message}"):
        torch.compile(optimizer.step, backend="eager")()
    assert torch.equal(param, before)


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


@each_mode
@each_half
def test_options_changed_by_hand(backend, mode, dtype):
    """From nearest to the mode and back in mid-training: the state is made, and goes; values are kept.

    What a plan remembered of the steps before would have no list of the lost bits: a crash once.
    """
    params = params_of(backend.device, dtype)
    optimizer = rounded("momentum", params)
    group = optimizer.param_groups[0]
    low = {"kahan": "kahan_comp", "master": "remainder" if dtype == torch.bfloat16 else "master_param"}.get(mode)
    for step in range(6):
        if step == 2:
            group.update(MODES[mode])
        if step == 4:
            group.update({"rounding": "nearest", "master_weights": False, "seed": None})
        before = flat(params)
        give_in(params, step)
        optimizer.step()
        assert (flat(params) - before).abs().max() < 0.02
        assert (low in optimizer.state[params[0]]) == (low is not None and 2 <= step < 4)
    group["rounding"] = "stochastic"
    give_in(params, 6)
    optimizer.step()
    assert isinstance(group["seed"], int)
    for wrong, error, message in (
        ({"rounding": "kahann", "seed": None}, ValueError, "SGD: rounding must be one of nearest"),
        (
            {"rounding": "nearest", "seed": None, "master_weights": "yes"},
            TypeError,
            "SGD: master_weights must be True",
        ),
        ({"rounding": "stochastic", "master_weights": False, "seed": "x"}, TypeError, "SGD: seed must be an int"),
    ):
        group.update(wrong)
        before = flat(params)
        with pytest.raises(error, match=message):
            optimizer.step()
        assert torch.equal(flat(params), before)


@pytest.mark.parametrize("rule", ["adamw", "momentum"])
def test_float32_parameters_with_stochastic_bfloat16_states(backend, rule):
    """lr 0: the parameter keeps every bit, whatever its states are rounded to."""
    params = params_of(backend.device, torch.float32)
    before = flat(params)
    optimizer = rounded(rule, params, rounding="stochastic", seed=1, state_dtype=torch.bfloat16)
    optimizer.param_groups[0].update(lr=0.0, weight_decay=0.0)
    for step in range(3):
        give_in(params, step)
        optimizer.step()
    assert torch.equal(flat(params), before)
    name = "exp_avg" if rule == "adamw" else "momentum_buffer"
    assert optimizer.state[params[0]][name].dtype == torch.bfloat16
    assert optimizer.state[params[0]][name].abs().max() > 0


@each_mode
@each_half
@pytest.mark.parametrize("value", [0.0, -0.0, float("inf"), 3.0])
def test_parameters_that_were_overwritten(backend, mode, dtype, value):
    """Zeroed weights stay zero: a remainder that cannot be a zero's would make a nan, a compensation 0.01."""
    params = params_of(backend.device, dtype)
    optimizer = rounded("sgd", params, **MODES[mode])
    for step in range(3):
        give_in(params, step)
        optimizer.step()
    with torch.no_grad():
        for param in params:
            param.fill_(value)
    optimizer.param_groups[0]["lr"] = 0.0
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    # What a bfloat16's remainder holds, half its spacing at most, belongs to whatever the parameter is.
    spacing = 0.0 if mode != "master" or dtype != torch.bfloat16 or value != 3.0 else 2.0**-7
    assert all(((p.detach().float() - value).abs() <= spacing).all() or (p == value).all() for p in params)


@each_mode
@pytest.mark.parametrize("rule", ["momentum", "adamw"])
def test_views_that_begin_anywhere(backend, mode, rule):
    """Parameters one element past an alignment: the same bits as aligned ones."""
    runs = []
    for shift in (0, 1):
        memory = torch.randn(301, generator=torch.Generator().manual_seed(0)).bfloat16().to(backend.device)
        aligned = memory[:300].clone()
        param = torch.nn.Parameter(
            torch.zeros(301, dtype=torch.bfloat16, device=backend.device)[shift : 300 + shift]
        )
        param.data.copy_(aligned)
        optimizer = rounded(rule, [param], telemetry=True, ema_decay=0.9, **MODES[mode])
        for _ in range(3):
            param.grad = torch.zeros(303, dtype=torch.bfloat16, device=backend.device)[shift : 300 + shift]
            param.grad.copy_(aligned)
            optimizer.step()
        runs.append(param.detach().clone())
    assert torch.equal(*runs)


def test_defaults_are_for_all_groups_together():
    """A float32 group beside a bfloat16 one may have nothing to round; a seed is the default's own."""
    half = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    full = torch.nn.Parameter(torch.ones(3))
    optimizer = onepass.optim.AdamW([{"params": [half]}, {"params": [full]}], rounding="stochastic", seed=5)
    assert [group["seed"] for group in optimizer.param_groups] == [5, 5]
    groups = [{"params": [half]}, {"params": [full], "rounding": "nearest"}]
    onepass.optim.AdamW(groups, rounding="stochastic", seed=5)
    with pytest.raises(ValueError, match=r"state_dtype must be None with momentum=0 .*, got torch\.float32"):
        onepass.optim.SGD([half], state_dtype=torch.float32)
