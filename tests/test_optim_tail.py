"""The tail of a step: unscaling, clipping, skipping, moving averages and zeroed gradients in the update's pass."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import onepass.optim
from conftest import Backend
from onepass.optim._step import tailed as tailed_step
from optim_setup import states, torchs
from tail_setup import each_dtype, each_rule, flat, on_device, params_of, same_states, set_grads, tailed
from tolerance import AVERAGES, CLIPPED_RTOL, FLOAT32_STEPS, LONG_NORM_FLOAT64_RTOL, assert_parity


# float64 is the judge.
@each_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_unscale_and_clip_are_as_good_as_torchs_three_passes(backend, rule, dtype, max_norm):
    """Each step from the same values: ours, torch's passes and its loop, the same in float64."""
    scale = 8.0
    ours, theirs, exact = params_of(backend, dtype), params_of(backend, dtype), params_of(backend, dtype)
    exact = [torch.nn.Parameter(p.detach().double().cpu()) for p in exact]
    mine = tailed(rule, ours, max_grad_norm=max_norm)
    mine.grad_scale = scale
    plain = {"foreach": False, "fused": False}
    loops = [tailed(rule, p, torchs, **plain) for p in (theirs, exact)]
    for step in range(4):
        for params in (ours, theirs, exact):
            set_grads(params, step, scale, like=dtype)
        for params, loop in ((theirs, loops[0]), (exact, loops[1])):
            for p in params:
                p.grad.div_(scale)
            # Half precision gradients lose bits in torch's passes; float32 ones are what ours must match.
            torch.nn.utils.clip_grad_norm_([p for p in params if p.numel()], max_norm, foreach=False)
            loop.step()
        mine.step()
        assert_parity(flat(ours).to(dtype), flat(theirs).to(dtype), flat(exact), f"step {step}")
        with torch.no_grad():
            for own, *others in zip(ours, theirs, exact, strict=True):
                for other, loop in zip(others, loops, strict=True):
                    other.copy_(own)
                    for name, value in loop.state[other].items():
                        if name != "step" and value is not None:
                            value.copy_(mine.state[own][name])


@each_rule
@each_dtype
def test_average_and_zeroed_gradients(backend, rule, dtype):
    """The update is the plain one, bit for bit; the average follows what is stored; gradients stay in place."""
    ours, plain = params_of(backend, dtype), params_of(backend, dtype)
    mine, other = tailed(rule, ours, ema_decay=0.9), tailed(rule, plain)
    reference = [p.detach().double().clone() for p in plain]
    for step in range(3):
        set_grads(ours, step)
        set_grads(plain, step)
        memory = [p.grad.data_ptr() for p in ours]
        mine.step(zero_grad=True)
        other.step()
        assert [p.grad.data_ptr() for p in ours] == memory
        assert all((p.grad == 0).all() for p in ours)
        assert torch.equal(flat(ours), flat(plain))
        reference = [0.9 * e + 0.1 * p.detach().double() for e, p in zip(reference, plain, strict=True)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for param, average in zip(ours, reference, strict=True):
        ema = mine.state[param]["ema"]
        assert ema.dtype == wide
        error = (ema.double() - average).abs()
        assert (error <= 4 * torch.finfo(wide).eps * average.abs().clamp(min=1)).all()


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("first", [True, False], ids=["first-step", "later"])
@each_rule
def test_a_skipped_step_changes_nothing(backend, rule, first, bad):
    params = params_of(backend)
    tail = {"skip_nonfinite": True, "max_grad_norm": 1.0, "ema_decay": 0.9}
    optimizer = tailed(rule, params, **tail, **on_device(backend, rule))
    if not first:
        set_grads(params, 0)
        optimizer.step()
    before, kept = flat(params), states(params, optimizer)
    set_grads(params, 1)
    params[4].grad[5, 3] = bad
    params[5].grad[19999] = bad
    optimizer.step(zero_grad=True)
    assert torch.equal(flat(params), before)
    assert all((p.grad == 0).all() for p in params)
    assert optimizer.skipped_steps == 1
    if not first:
        assert same_states(states(params, optimizer), kept)
    # From here on it is as if there had been no such step.
    other = params_of(backend)
    reference = tailed(rule, other, **tail, **on_device(backend, rule))
    for step in range(3):
        if first or step > 0:
            set_grads(params, step)
            optimizer.step()
        set_grads(other, step)
        reference.step()
    assert torch.equal(flat(params), flat(other))
    assert same_states(states(params, optimizer), states(other, reference))
    assert optimizer.skipped_steps == 1
    assert reference.skipped_steps == 0


def test_first_skipped_step_leaves_no_state_on_the_cpu():
    params = params_of(Backend("cpu", torch.device("cpu")))
    optimizer = tailed("momentum", params, skip_nonfinite=True, ema_decay=0.5)
    set_grads(params, 0)
    params[1].grad[0] = float("inf")
    optimizer.step()
    assert dict(optimizer.state) == {}


def test_dampening_needs_a_first_step_that_is_surely_taken(backend):
    with pytest.raises(ValueError, match=r"SGD: dampening must be 0 with capturable=True, got 0\.5"):
        onepass.optim.SGD(params_of(backend), momentum=0.9, dampening=0.5, capturable=True)


@pytest.mark.parametrize("unscaled", [False, True], ids=["step", "unscale_"])
@each_rule
def test_grad_scaler(rule, unscaled):
    """torch's protocol on the CPU: the same steps and scales as with torch's optimizer, overflow included."""
    backend = Backend("cpu", torch.device("cpu"))
    ours, theirs = params_of(backend), params_of(backend)
    mine, other = tailed(rule, ours, fused=True), tailed(rule, theirs, torchs, foreach=False)
    scalers = [torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2) for _ in range(2)]
    for step in range(6):
        for params, optimizer, scaler in ((ours, mine, scalers[0]), (theirs, other, scalers[1])):
            scaler.scale(torch.ones(()))
            set_grads(params, step, scaler.get_scale())
            if step in (0, 3):
                params[4].grad[1, 1] = float("inf")
            if unscaled:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert scalers[0].get_scale() == scalers[1].get_scale()
        torch.testing.assert_close(flat(ours), flat(theirs), **FLOAT32_STEPS)
    assert mine.skipped_steps == 2
    assert not hasattr(mine, "grad_scale")
    assert not hasattr(mine, "found_inf")
    assert not any(v.isnan().any() for p in ours for v in mine.state[p].values())


def test_unscaled_gradients_are_not_written_back():
    params = params_of(Backend("cpu", torch.device("cpu")))
    optimizer = tailed("adamw", params, max_grad_norm=0.1)
    set_grads(params, 0, 8.0)
    before = flat([p.grad for p in params])
    optimizer.grad_scale = torch.tensor(8.0)
    optimizer.step()
    assert torch.equal(flat([p.grad for p in params]), before)
    assert optimizer.grad_norm.item() == pytest.approx(before.norm().item() / 8)


def test_device_scalars(backend):
    """grad_scale and found_inf as tensors that only the kernel reads."""
    if backend.name == "cpu":
        pytest.skip("on the CPU they are numbers")
    ours, other = params_of(backend), params_of(backend)
    mine, plain = tailed("adamw", ours, capturable=True), tailed("adamw", other, capturable=True)
    found = torch.zeros(1, device=backend.device)
    scale = torch.full((), 4.0, device=backend.device)
    for step in range(4):
        found.fill_(step == 2)
        set_grads(ours, step, 4.0)
        set_grads(other, step)
        mine.grad_scale, mine.found_inf = scale, found
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tailed_step, "number_or_tensor", lambda *a, **k: a[2])
            mine.step()
        if step != 2:
            plain.step()
        assert torch.equal(flat(ours), flat(other))
    assert mine.skipped_steps == 1
    assert mine.state[ours[0]]["step"].item() == 3


def test_micro_batches_are_one_big_batch():
    """k backward passes of the loss divided by k are one pass over the mean; undivided, over the sum."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(12, 5), torch.randn(12, 1)
    for divide in (True, False):
        models = [torch.nn.Linear(5, 1) for _ in range(2)]
        models[1].load_state_dict(models[0].state_dict())
        optimizers = [onepass.optim.SGD(m.parameters(), lr=0.1, max_grad_norm=1.0) for m in models]
        for _ in range(3):
            for part in range(3):
                rows = slice(4 * part, 4 * part + 4)
                loss = torch.nn.functional.mse_loss(models[0](inputs[rows]), targets[rows])
                (loss / 3 if divide else loss).backward()
            optimizers[0].step(zero_grad=True)
            loss = torch.nn.functional.mse_loss(models[1](inputs), targets)
            (loss if divide else 3 * loss).backward()
            optimizers[1].step(zero_grad=True)
        for one, other in zip(*(m.parameters() for m in models), strict=True):
            torch.testing.assert_close(one, other, **FLOAT32_STEPS)


def test_irregular_layouts(backend):
    """channels_last gradients and strided views: averaged, clipped and zeroed where the elements really are."""
    base = torch.zeros(4, 6, device=backend.device)
    view = torch.nn.Parameter(base[:, ::2])
    conv = torch.nn.Parameter(torch.randn(2, 3, 4, 5, device=backend.device))
    plain = [torch.nn.Parameter(p.detach().clone().contiguous()) for p in (view, conv)]
    grads = [torch.randn(4, 3, device=backend.device), torch.randn(2, 3, 4, 5, device=backend.device)]
    tail = {"max_grad_norm": 0.5, "ema_decay": 0.9}
    mine, other = tailed("adamw", [view, conv], **tail), tailed("adamw", plain, **tail)
    for _ in range(2):
        view.grad = torch.zeros(4, 6, device=backend.device)[:, 1::2].copy_(grads[0])
        conv.grad = grads[1].contiguous(memory_format=torch.channels_last)
        for p, grad in zip(plain, grads, strict=True):
            p.grad = grad.clone()
        mine.step(zero_grad=True)
        other.step(zero_grad=True)
        assert (view.grad == 0).all()
        assert (conv.grad == 0).all()
    torch.testing.assert_close(flat([view, conv]), flat(plain), **AVERAGES)
    for p, q in zip((view, conv), plain, strict=True):
        torch.testing.assert_close(mine.state[p]["ema"], other.state[q]["ema"], **AVERAGES)
    assert (base[:, 1::2] == 0).all()


def test_several_groups_and_dtypes_have_one_norm(backend):
    params = params_of(backend) + params_of(backend, torch.bfloat16, seed=1)
    groups = [{"params": params[::2], "lr": 0.1}, {"params": params[1::2]}]
    optimizer = onepass.optim.AdamW(groups, max_grad_norm=1.0, ema_decay=0.5)
    set_grads(params, 0)
    exact = flat([p.grad for p in params]).norm().item()
    optimizer.step()
    assert optimizer.grad_norm.item() == pytest.approx(exact, rel=LONG_NORM_FLOAT64_RTOL)


def test_same_bits_for_any_number_of_threads(backend):
    def run(threads: int) -> torch.Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            params = params_of(backend)
            optimizer = tailed("adamw", params, max_grad_norm=0.3, ema_decay=0.9)
            for step in range(2):
                set_grads(params, step)
                optimizer.step(zero_grad=True)
            return torch.cat([flat(params), flat(optimizer.state[p]["ema"] for p in params)])
        finally:
            torch.set_num_threads(before)

    assert torch.equal(run(1), run(3))


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ({"max_grad_norm": -1.0}, "max_grad_norm must be finite and at least 0, got -1.0"),
        ({"max_grad_norm": "1"}, "max_grad_norm must be a number"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1, got 1.0"),
        ({"skip_nonfinite": 1}, "skip_nonfinite must be True or False, got 1"),
    ],
)
@each_rule
def test_bad_options(rule, tail, message):
    params = params_of(Backend("cpu", torch.device("cpu")))
    with pytest.raises((ValueError, TypeError), match=message):
        tailed(rule, params, **tail)
    optimizer = tailed(rule, params)
    set_grads(params, 0)
    before = flat(params)
    for name, value in tail.items():
        setattr(optimizer, name, value)
    with pytest.raises((ValueError, TypeError), match=message):
        optimizer.step()
    assert torch.equal(flat(params), before)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scale(backend, scale):
    params = params_of(backend)
    optimizer = tailed("adamw", params)
    set_grads(params, 0)
    optimizer.grad_scale = scale
    with pytest.raises(ValueError, match=r"grad_scale must be finite and above 0, got"):
        optimizer.step()


def test_read_only_and_shared_gradients_are_not_zeroed():
    grad = torch.ones(8)
    params = [torch.nn.Parameter(torch.zeros(8)), torch.nn.Parameter(torch.zeros(8))]
    params[0].grad = params[1].grad = grad
    optimizer = onepass.optim.SGD(params, lr=0.1)
    optimizer.step()  # read by both: no harm
    with pytest.raises(ValueError, match=r"sgd: grads\[0\] and grads\[1\] must not share memory"):
        optimizer.step(zero_grad=True)
    assert torch.equal(grad, torch.ones(8))


def test_copies_keep_the_options(backend):
    params = params_of(backend)
    optimizer = tailed("adamw", params, max_grad_norm=2.0, skip_nonfinite=True, ema_decay=0.9)
    set_grads(params, 0)
    optimizer.step()
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (other.max_grad_norm, other.skip_nonfinite, other.ema_decay) == (2.0, True, 0.9)
        for param in (p for group in other.param_groups for p in group["params"]):
            param.grad = torch.ones_like(param)
        other.step()


@pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")
def test_compiled_step():
    """A step with a tail is Python between compiled graphs: the same bits."""
    backend = Backend("cpu", torch.device("cpu"))
    ours, plain = params_of(backend), params_of(backend)
    tail = {"max_grad_norm": 0.5, "ema_decay": 0.9, "skip_nonfinite": True}
    mine, other = tailed("adamw", ours, **tail), tailed("adamw", plain, **tail)
    compiled = torch.compile(mine.step)
    for step in range(2):
        set_grads(ours, step)
        set_grads(plain, step)
        compiled()
        other.step()
    assert torch.equal(flat(ours), flat(plain))


def test_one_small_tensor_is_clipped(backend):
    param = torch.nn.Parameter(torch.zeros(4, device=backend.device))
    param.grad = torch.full((4,), 3.0, device=backend.device)
    optimizer = onepass.optim.SGD([param], lr=1.0, max_grad_norm=1.0)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full_like(param, -0.5))
    assert optimizer.grad_norm.item() == 6


def test_a_group_without_parameters(backend):
    params = params_of(backend)
    optimizer = onepass.optim.AdamW([{"params": []}, {"params": params}], max_grad_norm=1.0)
    set_grads(params, 0)
    optimizer.step()
    assert optimizer.grad_norm.item() == pytest.approx(flat([p.grad for p in params]).norm().item())


def test_options_are_read_anew_when_they_change():
    """They are checked and converted once, and again when another object stands there, or if it is a tensor."""
    param = torch.nn.Parameter(torch.zeros(4))
    param.grad = torch.ones(4)
    limit = torch.tensor(1.0)
    optimizer = onepass.optim.SGD([param], lr=1.0, max_grad_norm=1e9)
    lengths = []
    for changed in (1e9, 1.0, limit, limit, None):
        optimizer.max_grad_norm = changed
        before = param.detach().clone()
        optimizer.step()
        lengths.append(float((param.detach() - before).norm()))
        limit.fill_(0.5 * limit.item())
    assert lengths == pytest.approx([2, 1, 0.25, 0.125, 2], rel=CLIPPED_RTOL)
    for option, wrong, error in (("max_grad_norm", -1.0, ValueError), ("telemetry", 1, TypeError)):
        setattr(optimizer, option, wrong)
        before = param.detach().clone()
        with pytest.raises(error, match=f"SGD: {option} must be"):
            optimizer.step()
        assert torch.equal(param, before)
        setattr(optimizer, option, False if option == "telemetry" else None)
