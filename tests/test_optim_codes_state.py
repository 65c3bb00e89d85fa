"""Checkpoints of states in 8 bits: torch's float32 states in and out, changed formats, refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from onepass.optim import SGD, AdamW
from test_optim_codes import each_rule, give_in, made, params_of
from tolerance import CODED


def trained(rule="adamw", steps=3, **options):
    params = params_of()
    optimizer = made(rule, params, **options)
    for step in range(steps):
        give_in(params, step)
        optimizer.step()
    return params, optimizer


@each_rule
def test_a_resumed_run_has_the_same_bits(rule):
    params, optimizer = trained(rule, state_format="8bit")
    others = [torch.nn.Parameter(param.detach().clone()) for param in params]
    resumed = made(rule, others, state_format="8bit")
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    pickled = pickle.loads(pickle.dumps(optimizer))
    runs = [(params, optimizer), (others, resumed), (pickled.param_groups[0]["params"], pickled)]
    for own, one in runs:
        for step in (3, 4):
            give_in(own, step)
            one.step()
    for own, one in runs[1:]:
        assert all(map(torch.equal, own, params))
        for saved, kept in zip(one.state.values(), optimizer.state.values(), strict=True):
            assert all(torch.equal(saved[name], kept[name]) for name in kept)


@each_rule
def test_torchs_float_states_load(rule):
    """The first step after it codes them: it begins with their rounded values, at most a level away."""
    _, plain = trained(rule)
    params = params_of()
    optimizer = made(rule, params, state_format="8bit")
    optimizer.load_state_dict(plain.state_dict())
    give_in(params, 9, scale=0.0)
    optimizer.step()
    assert all(any(name.endswith("_codes") for name in own) for own in optimizer.state.values())
    assert not any("exp_avg" in own or "momentum_buffer" in own for own in optimizer.state.values())


@pytest.mark.parametrize("kind", [torch.optim.AdamW, AdamW])
def test_decoded_states_load_elsewhere(kind):
    params, optimizer = trained(state_format="8bit")
    other = kind([torch.nn.Parameter(param.detach().clone()) for param in params])
    other.load_state_dict(optimizer.float_state_dict())
    assert all(set(own) == {"step", "exp_avg", "exp_avg_sq"} for own in other.state.values())
    assert "state_format" not in other.param_groups[0]
    give_in(other.param_groups[0]["params"], 5)
    other.step()


def test_codes_load_into_floats():
    _, optimizer = trained(state_format="8bit")
    params = params_of()
    plain = made("adamw", params)
    plain.load_state_dict(optimizer.state_dict())
    give_in(params, 3)
    plain.step()
    assert all(set(own) == {"step", "exp_avg", "exp_avg_sq"} for own in plain.state.values())


def test_torch_refuses_codes():
    """torch's class finds no moments under the names it knows, and says so at its next step."""
    params, optimizer = trained(state_format="8bit")
    theirs = torch.optim.AdamW(params)
    theirs.load_state_dict(optimizer.state_dict())
    with pytest.raises(KeyError, match="exp_avg"):
        theirs.step()


@each_rule
def test_the_format_may_change_in_mid_training(rule):
    """There and back: values stay within a level of what they were, so that training does not jump."""
    params, optimizer = trained(rule)
    names = [name for name in optimizer._state_names if name in optimizer.state[params[5]]]
    before = {name: optimizer.state[params[5]][name].clone() for name in names}
    optimizer.param_groups[0]["state_format"] = "8bit"
    optimizer.param_groups[0]["lr"] = 0.0
    give_in(params, 3)
    optimizer.step()
    assert set(optimizer.state[params[5]]) >= {"scales", *(f"{name}_codes" for name in names)}
    optimizer.param_groups[0]["state_format"] = None
    params[5].grad.zero_()
    optimizer.step()
    for name in names:
        after = optimizer.state[params[5]][name]
        assert after.dtype == torch.float32
        assert after.isfinite().all()
        assert after.shape == before[name].shape
    assert "scales" not in optimizer.state[params[5]]


def test_a_checkpoint_of_another_layout():
    torch.manual_seed(0)
    weight = torch.randn(4, 8, 3, 3)
    first = torch.nn.Parameter(weight.clone())
    optimizer = AdamW([first], state_format="8bit")
    first.grad = torch.randn_like(first)
    optimizer.step()
    last = torch.nn.Parameter(first.detach().to(memory_format=torch.channels_last))
    other = AdamW([last], state_format="8bit")
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for param, one in ((first, optimizer), (last, other)):
        param.grad = torch.ones(4, 8, 3, 3)
        one.step()
    assert other.state[last]["exp_avg_codes"].stride() == last.stride()
    torch.testing.assert_close(last, first, **CODED)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoint(tmp_path):
    """torch.distributed.checkpoint loads codes into a fresh optimizer; the run goes on with the same bits."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def model_and(seed):
        torch.manual_seed(seed)
        model = torch.nn.Linear(9, 7)
        return model, AdamW(model.parameters(), state_format="8bit")

    def step(model, optimizer):
        give_in(list(model.parameters()), 1)
        optimizer.step()

    model, optimizer = model_and(0)
    step(model, optimizer)
    dcp.save({"optim": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path, no_dist=True)
    other, fresh = model_and(1)
    other.load_state_dict(model.state_dict())
    saved = {"optim": get_optimizer_state_dict(other, fresh)}
    dcp.load(saved, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other, fresh, saved["optim"])
    step(model, optimizer)
    step(other, fresh)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


@pytest.mark.parametrize(
    ("options", "dtype", "message"),
    [
        ({"state_format": "4bit"}, torch.float32, "state_format must be None or \"8bit\", got '4bit'"),
        ({"state_dtype": torch.float32}, torch.float32, "state_dtype must be None with state_format"),
        ({}, torch.float64, r"params\[0\] must be torch.float32, torch.bfloat16 or torch.float16 with"),
        ({}, torch.complex64, r"params\[0\] must be torch.float32, torch.bfloat16 or torch.float16 with"),
    ],
)
def test_senseless_options(options, dtype, message):
    with pytest.raises(ValueError, match=message):
        AdamW([torch.nn.Parameter(torch.ones(3, dtype=dtype))], **{"state_format": "8bit", **options})


def test_without_momentum():
    with pytest.raises(ValueError, match="state_format must be None with momentum=0"):
        SGD([torch.nn.Parameter(torch.ones(3))], state_format="8bit")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("exp_avg_codes", torch.zeros(7), r"exp_avgs\[0\] must be torch.uint8 with states in 8 bits, got"),
        ("scales", torch.zeros(1, 3), r"scales\[0\] must be contiguous of shape \(1, 2\), got \(1, 3\)"),
        (
            "scales",
            torch.zeros(1, 2, dtype=torch.float64),
            r"scales\[0\] must hold float32 scales, got torch.float64",
        ),
    ],
)
def test_states_that_do_not_fit(name, value, message):
    param = torch.nn.Parameter(torch.ones(7))
    optimizer = AdamW([param], state_format="8bit")
    param.grad = torch.ones(7)
    optimizer.step()
    before = param.detach().clone()
    optimizer.state[param][name] = value
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.step()
    assert torch.equal(param, before)


def test_a_missing_scale():
    param = torch.nn.Parameter(torch.ones(7))
    optimizer = AdamW([param], state_format="8bit")
    param.grad = torch.ones(7)
    optimizer.step()
    del optimizer.state[param]["scales"]
    with pytest.raises(ValueError, match=r"scales.* must be in its parameter's state"):
        optimizer.step()


def test_parameters_that_the_loop_would_step():
    param = torch.nn.Parameter(torch.ones(7))
    optimizer = AdamW([param], state_format="8bit", differentiable=True)
    param.grad = torch.ones(7)
    with pytest.raises(ValueError, match="must not come with state_format"):
        optimizer.step()
    assert not optimizer.state


def test_a_compiled_step_has_the_same_bits():
    """The step is taken between the graphs, by the kernel."""
    runs = []
    for compiles in (False, True):
        params = params_of()
        optimizer = made("adamw", params, state_format="8bit")
        step = torch.compile(optimizer.step, backend="eager") if compiles else optimizer.step
        for number in range(2):
            give_in(params, number)
            step()
        runs.append([*params, *(value for own in optimizer.state.values() for value in own.values())])
    assert all(map(torch.equal, *runs))


def spoil(name):
    """A step's optimizer with one state that does not fit, and the parameter."""
    param = torch.nn.Parameter(torch.linspace(-1, 1, 100))
    param.grad = torch.linspace(1, 1e6, 100)
    optimizer = AdamW([param], state_format="8bit")
    optimizer.step()
    own = optimizer.state[param]
    if name == "scales: fewer":
        own["scales"] = own["scales"][:1].clone()
    elif name == "scales: dtype":
        own["scales"] = own["scales"].view(torch.int32)
    elif name == "scales: none":
        del own["scales"]
    elif name == "codes: strided":
        own["exp_avg_codes"] = torch.zeros(200, dtype=torch.uint8)[::2]
    elif name == "codes: shape":
        own["exp_avg_sq_codes"] = own["exp_avg_sq_codes"][:99].clone()
    elif name == "both":
        own["exp_avg"] = torch.zeros(100)
    return param, optimizer


SPOILED = ("scales: fewer", "scales: dtype", "scales: none", "codes: strided", "codes: shape", "both")


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.parametrize("do", ["float_state_dict", "switch off"])
def test_states_that_do_not_fit_are_refused_and_stay(name, do):
    param, optimizer = spoil(name)
    before, value = dict(optimizer.state[param]), param.detach().clone()
    if do == "switch off":
        optimizer.param_groups[0]["state_format"] = None
    with pytest.raises((ValueError, TypeError), match=r"params\[0\] must have"):
        optimizer.float_state_dict() if do == "float_state_dict" else optimizer.step()
    assert all(optimizer.state[param][key] is kept for key, kept in before.items())
    assert len(optimizer.state[param]) == len(before)
    assert torch.equal(param, value)


@pytest.mark.parametrize("to", ["8bit", None])
def test_a_state_of_another_shape_is_refused(to):
    param = torch.nn.Parameter(torch.ones(1, 8))
    param.grad = torch.ones(1, 8)
    optimizer = AdamW([param], state_format=None if to else "8bit")
    optimizer.step()
    param.grad = None
    param.data = torch.ones(4, 8)
    param.grad = torch.ones(4, 8)
    optimizer.param_groups[0]["state_format"] = to
    before = dict(optimizer.state[param])
    with pytest.raises(ValueError, match="shape"):
        optimizer.step()
    assert all(optimizer.state[param][key] is kept for key, kept in before.items())


def test_amsgrad_may_be_switched_off_and_on():
    """As with float32 states: the largest second moment waits."""
    params, optimizer = trained(state_format="8bit", amsgrad=True)
    largest = optimizer.float_state_dict()["state"][0]["max_exp_avg_sq"]
    both = {"step", "exp_avg_codes", "exp_avg_sq_codes", "scales"}
    for step, amsgrad, more in ((3, False, "max_exp_avg_sq"), (4, True, "max_exp_avg_sq_codes")):
        before = [param.detach().clone() for param in params]
        give_in(params, step)
        optimizer.param_groups[0]["amsgrad"] = amsgrad
        optimizer.step()
        own = optimizer.state[params[0]]
        assert set(own) == both | {more}
        assert own["scales"].shape[1] == 2 + amsgrad
        assert not all(map(torch.equal, params, before))
        if not amsgrad:
            assert torch.equal(own["max_exp_avg_sq"], largest)
