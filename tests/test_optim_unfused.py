"""Complex parameters, sparse gradients, differentiable steps: torch's loop takes these, the kernels the others."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

import onepass
from optim_setup import snapshot

RULES = [
    pytest.param("SGD", {}, id="sgd"),
    pytest.param("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="sgd-nesterov"),
    pytest.param("SGD", {"momentum": 0.9, "dampening": 0.5, "maximize": True}, id="sgd-dampening"),
    pytest.param("Adam", {"weight_decay": 0.1}, id="adam-l2"),
    pytest.param("Adam", {"amsgrad": True, "maximize": True}, id="adam-amsgrad"),
    pytest.param("AdamW", {"weight_decay": 0.1, "eps": 1e-4}, id="adamw"),
    pytest.param("AdamW", {"amsgrad": True, "betas": (0.5, 0.75)}, id="adamw-amsgrad"),
]
each_rule = pytest.mark.parametrize(("rule", "options"), RULES)
DTYPES = (torch.float32, torch.complex64, torch.complex128, torch.float64)


def make(package, rule, options, shapes=((3,), (2, 3), (), (5,))):
    """Real and complex parameters in turn, in two groups."""
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(shape, dtype=dtype, generator=generator))
        for shape, dtype in zip(shapes, DTYPES, strict=True)
    ]
    flags = {"foreach": False} if package is torch.optim else {}
    groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.05}]
    return params, getattr(package, rule)(groups, lr=0.1, **options, **flags)


def give(params, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, dtype=param.dtype, generator=generator) * scale


def train(params, optimizer, steps):
    for step in steps:
        give(params, step)
        optimizer.step()


def assert_same(params, optimizer, others, other):
    """torch's own numbers where its loop ran, the fused ones within their tolerance, states of the same kind."""
    for one, two in zip(params, others, strict=True):
        if one.is_complex():
            assert torch.equal(one, two)
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
        mine, theirs = optimizer.state[one], other.state[two]
        assert mine.keys() - {"ema"} == {name for name, value in theirs.items() if value is not None}
        for name in mine.keys() - {"ema"}:
            assert (type(mine[name]), mine[name].dtype) == (type(theirs[name]), theirs[name].dtype)
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-5, atol=1e-6)


@each_rule
def test_complex_parameters(rule, options):
    (params, optimizer), (others, other) = (make(p, rule, options) for p in (onepass.optim, torch.optim))
    for step in range(5):
        train(params, optimizer, [step])
        train(others, other, [step])
        assert_same(params, optimizer, others, other)
    found = optimizer.unfused_parameters()
    assert [(one.group, one.position, one.why) for one in found] == [
        (0, 1, "complex parameter"),
        (0, 2, "complex parameter"),
    ]
    assert found[0].param is params[1]


@pytest.mark.parametrize("to", ["torch", "onepass"])
@each_rule
def test_checkpoints_of_complex_parameters_go_both_ways(rule, options, to):
    source, target = (onepass.optim, torch.optim) if to == "torch" else (torch.optim, onepass.optim)
    params, optimizer = make(source, rule, options)
    train(params, optimizer, range(3))
    others, other = make(target, rule, options)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, two in zip(params, others, strict=True):
        two.data.copy_(one.data)
    train(params, optimizer, range(3, 6))
    train(others, other, range(3, 6))
    pair = ((params, optimizer), (others, other))
    assert_same(*pair[to == "onepass"], *pair[to == "torch"])


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "replaced"])
def test_torchs_functions_are_held_from_the_beginning(kept, monkeypatch):
    """Who puts ours, or any other, in the place of torch's function gets no endless recursion."""
    for name in ("sgd", "adam", "adamw"):
        module = getattr(__import__(f"torch.optim.{name}", fromlist=[name]), "__dict__", None)
        if not kept:
            monkeypatch.setitem(module, name, lambda *_, **__: pytest.fail("not torch's own"))
    for rule in ("SGD", "Adam", "AdamW"):
        params, optimizer = make(onepass.optim, rule, {})
        train(params, optimizer, range(2))


def sparse(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(shape[0], (1, 4), generator=generator)  # a row may come twice: not coalesced
    values = torch.randn(4, *shape[1:], generator=generator)
    return torch.sparse_coo_tensor(rows, values, shape, check_invariants=False)


SPARSE = [
    pytest.param({}, id="plain"),
    pytest.param({"momentum": 0.9}, id="momentum"),
    pytest.param({"momentum": 0.9, "nesterov": True}, id="nesterov"),
    pytest.param({"momentum": 0.9, "dampening": 0.5, "maximize": True}, id="dampening"),
]


def embedding(package, options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(7, 3, sparse=True), torch.nn.Linear(3, 2)).double()
    return model, package.SGD(model.parameters(), lr=0.1, **options)


@pytest.mark.parametrize("options", SPARSE)
def test_sparse_gradients(options):
    runs = []
    for package in (onepass.optim, torch.optim):
        model, optimizer = embedding(package, options)
        for step in range(4):
            optimizer.zero_grad()
            rows = torch.randint(7, (5,), generator=torch.Generator().manual_seed(step))
            model(rows).square().sum().backward()
            optimizer.step()
        runs.append((model, optimizer))
    (model, optimizer), (other, theirs) = runs
    for mine, their in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, their)
        buffers = [o.state[p].get("momentum_buffer") for o, p in ((optimizer, mine), (theirs, their))]
        assert [b is not None and b.layout for b in buffers] == [
            bool(options) and b.layout for b in buffers[1:]
        ] * 2
    assert [one.why for one in optimizer.unfused_parameters()] == ["sparse gradient"]
    theirs.load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(copy.deepcopy(theirs.state_dict()))
    optimizer.step()


REFUSED = {
    "weight_decay": ({"weight_decay": 0.1}, lambda o: None, "must not come with weight_decay"),
    "dense-buffer": (
        {"momentum": 0.9, "nesterov": True},
        lambda o: o.state[o.param_groups[0]["params"][0]].update(momentum_buffer=torch.ones(7, 3).double()),
        "must not come with nesterov and a dense momentum_buffer",
    ),
    "telemetry": ({"telemetry": True}, lambda o: None, "must not come with telemetry"),
}


@pytest.mark.parametrize(("options", "spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_what_sparse_gradients_do_not_go_with(options, spoil, message):
    """torch raises in the middle of its step, or has no such option: here nothing has been changed."""
    model, optimizer = embedding(onepass.optim, options)
    spoil(optimizer)
    model(torch.tensor([1, 2])).square().sum().backward()
    before = snapshot(optimizer)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^sgd: params\[0\] {message}.*sparse gradient"):
            optimizer.step()
        assert snapshot(optimizer) == before


def test_a_dense_gradient_behind_a_sparse_buffer():
    model, optimizer = embedding(onepass.optim, {"momentum": 0.9})
    model(torch.tensor([1, 2])).square().sum().backward()
    optimizer.step()
    model[0].weight.grad = torch.ones(7, 3).double()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(
        TypeError, match=r"^sgd: momentum_buffer_list\[0\] must be a dense tensor with memory: got one"
    ):
        optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_adam_takes_no_sparse_gradients(rule):
    """As torch's."""
    param = torch.nn.Parameter(torch.ones(7, 3))
    param.grad = sparse((7, 3), 0)
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        getattr(torch.optim, rule)([param]).step()
    with pytest.raises(
        ValueError, match=rf"^{rule.lower()}: grads\[0\] must be dense, got layout torch.sparse_coo"
    ):
        getattr(onepass.optim, rule)([param]).step()
    assert torch.equal(param, torch.ones(7, 3))


@pytest.mark.parametrize("steps", [1, 3])
@each_rule
def test_differentiable(rule, options, steps):
    """Gradients of steps with respect to the first parameters and gradients: torch's own, also where it has none
    (a state of more than one step that is written where autograd kept it)."""
    found = []
    for package in (onepass.optim, torch.optim):
        torch.manual_seed(0)
        leaf = torch.randn(4, dtype=torch.double, requires_grad=True)
        grads = [torch.randn(4, dtype=torch.double, requires_grad=True) for _ in range(steps)]
        param = leaf.clone()
        optimizer = getattr(package, rule)([param], lr=0.1, differentiable=True, **options)
        for grad in grads:
            param.grad = grad
            optimizer.step()
        try:
            loss = param.square().sum()
            # A first momentum buffer is the gradient, detached.
            found.append([param.detach(), *torch.autograd.grad(loss, [leaf, *grads], materialize_grads=True)])
        except RuntimeError:
            found.append([param.detach()])
    assert all(map(torch.equal, *found))
    assert len(found[0]) == len(found[1]) >= (2 + steps if steps == 1 else 1)
    assert [one.why for one in getattr(onepass.optim, rule)([leaf], differentiable=True).unfused_parameters()] == [
        "differentiable"
    ]


def test_gradient_of_a_learning_rate():
    """What differentiable steps are for: with tensors as options."""
    found = []
    for package, rule in itertools.product((onepass.optim, torch.optim), ("SGD", "AdamW")):
        lr = torch.tensor(0.1, requires_grad=True)
        param = torch.ones(3, requires_grad=True).clone()
        optimizer = getattr(package, rule)([param], lr=lr, differentiable=True)
        param.grad = torch.arange(3.0)
        optimizer.step()
        found.append((rule, torch.autograd.grad(param.sum(), lr)[0].item()))
    assert found[:2] == found[2:]


def test_one_differentiable_group():
    """As in torch gradients flow only if the optimizer itself was made so; the other group stays fused."""
    params = [torch.ones(3, requires_grad=True) for _ in "ab"]
    optimizer = onepass.optim.SGD([{"params": params[:1], "differentiable": True}, {"params": params[1:]}], lr=0.5)
    for param in params:
        param.grad = torch.ones(3)
    optimizer.step()
    assert [one.group for one in optimizer.unfused_parameters()] == [0]
    for param in params:
        assert torch.equal(param, torch.full((3,), 0.5))
    optimizer.param_groups[0]["differentiable"] = False
    optimizer.step()
    assert not optimizer.unfused_parameters()
    assert torch.equal(params[0], params[1])


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
    "shape": (
        lambda v: v[:2],
        ValueError,
        r"of its shape \(2, 3\), got \(2,\)|of its shape \(2, 3\), got \(2, 3\)",
    ),
    "real": (lambda v: v.real.clone(), TypeError, r"of its dtype torch.complex64, got torch.float32"),
    "number": (lambda v: 1.0, ValueError, r"of its shape \(2, 3\), got float"),
}


@pytest.mark.parametrize("spoil", ["real", "number"])
@pytest.mark.parametrize(
    ("rule", "name"), [("SGD", "momentum_buffer"), ("Adam", "exp_avg"), ("AdamW", "exp_avg_sq")]
)
def test_spoilt_states_of_complex_parameters(rule, name, spoil):
    make_value, error, message = SPOILT[spoil]
    params, optimizer = make(onepass.optim, rule, {"momentum": 0.9} if rule == "SGD" else {})
    train(params, optimizer, range(2))
    optimizer.state[params[1]][name] = make_value(optimizer.state[params[1]][name])
    give(params, 2)
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
    params, optimizer = make(onepass.optim, rule, {"momentum": 0.9} if rule == "SGD" else {})
    params = [params[1], *params]
    train(params[1:], optimizer, range(2))
    give(params[1:], 2)
    fault(params[0], optimizer)
    before = snapshot(optimizer)
    for _ in range(2):
        with pytest.raises(error, match=rf"(?i)^{rule}: .*{message}"):
            optimizer.step()
        assert snapshot(optimizer) == before


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_capturable_needs_a_gpu(rule):
    params, optimizer = make(onepass.optim, rule, {"capturable": True})
    give(params, 0)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"params\[1\] must be on CUDA with capturable=True, got cpu"):
        optimizer.step()
    assert snapshot(optimizer) == before
