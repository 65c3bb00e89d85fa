"""Bad input: an error that says what is wrong, nothing changed, and the right step once it is mended."""

from __future__ import annotations

import copy

import pytest
import torch

import onepass
from optim_setup import RULES, bits, give_gradients, make, put, snapshot, torchs, train

NAN, INF = float("nan"), float("inf")


def put_grad(param, grad):
    old, param.grad_dtype, param.grad = param.grad, None, grad
    return lambda: setattr(param, "grad", old)


def grad(make_value):
    return lambda params, _: put_grad(params[2], make_value(params[2]))


def cut_grad(params, _):
    old = params[2].grad.data
    params[2].grad.data = old[:3]
    return lambda: setattr(params[2].grad, "data", old)


def extra(*values):
    """Puts these as parameters behind that of the second group."""

    def fault(params, optimizer):
        group = optimizer.param_groups[1]["params"]
        for value in values:
            value = value(params[2].detach()) if callable(value) else value.to(params[2].device)
            group.append(torch.nn.Parameter(value, requires_grad=False))
            group[-1].grad = torch.zeros_like(value)
        return lambda: group.__delitem__(slice(1, None))

    return fault


def freed(tensor):
    """Frees the memory as FSDP does; brings it back with its values when mended."""
    storage, kept = tensor.untyped_storage(), tensor.detach().clone()
    storage.resize_(0)
    return lambda: (storage.resize_(kept.untyped_storage().nbytes()), tensor.detach().copy_(kept))


def state(name, make_value):
    """Replaces a state of the last parameter, for SGD always its buffer, by what is made from it."""

    def fault(params, optimizer):
        own = optimizer.state[params[2]]
        key = name if name in own else "momentum_buffer"
        return put(own, key, make_value(own[key], params[2]))

    return fault


def same_state(i, name, j, other):
    return lambda params, o: put(o.state[params[i]], name, o.state[params[j]][other])


DTYPES = "torch.float32, torch.float64, torch.bfloat16 or torch.float16"
FREED = r"\[0\] must have memory, got 16"
TWICE = r"params\[1\] and \S+params\[2\] must not share memory"
STEP = r"state_steps\[0\] must be "
FLAT = torch.zeros(16)
# Name: the fault, the error and what it says; LIST is the list of the states.
FAULTS = {
    "integer-param": (extra(FLAT.int()), TypeError, rf"params\[1\] must be {DTYPES}, got torch.int32"),
    "meta-param": (extra(lambda _: FLAT.to("meta")), TypeError, r"params\[1\] must be a dense tensor .*meta"),
    "expanded-param": (extra(FLAT[:1].expand(4)), ValueError, r"params\[1\] must .*\(0,\) for shape \(4,\)"),
    "window-param": (extra(FLAT.as_strided((4, 3), (2, 1))), ValueError, r"params\[1\] must .*strides \(2, 1\)"),
    "overlapping-params": (
        extra(lambda p: p[1:]),
        ValueError,
        r"params\[0\] and \S+params\[1\] must not share memory",
    ),
    "same-view-twice": (extra(FLAT[::2], FLAT[::2]), ValueError, TWICE),
    "view-and-its-whole": (extra(FLAT[::2], FLAT), ValueError, TWICE),
    "no-param": (lambda _, o: put(o.param_groups[1]["params"], 0, None), AttributeError, "NoneType"),
    "freed-param": (lambda params, _: freed(params[2]), ValueError, "params" + FREED),
    "freed-grad": (lambda params, _: freed(params[2].grad), ValueError, "grads" + FREED),
    "complex-grad": (grad(lambda p: torch.ones_like(p) * 1j), TypeError, r"params\[0\] must be real, got .*64"),
    "integer-grad": (grad(lambda p: torch.ones_like(p).int()), TypeError, rf"grads\[0\] must be {DTYPES}"),
    "cut-grad": (cut_grad, ValueError, r"grads\[0\] must have shape \(4, 4\) like its parameter, got \(3, 4\)"),
    "grad-is-param": (grad(lambda p: p.detach()), ValueError, r"(params|grads)\[0\] and .*\[0\] must not share"),
}
STATE_FAULTS = {
    "shape": (state("exp_avg", lambda v, _: v[:3]), ValueError, r"LIST\[0\] must have shape \(4, 4\) .* \(3, 4\)"),
    "wider": (state("exp_avg", lambda v, _: v.double()), TypeError, r"\[0\] must be torch.float32 like .*float64"),
    "integer": (state("exp_avg", lambda v, _: v.int()), TypeError, rf"LIST\[0\] must be {DTYPES}, got .*int32"),
    "meta": (state("exp_avg", lambda v, _: v.to("meta")), TypeError, r"LIST\[0\] must be .* memory: .*meta"),
    "number": (state("exp_avg", lambda v, _: 1.0), TypeError, r"LIST\[0\] must be a torch.Tensor"),
    "is-param": (state("exp_avg", lambda v, param: param.detach()), ValueError, "must not share memory"),
    "is-grad": (state("exp_avg", lambda v, param: param.grad), ValueError, "must not share memory"),
    "freed": (lambda params, o: freed([*o.state[params[2]].values()][-1]), ValueError, r"[a-z_]+" + FREED),
}
SPARSE_FAULTS = {  # torch's SGD takes them: test_optim_unfused.py
    "sparse-grad": (grad(lambda p: torch.ones_like(p).to_sparse()), ValueError, r"grads\[0\] must be dense, got"),
}
ADAM_FAULTS = {
    "is-other": (
        same_state(2, "exp_avg", 2, "exp_avg_sq"),
        ValueError,
        r"exp_avg\w*\[0\] and \S+exp_avg\w*\[0\] must",
    ),
    "step-of-two": (
        state("step", lambda v, _: torch.ones(2)),
        ValueError,
        STEP + "one .*, got 2 of torch.float32",
    ),
    "step-integer": (state("step", lambda v, _: v.long()), TypeError, STEP + ".*, got torch.int64"),
    "step-half": (state("step", lambda v, _: v.half()), ValueError, STEP + "one .*, got 1 of torch.float16"),
    "step-number": (state("step", lambda v, _: 3.0), TypeError, STEP + "a torch.Tensor .*, got float"),
    "step-nan": (state("step", lambda v, _: v * NAN), ValueError, STEP + "finite and at least 0, got -?nan"),
    "step-negative": (state("step", lambda v, _: -v), ValueError, STEP + "finite and at least 0, got -3"),
    "step-shared": (
        same_state(0, "step", 2, "step"),
        ValueError,
        r"groups\[0\].state_steps\[0\] and param_groups\[1\].state_steps\[0\] must not share",
    ),
}
AMSGRAD = r"params\[0\] must have the state max_exp_avg_sq with amsgrad=True, got"
LATE = {"amsgrad": (lambda _, o: put(o.param_groups[1], "amsgrad", True), ValueError, AMSGRAD)}
LATER = (3,)
TABLES = ((FAULTS, RULES, (0, *LATER)), (STATE_FAULTS, RULES[1:], LATER), (ADAM_FAULTS, RULES[2:4], LATER))
CASES = [
    pytest.param(*rule.values, *table[name], warm, id=f"{rule.id}-{'later-' * (warm is LATER)}{name}")
    for table, rules, warm in (*TABLES, (LATE, RULES[3:4], LATER), (SPARSE_FAULTS, RULES[2:], (0, *LATER)))
    for rule in rules
    for name in table
]


@pytest.mark.parametrize(("rule", "options", "fault", "error", "message", "warm"), CASES)
def test_tensors(rule, options, fault, error, message, warm, backend):
    """Refused, twice (the second time from memory); then mended, and stepped as a twin that never saw it."""
    message = message.replace("LIST", "momentum_buffer_list" if rule == "SGD" else "exp_avgs")
    for steps in warm:
        (params, optimizer), (twins, other) = (make(onepass.optim, rule, options, backend.device) for _ in "ab")
        train(params, optimizer, range(steps))
        train(twins, other, range(steps))
        give_gradients(params, 77)
        mend = fault(params, optimizer)
        before = snapshot(optimizer)
        for _ in range(2):
            with pytest.raises(error, match=f"(?s){message}") as caught:
                optimizer.step()
            assert snapshot(optimizer) == before
            assert message == "NoneType" or str(caught.value).startswith(f"{rule.lower()}: ")
        mend()
        optimizer.step()
        train(twins, other, [77])
        (_, mine, _, *rest), (_, theirs, _, *others) = snapshot(optimizer), snapshot(other)
        assert (mine, rest) == (theirs, others)


def test_the_index_is_that_of_the_group(backend):
    """A parameter without a gradient stands before it. Messages name the group if there are several."""
    params, optimizer = make(onepass.optim, "SGD", {}, backend.device)
    params[1].grad = torch.ones_like(params[1])
    params[1].grad.data = torch.ones(3, device=backend.device)
    with pytest.raises(ValueError, match=r"^sgd: param_groups\[0\].grads\[1\] must have shape \(2, 3\)"):
        optimizer.step()
    alone = onepass.optim.SGD(params[:2], lr=0.1)
    with pytest.raises(ValueError, match=r"^sgd: grads\[1\] must have shape \(2, 3\)"):
        alone.step()


NUMBERS = [
    *[("SGD", name, bad) for name in ("lr", "momentum", "weight_decay") for bad in (-1.0, NAN, INF)],
    *[("SGD", "dampening", bad) for bad in (NAN, INF)],
    *[("AdamW", name, bad) for name in ("lr", "eps", "weight_decay") for bad in (-1.0, NAN, INF)],
    *[("Adam", "betas", bad) for bad in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN), (0.9, INF))],
    *[("Adam", "lr", torch.tensor(bad)) for bad in (-1.0, (0.1, 0.1))],
    ("Adam", "betas", (0.9, torch.tensor(1.5))),
    *[("Lion", name, bad) for name in ("lr", "weight_decay") for bad in (-1.0, NAN, INF)],
    *[("Lion", "betas", bad) for bad in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN))],
]
NO_NUMBERS = ("0.1", "a", None, [0.1], 1j)
KINDS = [(rule, name, bad) for rule, name in (("SGD", "lr"), ("AdamW", "eps")) for bad in NO_NUMBERS]
KINDS += [(rule, "betas", bad) for rule in ("Adam", "Lion") for bad in (0.9, None, {0.9, 0.99}, (0.9, None))]
CONTRADICTIONS = [
    ("SGD", "nesterov", True),
    ("Adam", "betas", (0.9,)),
    ("Adam", "betas", (0.9,) * 3),
    ("Lion", "betas", (0.9,)),
]


def raised(call):
    try:
        call()
    except Exception as error:
        return type(error)
    return None


@pytest.mark.parametrize(("rule", "name", "bad"), NUMBERS + KINDS + CONTRADICTIONS, ids=str)
def test_options_when_they_are_given(rule, name, bad):
    """At construction, in a new group and in a loaded one; with torch's type unless torch takes it or stumbles."""
    error = TypeError if (rule, name, bad) in KINDS else ValueError
    params, optimizer = make(onepass.optim, rule, {})
    train(params, optimizer, range(2))
    before, saved = snapshot(optimizer), copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][1][name] = bad
    new = {"params": [torch.nn.Parameter(torch.ones(1))], name: bad}
    ways = [lambda: make(onepass.optim, rule, {name: bad}), lambda: optimizer.add_param_group(new)]
    ways.append(lambda: optimizer.load_state_dict(saved))
    assert raised(lambda: make(torchs, rule, {name: bad})) in (None, error, IndexError, RuntimeError)
    for way in ways:
        with pytest.raises(error, match=rf"^{rule}: {name}(\[\d\])? must "):
            way()
        assert snapshot(optimizer) == before


@pytest.mark.parametrize(("rule", "name", "bad"), NUMBERS, ids=str)
def test_numbers_set_later(rule, name, bad, backend):
    """The step notices numbers that a schedule gone wrong has set."""
    (params, optimizer), (twins, other) = (make(onepass.optim, rule, {}, backend.device) for _ in "ab")
    train(params, optimizer, range(2))
    train(twins, other, range(3))
    give_gradients(params, 2)
    mend = put(optimizer.param_groups[1], name, bad)
    before = snapshot(optimizer)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^{rule.lower()}: {name}(\[\d\])? must "):
            optimizer.step()
        assert snapshot(optimizer) == before
    mend()
    optimizer.step()
    assert [bits(param) for param in params] == [bits(twin) for twin in twins]


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_nothing_to_step(rule, options, backend):
    for package in (torchs, onepass.optim):
        with pytest.raises(ValueError, match="empty parameter list"):
            getattr(package, rule)([], **options)
        params, optimizer = make(package, rule, options, backend.device)
        with pytest.raises(ValueError, match="more than one parameter group"):
            optimizer.add_param_group({"params": params[:1]})
    before = snapshot(optimizer)
    optimizer.step()
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    optimizer.param_groups.pop()
    give_gradients(params, 0)
    optimizer.param_groups[0]["params"].clear()
    optimizer.step()
    assert not any(optimizer.state.values())
    assert [bits(param) for param in params] == before[1]


@pytest.mark.parametrize("option", ["lr", "params", "differentiable"])
@pytest.mark.parametrize("rule", ["SGD", "AdamW", "Lion"])
def test_a_group_that_has_lost_an_option(rule, option):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = getattr(onepass.optim, rule)([param], lr=0.1)
    optimizer.step()
    before = param.detach().clone()
    del optimizer.param_groups[0][option]
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^{rule}: param_groups\[0\] must hold '{option}', got \["):
            optimizer.step()
    assert torch.equal(param, before)


@pytest.mark.parametrize(
    ("lr", "got"),
    [(torch.tensor(0.1, device="meta"), "a meta tensor"), (torch.tensor(1j), "a tensor of torch.complex64")],
)
def test_a_rate_without_a_value(lr, got):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = onepass.optim.AdamW([param])
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(TypeError, match=f"^adamw: lr must be a number or a one-element tensor, got {got}"):
        optimizer.step()
    assert torch.equal(param, torch.ones(3))
    assert not optimizer.state


def test_flags_that_are_neither_true_nor_false():
    param = torch.nn.Parameter(torch.ones(3))
    for flag in ("amsgrad", "capturable", "differentiable", "foreach", "fused", "maximize"):
        with pytest.raises(TypeError, match=rf"^Adam: {flag} must be True or False, got tensor\(\[1\., 1\.\]\)"):
            onepass.optim.Adam([param], **{flag: torch.ones(2)})
