"""What does not go with parameters that torch's loop updates: named, before anything has been changed."""

from __future__ import annotations

import pytest
import torch

import onepass
from optim_setup import give_gradients, snapshot, train
from test_optim_unfused import each_rule, with_complex

TAILS = {
    "max_grad_norm": {"max_grad_norm": 1.0},
    "skip_nonfinite": {"skip_nonfinite": True},
    "zero_grad": {"zero_grad": True},
    "ema_decay": {"ema_decay": 0.5},
    "grad_scale": {"grad_scale": 2.0},
    "telemetry": {"telemetry": True},
    "rounding": {"rounding": "kahan"},
}


@pytest.mark.parametrize("asked", TAILS)
def test_what_differentiable_does_not_go_with(asked):
    options = dict(TAILS[asked])
    zero_grad, scale = options.pop("zero_grad", False), options.pop("grad_scale", None)
    param = torch.ones(3, dtype=torch.bfloat16, requires_grad=True).clone()
    optimizer = onepass.optim.AdamW([param], differentiable=True, **options)
    if scale:
        optimizer.grad_scale = scale
    param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match=rf"^adamw: params\[0\] must not come with {asked} \(differentiable"):
        optimizer.step(zero_grad=zero_grad)
    assert torch.equal(param, torch.ones_like(param))
    assert not optimizer.state


@pytest.mark.parametrize("option", [{"rounding": "stochastic"}, {"master_weights": True}], ids=str)
def test_low_precision_does_not_go_with_complex_parameters(option):
    params = [torch.nn.Parameter(torch.ones(3, dtype=d)) for d in (torch.bfloat16, torch.complex64)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = onepass.optim.AdamW(params, **option)
    before = snapshot(optimizer)
    with pytest.raises(
        ValueError, match=rf"^adamw: params\[1\] must not come with {next(iter(option))} \(complex"
    ):
        optimizer.step()
    assert snapshot(optimizer) == before
    apart = onepass.optim.AdamW([{"params": params[:1], **option}, {"params": params[1:]}])
    apart.step()


SPOILT = {
    "shape": (lambda v: v[:1], ValueError, r"of its shape \(2, 3\), got \(1, 3\)"),
    "real": (lambda v: v.real.clone(), TypeError, r"of its dtype torch.complex64, got torch.float32"),
    "number": (lambda v: 1.0, ValueError, r"of its shape \(2, 3\), got float"),
}


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize(
    ("rule", "name"), [("SGD", "momentum_buffer"), ("Adam", "exp_avg"), ("AdamW", "exp_avg_sq")]
)
def test_spoilt_states_of_complex_parameters(rule, name, spoil):
    make_value, error, message = SPOILT[spoil]
    params, optimizer = with_complex(onepass.optim, rule, {"momentum": 0.9} if rule == "SGD" else {})
    train(params, optimizer, range(2))
    optimizer.state[params[1]][name] = make_value(optimizer.state[params[1]][name])
    give_gradients(params, 2)
    before = snapshot(optimizer)
    with pytest.raises(
        error, match=rf"^{rule.lower()}: param_groups\[0\].params\[1\] must have a state {name} {message}"
    ):
        optimizer.step()
    assert snapshot(optimizer) == before


def put_grad(param, grad):
    param.grad_dtype, param.grad = None, None
    param.grad = grad


LOOP_FAULTS = {
    "real-grad": (lambda p, o: put_grad(p, torch.ones(2, 3)), TypeError, "gradient of its dtype torch.complex64"),
    "cut-grad": (
        lambda p, o: setattr(p.grad, "data", p.grad.data[:1]),
        ValueError,
        r"gradient of its shape \(2, 3\)",
    ),
    "negative-lr": (
        lambda p, o: o.param_groups[0].update(lr=-1.0),
        ValueError,
        "lr must be finite and at least 0",
    ),
    "nan-decay": (
        lambda p, o: o.param_groups[0].update(weight_decay=float("nan")),
        ValueError,
        "weight_decay must",
    ),
}
ADAM_FAULTS = {
    "late-amsgrad": (
        lambda p, o: o.param_groups[0].update(amsgrad=True),
        ValueError,
        "have the state max_exp_avg_sq",
    ),
    "no-exp_avg": (lambda p, o: o.state[p].pop("exp_avg"), ValueError, "must be in its parameter's state"),
    "long-step": (lambda p, o: o.state[p].update(step=torch.ones(2)), ValueError, "step of one number, got 2 of"),
}
FAULTS = [
    pytest.param(rule, *table[name], id=f"{rule}-{name}")
    for rule, table in (("SGD", LOOP_FAULTS), ("Adam", LOOP_FAULTS | ADAM_FAULTS), ("AdamW", ADAM_FAULTS))
    for name in table
]


@pytest.mark.parametrize(("rule", "fault", "error", "message"), FAULTS)
def test_what_torchs_loop_would_trip_over(rule, fault, error, message):
    """Found before the kernels take their share: of the real parameters, too, none has moved."""
    params, optimizer = with_complex(onepass.optim, rule, {"momentum": 0.9} if rule == "SGD" else {})
    params = [params[1], *params]
    train(params[1:], optimizer, range(2))
    give_gradients(params[1:], 2)
    fault(params[0], optimizer)
    before = snapshot(optimizer)
    for _ in range(2):
        with pytest.raises(error, match=rf"(?i)^{rule}: .*{message}"):
            optimizer.step()
        assert snapshot(optimizer) == before


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_capturable_needs_a_gpu(rule):
    params, optimizer = with_complex(onepass.optim, rule, {"capturable": True})
    give_gradients(params, 0)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"params\[1\] must be on CUDA with capturable=True, got cpu"):
        optimizer.step()
    assert snapshot(optimizer) == before


@each_rule
def test_a_lazy_conjugate_as_gradient(rule, options):
    """torch's Adam trips over it after it has moved the parameters in front."""
    runs = []
    for lazy in (True, False):
        params, optimizer = with_complex(onepass.optim, rule, options)
        for step in range(2):
            give_gradients(params, step)
            for param in params:
                grad = param.grad.conj()
                param.grad = grad if lazy else grad.resolve_conj()
            assert params[1].grad.is_conj() == lazy
            optimizer.step()
        runs.append(params)
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_a_conjugate_view_as_parameter(rule):
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, dtype=torch.complex64).conj())]
    optimizer = getattr(onepass.optim, rule)(params)
    for param in params:
        param.grad = torch.ones(3, dtype=param.dtype)
    with pytest.raises(ValueError, match=rf"{rule.lower()}: params\[1\] must have memory .* conjugate view"):
        optimizer.step()
    assert not optimizer.state
    assert torch.equal(params[0], torch.ones(3))
