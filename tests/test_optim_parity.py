"""The optimizers against torch's plain loop and the float64 reference: options, dtypes, lengths, lists."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch

import onepass
from optim_setup import torchs
from reference.optim import reference_of
from tolerance import FACTOR, FLOAT64_STEPS, assert_parity, ulp

RULES = ("SGD", "Adam", "AdamW")
PLAIN = {"foreach": False, "fused": False}
STATES = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = ((), (7,), (61,), (0, 3), (5, 33), (2, 3, 4, 5), (2, 1, 3, 1, 2, 1, 2))
OPTIONS = [
    pytest.param("SGD", {"lr": 0.02}, id="sgd"),
    pytest.param("SGD", {"lr": 0.02, "weight_decay": 0.1, "maximize": True}, id="sgd-decay-maximize"),
    pytest.param("SGD", {"lr": 0.02, "momentum": 0.8, "dampening": 0.3}, id="sgd-dampening"),
    pytest.param("SGD", {"lr": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}, id="sgd-nesterov"),
    pytest.param("Adam", {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.1}, id="adam"),
    pytest.param("Adam", {"lr": 0.02, "amsgrad": True, "maximize": True, "weight_decay": 0.1}, id="adam-amsgrad"),
    pytest.param("AdamW", {"lr": 0.02, "betas": (0.7, 0.95), "weight_decay": 0.1}, id="adamw"),
    pytest.param("AdamW", {"lr": 0.02, "amsgrad": True, "maximize": True, "eps": 1e-3}, id="adamw-amsgrad"),
    pytest.param("Lion", {"lr": 0.02, "weight_decay": 0.1}, id="lion"),
    pytest.param("Lion", {"lr": 0.02, "betas": (0.7, 0.95), "maximize": True}, id="lion-betas"),
]

# Runs apart: torch's test modules change global flags of torch when they are imported.
OPTIM_DB = """
import io, sys, torch
from torch.testing._internal.common_optimizers import optim_db
found = [
    (info.optim_cls.__name__, case.desc, case.kwargs)
    for info in optim_db if info.optim_cls.__name__ in ("SGD", "Adam", "AdamW")
    for case in info.optim_inputs_func(device="cpu")
]
buffer = io.BytesIO()
torch.save(found, buffer)
sys.stdout.buffer.write(buffer.getvalue())
"""


@pytest.fixture(scope="module")
def optim_db() -> list[tuple[str, str, dict[str, object]]]:
    """The (rule, description, options) with which torch tests its own optimizers."""
    pytest.importorskip("expecttest", reason="torch's own test cases need the package expecttest")
    done = subprocess.run([sys.executable, "-c", OPTIM_DB], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return torch.load(io.BytesIO(done.stdout), weights_only=True)


def optimizer_of(package, rule, values, dtype, device, options):
    params = [torch.nn.Parameter(value.to(device=device, dtype=dtype, copy=True)) for value in values]
    return params, getattr(package, rule)(params, **options)


def follow(judge, judged, mine, ours):
    """Gives a judge the parameters and states that ours had stored; each counts its steps itself."""
    with torch.no_grad():
        for theirs, own in zip(judged, mine, strict=True):
            theirs.copy_(own)
            for name in STATES:
                if name in judge.state[theirs]:
                    judge.state[theirs][name].copy_(ours.state[own][name])


def give_gradients(params, grads):
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.to(device=param.device, dtype=param.dtype, copy=True)


def joined(tensors):
    """One tensor of all: in a tensor of one element the parity rule would compare luck with luck."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def as_float(value):
    """Options as the exact judge takes them: numbers, so that it does not compute in their dtype."""
    if isinstance(value, tuple):
        return tuple(as_float(entry) for entry in value)
    return float(value) if isinstance(value, torch.Tensor) else value


def check_against_loop(rule, options, backend, steps):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    mine, ours = optimizer_of(onepass.optim, rule, start, torch.float32, backend.device, options)
    theirs, loop = optimizer_of(torchs, rule, start, torch.float32, backend.device, {**options, **PLAIN})
    exact_options = {name: as_float(value) for name, value in options.items()} | PLAIN
    wide, exact = optimizer_of(torchs, rule, start, torch.float64, "cpu", exact_options)
    for step in range(steps):
        grads = [torch.randn(shape, generator=generator) for shape in SHAPES]
        # What is compared is the error of one step from the same stored values, not how runs drift apart.
        follow(loop, theirs, mine, ours)
        follow(exact, wide, mine, ours)
        for params, optimizer in ((mine, ours), (theirs, loop), (wide, exact)):
            give_gradients(params, grads)
            optimizer.step()
        assert_parity(joined(mine), joined(theirs), joined(wide), f"{rule} {options} params, step {step}")
        for name in STATES:
            triple = [
                [optimizer.state[p][name] for p in params if optimizer.state[p].get(name) is not None]
                for params, optimizer in ((mine, ours), (theirs, loop), (wide, exact))
            ]
            assert len(triple[0]) == len(triple[1])
            if triple[0]:
                assert_parity(*map(joined, triple), f"{rule} {options} {name}, step {step}")
        for own, other in zip(mine, theirs, strict=True):
            assert ours.state[own].keys() == loop.state[other].keys()
            assert ours.state[own].get("step") == loop.state[other].get("step")


@pytest.mark.parametrize("rule", RULES)
def test_torchs_own_test_cases(rule, optim_db, backend):
    cases = [options for name, _, options in optim_db if name == rule]
    assert len(cases) >= 5
    for options in cases:
        if options.get("capturable") and backend.name == "cpu":
            params, ours = optimizer_of(onepass.optim, rule, [torch.ones(1)], torch.float32, "cpu", options)
            give_gradients(params, [torch.ones(1)])
            with pytest.raises(ValueError, match="must be on CUDA with capturable=True"):
                ours.step()
            continue
        kept = {name: value for name, value in options.items() if name not in (*PLAIN, "capturable")}
        check_against_loop(rule, kept, backend, steps=20)


def extended(states):
    """States of an optimizer as the reference takes them."""
    return {n: v.detach().cpu().double().numpy().astype(np.longdouble) for n, v in states.items() if n in STATES}


def from_numpy(value):
    return torch.from_numpy(np.asarray(value, dtype=np.float64))


def assert_parity_of(ours, torchs, exact, what):
    """Does what `assert_parity` does, in extended precision for float64, where torch would have no error left."""
    if ours.dtype != torch.float64:
        assert_parity(ours, torchs, from_numpy(exact), what)
        return
    assert ours.dtype == torchs.dtype
    mine, allowed = (np.abs(value.detach().cpu().numpy() - exact) for value in (ours, torchs))
    limit = FACTOR * allowed.max() + ulp(from_numpy(exact), ours.dtype).numpy()
    assert (mine <= limit).all(), f"{what}: error {mine.max():.3g}, torch's {allowed.max():.3g}"


@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_the_reference_agrees_with_torch_in_float64(rule, options):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(301, generator=generator, dtype=torch.float64)
    (param,), loop = optimizer_of(torchs, rule, [start], torch.float64, "cpu", {**options, **PLAIN})
    reference, value = reference_of(rule, options, np.float64), start.numpy()
    for _ in range(20):
        grad = torch.randn(301, generator=generator, dtype=torch.float64)
        give_gradients([param], [grad])
        loop.step()
        value = reference.step(value, grad.numpy())
        # Twenty steps of a dozen roundings each, none of which cancels by more than a few digits.
        torch.testing.assert_close(param.detach(), from_numpy(value), **FLOAT64_STEPS)
        for name, state in reference.states().items():
            torch.testing.assert_close(loop.state[param][name], from_numpy(state), **FLOAT64_STEPS)


@pytest.mark.parametrize("grad_dtype", DTYPES, ids=lambda dtype: f"grad-{str(dtype)[6:]}")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_dtypes_and_options(rule, options, dtype, grad_dtype, backend):
    if dtype == torch.float64 and np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("judging float64 needs a C long double that is wider")
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(143, generator=generator)
    (own,), ours = optimizer_of(onepass.optim, rule, [start], dtype, backend.device, options)
    (other,), loop = optimizer_of(torchs, rule, [start], dtype, backend.device, {**options, **PLAIN})
    reference = reference_of(rule, options, np.longdouble)
    for step in range(8):
        # Three bits: every dtype holds them, so that torch's loop gets the same gradient in its own dtype.
        grad = torch.randint(-7, 8, (143,), generator=generator) / 4
        follow(loop, [other], [own], ours)
        reference.set_states(extended(ours.state[own]))
        before = own.detach().cpu().double().numpy().astype(np.longdouble)
        own.grad, other.grad = None, grad.to(device=other.device, dtype=dtype)
        if dtype == grad_dtype:
            own.grad = other.grad.clone()
        else:
            own.grad_dtype = None
            own.grad = grad.to(device=own.device, dtype=grad_dtype)
        ours.step()
        loop.step()
        exact = reference.step(before, grad.double().numpy().astype(np.longdouble))
        assert_parity_of(own, other, exact, f"param, step {step}")
        for name, state in reference.states().items():
            assert_parity_of(ours.state[own][name], loop.state[other][name], state, f"{name}, step {step}")


LENGTHS = range(
    130
)  # a vector of 64 bytes holds 32 elements of two bytes: from none to two unrolled vectors and a tail
SENTINEL = -77.0
# Where the first element of parameters, gradients and states lies, in elements from an aligned place.
OFFSETS = [
    pytest.param((0, 0, 0), id="aligned"),
    pytest.param((1, 1, 1), id="all-off-by-1"),
    pytest.param((0, 1, 3), id="grads-and-states-off"),
    pytest.param((5, 0, 2), id="params-and-states-off"),
]
STORED = [
    pytest.param((torch.float32, torch.float32, torch.float32), id="float32"),
    pytest.param((torch.float64, torch.float64, torch.float64), id="float64"),
    pytest.param((torch.bfloat16, torch.bfloat16, torch.bfloat16), id="bfloat16"),
    pytest.param((torch.float16, torch.float16, torch.float16), id="float16"),
    pytest.param((torch.bfloat16, torch.float32, torch.float32), id="bfloat16-grads-states-float32"),
    pytest.param((torch.float32, torch.bfloat16, torch.float32), id="float32-grads-bfloat16"),
]
STATEFUL = [
    pytest.param("SGD", {"lr": 0.1}, (), id="sgd"),
    pytest.param("SGD", {"lr": 0.1, "momentum": 0.9}, STATES[:1], id="sgd-momentum"),
    pytest.param("AdamW", {"lr": 0.1}, STATES[1:3], id="adamw"),
    pytest.param("Adam", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1}, STATES[1:], id="adam-amsgrad"),
    pytest.param("Lion", {"lr": 0.1, "weight_decay": 0.1}, STATES[1:2], id="lion"),
]


def in_one_buffer(values, dtype, offset, device):
    """All values behind each other with sentinels around each; returns the buffer and the views."""
    gap = 64  # elements, so that each value lies `offset` past a whole vector of any dtype
    starts, end = [], gap
    for value in values:
        starts.append(end + offset)
        end = (end + offset + len(value) + gap) // gap * gap + gap
    buffer = torch.full((end,), SENTINEL, dtype=dtype, device=device)
    views = [buffer[start : start + len(value)] for start, value in zip(starts, values, strict=True)]
    for view, value in zip(views, values, strict=True):
        view.copy_(value)
    return buffer, views


def set_states(optimizer, param, states):
    if states:
        optimizer.state[param].update(states)
        if "exp_avg_sq" in states:
            optimizer.state[param]["step"] = torch.tensor(3.0)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("rule", "options", "names"), STATEFUL)
def test_every_length_between_sentinels(rule, options, names, stored, backend):
    generator = torch.Generator().manual_seed(3)
    lists = [[torch.rand(n, generator=generator) for n in LENGTHS] for _ in range(2 + len(names))]
    dtypes = [*stored[:2], *[stored[2]] * len(names)]
    expected = [[] for _ in lists]
    for row in zip(*lists, strict=True):
        alone = [v.to(device=backend.device, dtype=d, copy=True) for v, d in zip(row, dtypes, strict=True)]
        step_in_place(rule, options, names, [alone])
        for kept, tensor in zip(expected, alone, strict=True):
            kept.append(tensor)
    for param in OFFSETS:
        offsets = (*param.values[0][:2], *[param.values[0][2]] * len(names))
        place = [in_one_buffer(*entry, backend.device) for entry in zip(lists, dtypes, offsets, strict=True)]
        wanted = [
            in_one_buffer(*entry, backend.device)[0] for entry in zip(expected, dtypes, offsets, strict=True)
        ]
        step_in_place(rule, options, names, list(zip(*[views for _, views in place], strict=True)))
        for (buffer, _), right, what in zip(place, wanted, ("params", "grads", *names), strict=True):
            torch.testing.assert_close(buffer, right, rtol=0, atol=0, msg=lambda m, w=what: f"{w}: {m}")


def step_in_place(rule, options, names, rows):
    """One step over rows of (param, grad, states...), each of which is updated where it lies."""
    params = [torch.nn.Parameter(row[0]) for row in rows]
    optimizer = getattr(onepass.optim, rule)(params, **options)
    for param, (_, grad, *states) in zip(params, rows, strict=True):
        if grad.dtype != param.dtype:
            param.grad_dtype = None
        param.grad = grad
        set_states(optimizer, param, dict(zip(names, states, strict=True)))
    optimizer.step()


@pytest.mark.parametrize("sizes", [[0], [4, 0], [0, 4], [0, 0, 5, 0], [3, 0, 2], "1000 tiny"], ids=str)
@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_tiny_and_empty_tensors(rule, options, sizes, backend):
    generator = torch.Generator().manual_seed(4)
    if sizes == "1000 tiny":
        sizes = [*torch.randint(0, 5, (999,), generator=generator).tolist(), 0]
    start = [torch.randn(n, generator=generator) for n in sizes]
    mine, ours = optimizer_of(onepass.optim, rule, start, torch.float32, backend.device, options)
    theirs, loop = optimizer_of(torchs, rule, start, torch.float32, backend.device, {**options, **PLAIN})
    wide, exact = optimizer_of(torchs, rule, start, torch.float64, "cpu", {**options, **PLAIN})
    for step in range(3):
        grads = [torch.randn(n, generator=generator) for n in sizes]
        follow(loop, theirs, mine, ours)
        follow(exact, wide, mine, ours)
        for params, optimizer in ((mine, ours), (theirs, loop), (wide, exact)):
            give_gradients(params, grads)
            optimizer.step()
        assert_parity(joined(mine), joined(theirs), joined(wide), f"params, step {step}")
    for own, other in zip(mine, theirs, strict=True):
        assert ours.state[own].get("step") == loop.state[other].get("step")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_one_call_has_the_bits_of_one_call_each(rule, options, dtype, backend):
    """465 groups, each with its own learning rate: a fine-tuning run's groups, one a layer and kind."""
    generator = torch.Generator().manual_seed(5)
    values = [torch.randn(1 + i % 37, generator=generator) for i in range(465)]
    params = [torch.nn.Parameter(value.to(device=backend.device, dtype=dtype, copy=True)) for value in values]
    twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
    rates = [0.001 * (1 + i) for i in range(len(params))]
    kind = getattr(onepass.optim, rule)
    rest = {name: value for name, value in options.items() if name != "lr"}
    groups = [{"params": [param], "lr": rate} for param, rate in zip(params, rates, strict=True)]
    together = kind(groups, **rest)
    alone = [kind([twin], lr=rate, **rest) for twin, rate in zip(twins, rates, strict=True)]
    for _ in range(3):
        give_gradients(params, [torch.randn(value.shape, generator=generator) for value in values])
        give_gradients(twins, [param.grad for param in params])
        together.step()
        for optimizer in alone:
            optimizer.step()
        for param, twin, optimizer in zip(params, twins, alone, strict=True):
            assert torch.equal(param, twin)
            for name, value in optimizer.state[twin].items():
                assert value is None or torch.equal(together.state[param][name], value), name
    assert not torch.equal(params[-1], values[-1].to(params[-1]))


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=lambda dtype: str(dtype)[6:])
def test_every_value_of_16_bits(dtype, backend):
    """Subnormal, infinite and nan ones too: 0 - 1 * g must be -g, as gradient and as parameter."""
    value = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).to(backend.device)
    start = torch.zeros_like(value)
    torch.testing.assert_close(one_sgd_step(start, value), -value, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(one_sgd_step(value, start), value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=lambda dtype: str(dtype)[6:])
def test_rounding_to_16_bits(dtype, backend):
    """To the nearest, ties to even, as torch's casts: the middle between all neighbours, and both sides of it."""
    short = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).float().to(backend.device)
    middle = short / 2 + short.roll(-1) / 2
    for value in (middle, *(middle.nextafter(torch.full_like(middle, side)) for side in (-torch.inf, torch.inf))):
        got = one_sgd_step(torch.zeros_like(value, dtype=dtype), value)
        torch.testing.assert_close(got, (-value).to(dtype), rtol=0, atol=0, equal_nan=True)


def one_sgd_step(start, grad):
    param = torch.nn.Parameter(start.clone())
    param.grad_dtype = None
    param.grad = grad
    onepass.optim.SGD([param], lr=1.0).step()
    return param.detach()


@pytest.mark.large
def test_more_than_2_to_the_31_elements(backend):
    if backend.name == "simt":
        pytest.skip("the CUDA kernels on the host would take hours for 2**31 elements")
    count, border = 2**31 + 2**20 + 3, 2**31
    param = torch.nn.Parameter(torch.zeros(count, dtype=torch.bfloat16, device=backend.device))
    param.grad = torch.ones(count, dtype=torch.bfloat16, device=backend.device)
    marked = [0, 2**30, border - 2, border - 1, border, border + 1, 2**31 + 2**20, count - 2, count - 1]
    for i, place in enumerate(marked):
        param.grad[place] = 2.0 + i
    onepass.optim.SGD([param], lr=0.5).step()
    assert [param[place].item() for place in marked] == [-0.5 * (2.0 + i) for i in range(len(marked))]
    moved = sum(int((piece == -0.5).sum()) for piece in param.detach().split(2**28))
    assert moved == count - len(marked)
