"""Silent faults of other packages' fused optimizers, one test each: what is wrong there must be right here.

Where the fault is deterministic and shows in the torch that is installed, the test shows it too.
"""

from __future__ import annotations

import pytest
import torch

import onepass
from tolerance import assert_parity

# The release in which the faults of torch's fused CPU kernels were seen; later ones may have mended them.
SHOWS_TORCHS_FAULTS = torch.__version__.startswith("2.13.")
PLAIN = {"foreach": False, "fused": False}
RULES = [
    pytest.param("SGD", {"lr": 0.1}, id="sgd"),
    pytest.param("SGD", {"lr": 0.1, "momentum": 0.9}, id="sgd-momentum"),
    pytest.param("Adam", {"lr": 0.1, "amsgrad": True}, id="adam-amsgrad"),
    pytest.param("AdamW", {"lr": 0.1}, id="adamw"),
]


def one_to_8(device="cpu", dtype=torch.float32):
    return torch.arange(1.0, 9.0, device=device, dtype=dtype)


def stepped(package, rule, options, param, grads, **flags):
    """The parameter after one step with each gradient."""
    optimizer = getattr(package, rule)([param], **options, **flags)
    for grad in grads:
        param.grad = grad
        optimizer.step()
    return param.detach(), optimizer


def check_against_loop(rule, options, param, grads, what=""):
    """Steps `param` as it lies, and contiguous copies with torch's loop; compares by the parity rule."""
    device = param.device
    theirs = torch.nn.Parameter(param.detach().clone(memory_format=torch.contiguous_format))
    wide = torch.nn.Parameter(theirs.detach().double())
    ours, _ = stepped(onepass.optim, rule, options, param, grads)
    loop, _ = stepped(torch.optim, rule, options, theirs, [g.to(device).contiguous() for g in grads], **PLAIN)
    exact, _ = stepped(torch.optim, rule, options, wide, [g.contiguous().double() for g in grads], **PLAIN)
    assert_parity(ours, loop, exact, what)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("count", [1, 15, 16, 31, 32, 33, 64, 100])
def test_half_precision_sgd_updates_every_element(count, dtype, backend):
    """torch 2.13's fused CPU SGD leaves all full SIMD blocks of bf16 and f16 as they were (pytorch#191763)."""
    start = torch.ones(count, dtype=dtype, device=backend.device)
    grad = torch.ones_like(start)
    ours, _ = stepped(onepass.optim, "SGD", {"lr": 0.5}, torch.nn.Parameter(start.clone()), [grad])
    assert torch.equal(ours, torch.full_like(start, 0.5))
    if SHOWS_TORCHS_FAULTS and backend.name == "cpu" and count == 64:
        theirs, _ = stepped(torch.optim, "SGD", {"lr": 0.5}, torch.nn.Parameter(start.clone()), [grad], fused=True)
        assert torch.equal(theirs, start)


@pytest.mark.parametrize("which", ["param", "grad"])
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_channels_last_meets_contiguous(rule, options, which, backend):
    """torch 2.13's fused CPU kernels give gradients to the wrong elements where layouts differ, as do apex's CUDA
    kernels and optimi's Triton ones; torch's CUDA kernels raise (pytorch#106951, #110758, #126585, ROCm/apex#97).
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 4, 5, generator=generator).to(backend.device)
    grads = [torch.randn(2, 3, 4, 5, generator=generator).to(backend.device) for _ in range(3)]
    if which == "param":
        start = start.to(memory_format=torch.channels_last)
    else:
        grads = [grad.to(memory_format=torch.channels_last) for grad in grads]
    param = torch.nn.Parameter(start)
    strides, address = param.stride(), param.data_ptr()
    check_against_loop(rule, options, param, grads)
    # bitsandbytes makes such parameters contiguous; the model then computes in another layout.
    assert (param.stride(), param.data_ptr()) == (strides, address)


def test_torchs_fused_step_permutes_gradients_of_channels_last_parameters():
    """The fault itself: element i of memory gets gradient i of memory (pytorch#106951 on the CPU)."""
    start = torch.zeros(1, 2, 2, 2).to(memory_format=torch.channels_last)
    grad = one_to_8().reshape(1, 2, 2, 2)
    ours, _ = stepped(onepass.optim, "SGD", {"lr": 1.0}, torch.nn.Parameter(start.clone()), [grad])
    assert torch.equal(ours, -grad)
    if SHOWS_TORCHS_FAULTS:
        theirs, _ = stepped(torch.optim, "SGD", {"lr": 1.0}, torch.nn.Parameter(start.clone()), [grad], fused=True)
        assert theirs.flatten().tolist() == [-1, -3, -5, -7, -2, -4, -6, -8]


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_strided_view_parameter_writes_inside_its_view(rule, options, backend):
    """torch 2.13's fused CPU kernels write outside a strided view; DeepSpeed's CPU Adam updates a contiguous copy
    and drops it (cpu_adam_impl.cpp)."""
    buffer = torch.full((16,), 5.0, device=backend.device)
    grads = [one_to_8(backend.device), -2 * one_to_8(backend.device)]
    check_against_loop(rule, options, torch.nn.Parameter(buffer[::2]), grads)
    assert torch.equal(buffer[1::2], torch.full((8,), 5.0, device=backend.device))
    assert (buffer[::2] != 5).all()
    if SHOWS_TORCHS_FAULTS and backend.name == "cpu" and "momentum" not in options:
        theirs = torch.full((16,), 5.0)
        stepped(torch.optim, rule, options, torch.nn.Parameter(theirs[::2]), grads[:1], fused=True)
        assert (theirs[1::2] != 5).any()


@pytest.mark.parametrize("fused", [None, True], ids=["scaler-skips", "step-skips"])
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_overflow_in_the_first_step_leaves_no_garbage(rule, options, fused, backend):
    """torch 2.13's fused SGD keeps a momentum_buffer that was never written when GradScaler finds an overflow in
    the first step; its garbage reached the parameters (LibreYOLO#771 bans fused SGD for it)."""
    param = torch.nn.Parameter(one_to_8(backend.device))
    optimizer = getattr(onepass.optim, rule)([param], fused=fused, **options)
    scaler = torch.amp.GradScaler(backend.device.type, init_scale=4.0)
    scaler.scale(param.sum()).backward()
    param.grad[3] = torch.inf
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(param.cpu(), one_to_8())
    assert not optimizer.state[param]
    param.grad = None
    scaler.scale((param * param).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    twin = torch.nn.Parameter(one_to_8(backend.device))
    wanted, plain = stepped(onepass.optim, rule, options, twin, [2 * one_to_8(backend.device)])
    assert torch.equal(param, wanted)
    for name, value in plain.state[twin].items():
        assert value is None or torch.equal(optimizer.state[param][name], value), name


# With dampening a first step that is taken for a later one differs, even if the new buffer's memory is zero.
DAMPENED = pytest.param("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, id="sgd-dampening")


@pytest.mark.parametrize(("rule", "options"), [*RULES, DAMPENED])
def test_parameter_that_gets_its_first_gradient_later(rule, options, backend):
    """torch 2.13's fused SGD with momentum raises TypeError when a parameter of the group gets its first gradient
    after the others (a frozen layer, an expert that was not routed to); its loop takes it."""
    late = [torch.nn.Parameter(one_to_8(backend.device)) for _ in range(2)]
    optimizer = getattr(onepass.optim, rule)(late, **options)
    grads = [torch.full((8,), value, device=backend.device) for value in (1.0, -0.5, 2.0)]
    for step, grad in enumerate(grads):
        late[0].grad = grad
        late[1].grad = grad if step > 0 else None
        optimizer.step()
    for param, own_grads in zip(late, (grads, grads[1:]), strict=True):
        twin = torch.nn.Parameter(one_to_8(backend.device))
        assert torch.equal(param, stepped(onepass.optim, rule, options, twin, own_grads)[0])
    if SHOWS_TORCHS_FAULTS and backend.name == "cpu" and "momentum" in options:
        params = [torch.nn.Parameter(one_to_8()) for _ in range(2)]
        optimizer = torch.optim.SGD(params, fused=True, **options)
        params[0].grad = grads[0]
        optimizer.step()
        params[1].grad = grads[0]
        with pytest.raises(TypeError):
            optimizer.step()


@pytest.mark.parametrize("sizes", [[40, 0], [0, 40], [40, 0, 0], [40, 0, 7, 0]], ids=str)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_empty_tensor_at_the_end_of_the_list(rule, options, sizes, backend):
    """multi_tensor_apply launches its pending tensors only with a tensor that has elements: with an empty one last
    they are not updated in apex and DeepSpeed (mended in TransformerEngine#3207)."""
    params = [torch.nn.Parameter(torch.ones(n, device=backend.device)) for n in sizes]
    optimizer = getattr(onepass.optim, rule)(params, **options)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    for param in params:
        assert (param < 1).all()


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_every_parameter_counts_its_own_steps(rule, backend):
    """DeepSpeed's FusedAdam counts the last parameter's steps for all, once for each dtype of the group, so that a
    mixed group gets a wrong bias correction (fused_adam.py)."""
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
    params = [torch.nn.Parameter(one_to_8(backend.device, dtype)) for dtype in dtypes]
    optimizer = getattr(onepass.optim, rule)(params, lr=0.25)
    for step in range(1, 4):
        for i, param in enumerate(params):
            param.grad = torch.ones_like(param) if step > i else None
        optimizer.step()
    counts = [optimizer.state[param].get("step") for param in params]
    assert [count if count is None else count.item() for count in counts] == [3, 2, 1, None]
    for i, param in enumerate(params[:3]):
        twin = torch.nn.Parameter(one_to_8(backend.device, dtypes[i]))
        wanted, _ = stepped(onepass.optim, rule, {"lr": 0.25}, twin, [torch.ones_like(twin)] * (3 - i))
        assert torch.equal(param, wanted)


def test_first_step_with_dampening(backend):
    """apex's FusedSGD is not torch's SGD (apex#1143). The first buffer is the gradient itself, not dampened."""
    param = torch.nn.Parameter(torch.zeros(8, device=backend.device))
    options = {"lr": 1.0, "momentum": 0.5, "dampening": 0.75}
    grads = [one_to_8(backend.device), 4 * one_to_8(backend.device)]
    ours, optimizer = stepped(onepass.optim, "SGD", options, param, grads)
    assert torch.equal(optimizer.state[param]["momentum_buffer"].cpu(), 1.5 * one_to_8())
    assert torch.equal(ours.cpu(), -2.5 * one_to_8())


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_order_of_decay_and_update(rule, backend):
    """bitsandbytes decays before the update in one of its CPU, CUDA and Triton paths and after it in another
    (bitsandbytes#2010). Here it comes first on each backend, as in torch; with this decay the order shows."""
    options = {"lr": 0.5, "weight_decay": 0.75, "betas": (0.5, 0.5)}
    grads = [one_to_8(backend.device), -one_to_8(backend.device)]
    check_against_loop(rule, options, torch.nn.Parameter(one_to_8(backend.device)), grads)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_non_finite_gradients_are_seen(rule, options, value, backend):
    """bitsandbytes' 8-bit kernels skip such elements and zero their state without a word; torch's loop lets them
    through, so that a monitor sees them. No other element may change."""
    grad = one_to_8(backend.device)
    grad[[0, 5]] = value
    clean = one_to_8(backend.device)
    ours, mine = stepped(onepass.optim, rule, options, torch.nn.Parameter(clean.clone()), [grad, clean])
    loop, theirs = stepped(torch.optim, rule, options, torch.nn.Parameter(clean.clone()), [grad, clean], **PLAIN)
    untouched, _ = stepped(onepass.optim, rule, options, torch.nn.Parameter(clean.clone()), [clean, clean])
    hit = torch.tensor([True, False, False, False, False, True, False, False], device=backend.device)
    assert torch.equal(ours[~hit], untouched[~hit])
    torch.testing.assert_close(ours[hit], loop[hit], rtol=0, atol=0, equal_nan=True)
    for own, others in zip(mine.state.values(), theirs.state.values(), strict=False):
        for name in own.keys() - {"step"}:
            torch.testing.assert_close(own[name][hit], others[name][hit], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_infinite_parameter_without_decay_makes_no_nan(rule, options, backend):
    """With weight_decay 0 nothing may be multiplied by 0: 0 * inf would turn the gradient into nan (pytorch#1402
    asks for groups without decay)."""
    start = one_to_8(backend.device)
    start[2] = torch.inf
    groups = {**options, "weight_decay": 0.0}
    ours, optimizer = stepped(onepass.optim, rule, groups, torch.nn.Parameter(start), [one_to_8(start.device)])
    assert ours[2] == torch.inf
    for state in optimizer.state.values():
        assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_step_inside_backward(rule, options, backend):
    """Users step each parameter as soon as its gradient is there (pytorch#80595). One optimizer for each
    parameter, run from a hook, must give the bits of one step for all."""
    models = [torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)).to(backend.device) for _ in "ab"]
    models[1].load_state_dict(models[0].state_dict())
    kind = getattr(onepass.optim, rule)
    together = kind(models[0].parameters(), **options)
    for param in models[1].parameters():
        own = kind([param], **options)
        param.register_post_accumulate_grad_hook(lambda p, own=own: (own.step(), own.zero_grad())[0])
    data = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).to(backend.device)
    for _ in range(3):
        for model in models:
            model(data).square().sum().backward()
        together.step()
        together.zero_grad()
    for mine, hooked in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, hooked)


def test_amsgrad_is_not_ignored(backend):
    """bitsandbytes documents amsgrad and ignores it. After a large gradient the largest second moment stays."""
    grads = [torch.full((8,), value, device=backend.device) for value in (10.0, 0.1, 0.1)]
    options = {"lr": 0.1, "betas": (0.5, 0.5)}
    start = one_to_8(backend.device)
    plain, _ = stepped(onepass.optim, "Adam", options, torch.nn.Parameter(start.clone()), grads)
    ams, state = stepped(
        onepass.optim, "Adam", {**options, "amsgrad": True}, torch.nn.Parameter(start.clone()), grads
    )
    assert (plain < ams).all()
    (own,) = state.state.values()
    assert (own["max_exp_avg_sq"] > own["exp_avg_sq"]).all()


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_gradient_wider_than_its_parameter_keeps_its_bits(rule, options, backend):
    """Kernels that read a list of gradients as the parameters' dtype read garbage where `grad_dtype` differs;
    torch raises on CUDA. Here float32 gradients of bfloat16 parameters enter the arithmetic unrounded."""
    start = one_to_8(backend.device, torch.bfloat16)
    grad = (1 + 2**-12) * one_to_8(backend.device)
    optimizer = getattr(onepass.optim, rule)([param := torch.nn.Parameter(start.clone())], **options)
    if rule == "SGD" and "momentum" in options:
        optimizer.state[param]["momentum_buffer"] = torch.zeros(8, device=backend.device)
    elif rule != "SGD":
        names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * optimizer.defaults["amsgrad"]
        optimizer.state[param] = {name: torch.zeros(8, device=backend.device) for name in names}
        optimizer.state[param]["step"] = torch.tensor(0.0)
    param.grad_dtype = None
    param.grad = grad
    optimizer.step()
    wide = torch.nn.Parameter(start.float())
    wanted, plain = stepped(onepass.optim, rule, options, wide, [grad])
    assert torch.equal(param, wanted.to(torch.bfloat16))
    for name, value in plain.state[wide].items():
        if value is not None:
            assert torch.equal(optimizer.state[param][name], value), name


def set_gradient(param, step):
    generator = torch.Generator().manual_seed(step)
    param.grad = torch.randn(param.shape, generator=generator).to(param)


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_memory_that_moved_between_steps(rule, options, backend):
    """Kernels whose tables of pointers are kept from step to step (microsoft/dion#63) write to freed memory when a
    parameter or a state gets new storage, as FSDP and `load_state_dict` give it."""
    moving, fixed = (torch.nn.Parameter(one_to_8(backend.device)) for _ in "ab")
    optimizer, other = (getattr(onepass.optim, rule)([param], **options) for param in (moving, fixed))
    for step in range(6):
        old = moving.data
        moving.data = old.clone()
        old.fill_(torch.nan)
        for name, value in optimizer.state.get(moving, {}).items():
            optimizer.state[moving][name] = value.clone()
            value.fill_(torch.nan)
        for param, its in ((moving, optimizer), (fixed, other)):
            set_gradient(param, step)
            its.step()
    assert torch.equal(moving, fixed)


CHANGES = {
    "transpose": lambda value: value.t(),
    "reshape": lambda value: value.reshape(2, 8),
    "bfloat16": lambda value: value.flatten().view(torch.bfloat16)[:16].view(4, 4),
    "first-rows": lambda value: value[:3],
    "first-columns": lambda value: value[:, :3],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_another_tensor_at_the_same_address(change, backend):
    """A table found by data_ptr alone takes the shape, strides or dtype of the step before. An allocator hands out
    the same address too: `model.double()`, then `model.bfloat16()`, may end where the parameter began."""
    lists = {}
    for package, flags in ((onepass.optim, {}), (torch.optim, PLAIN)):
        param = torch.nn.Parameter(torch.arange(16.0, device=backend.device).reshape(4, 4))
        optimizer = package.SGD([param], lr=0.5, **flags)
        for step in range(4):
            if step == 2:
                address, param.grad = param.data_ptr(), None
                param.data = change(param.data)
                assert param.data_ptr() == address
            param.grad = torch.arange(param.numel(), dtype=param.dtype, device=param.device).reshape(param.shape)
            optimizer.step()
        lists[package] = param.detach()
    assert torch.equal(lists[onepass.optim], lists[torch.optim])


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_model_cast_between_steps(rule, options, dtypes, backend):
    """torch's loop raises or goes on in another precision; here float32 states serve the cast parameters."""
    model = torch.nn.Linear(16, 16, device=backend.device)
    optimizer = getattr(onepass.optim, rule)(model.parameters(), **options)
    for param in model.parameters():
        set_gradient(param, 0)
    optimizer.step()
    optimizer.zero_grad()
    for dtype in dtypes:
        model.to(dtype)
    twins = [torch.nn.Parameter(param.detach().clone()) for param in model.parameters()]
    other = getattr(onepass.optim, rule)(twins, **options)
    for param, twin in zip(model.parameters(), twins, strict=True):
        own = optimizer.state.get(param, {})
        other.state[twin] = {name: value.clone() for name, value in own.items()}
        for one in (param, twin):
            set_gradient(one, 1)
    optimizer.step()
    other.step()
    for param, twin in zip(model.parameters(), twins, strict=True):
        assert param.dtype == dtypes[-1]
        assert torch.equal(param, twin)


@pytest.mark.parametrize("warm", [0, 3], ids=["first-step", "later-step"])
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_autograd_notices_the_step(rule, options, warm, backend):
    """A kernel that writes through a pointer leaves the version of the tensor as it was: a graph that saved the
    parameter then runs backward with the values of after the step, without an error."""
    param = torch.nn.Parameter(one_to_8(backend.device))
    optimizer = getattr(onepass.optim, rule)([param], **options)
    for step in range(warm):
        set_gradient(param, step)
        optimizer.step()
    saved, version = param.square().sum(), param._version
    set_gradient(param, warm)
    optimizer.step()
    assert param._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()
