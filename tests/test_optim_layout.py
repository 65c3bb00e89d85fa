"""Parameters, gradients and states however they lie in memory: the bits of the contiguous computation."""

from __future__ import annotations

import pytest
import torch

import onepass
from onepass.optim import functional
from optim_setup import torchs

RULES = [
    pytest.param("SGD", {"lr": 0.1, "weight_decay": 0.1}, id="sgd"),
    pytest.param("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}, id="sgd-momentum"),
    pytest.param("Adam", {"lr": 0.1, "amsgrad": True}, id="adam-amsgrad"),
    pytest.param("AdamW", {"lr": 0.1}, id="adamw"),
    pytest.param("Lion", {"lr": 0.1, "weight_decay": 0.1}, id="lion"),
]
DTYPES = [
    pytest.param(dtype, id=str(dtype)[6:])
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
]
SHAPE = (4, 3, 5, 2)
GUARD = -77.0


def within(shape, take, device, dtype):
    """A view of the shape that `take` cuts out of a larger tensor, all of it GUARD."""
    view = take(torch.full(shape, GUARD, device=device, dtype=dtype))
    assert view.shape == SHAPE
    return view


# Name: where a tensor of SHAPE may lie. All of them, and what they lie in, are filled with GUARD.
LAYOUTS = {
    "contiguous": lambda *kind: within(SHAPE, lambda t: t, *kind),
    "channels_last": lambda *kind: within(SHAPE, lambda t: t.to(memory_format=torch.channels_last), *kind),
    "transposed": lambda *kind: within(SHAPE[::-1], lambda t: t.permute(3, 2, 1, 0), *kind),
    "permuted": lambda *kind: within((3, 2, 4, 5), lambda t: t.permute(2, 0, 3, 1), *kind),
    "offset": lambda *kind: within((5 + 120 + 7,), lambda t: t[5:125].view(SHAPE), *kind),
    "channels_last-offset": lambda *kind: within((5, 5, 2, 3), lambda t: t[1:].permute(0, 3, 1, 2), *kind),
    "every-second": lambda *kind: within((4, 3, 5, 4), lambda t: t[..., ::2], *kind),
    "inner-rows": lambda *kind: within((4, 3, 7, 2), lambda t: t[:, :, 1:6], *kind),
    "strided-transposed": lambda *kind: within((2, 5, 3, 9), lambda t: t.permute(3, 2, 1, 0)[1::2], *kind),
    "gaps-between-images": lambda *kind: within((8, 3, 5, 2), lambda t: t[1::2], *kind),
}


def whole(view):
    """All elements of the storage that the view lies in."""
    return torch.as_strided(view, (view.untyped_storage().nbytes() // view.itemsize,), (1,), 0)


def placed(value, layout):
    view = LAYOUTS[layout](value.device, value.dtype)
    return view.copy_(value)


def random(shape, seed, device, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def run(rule, options, param, grads, optimizer=None):
    """Steps once with each gradient; returns the optimizer."""
    optimizer = optimizer or getattr(onepass.optim, rule)([param], **options)
    for grad in grads:
        param.grad = grad
        optimizer.step()
    return optimizer


def assert_same_run(param, optimizer, twin, other):
    """Equal logical elements, of parameter and states."""
    assert torch.equal(param, twin)
    assert optimizer.state.get(param, {}).keys() == other.state.get(twin, {}).keys()
    for name, value in other.state.get(twin, {}).items():
        assert torch.equal(optimizer.state[param][name], value), name


def assert_guards(view):
    """What lies around the view is as it was."""
    outside = whole(view.detach()).clone()
    torch.as_strided(outside, view.shape, view.stride(), view.storage_offset()).fill_(GUARD)
    assert (outside == GUARD).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_layouts_of_parameter_and_gradient(rule, options, layout, dtype, backend):
    """One parameter for each layout of its gradient."""
    starts = [random(SHAPE, seed, backend.device, dtype) for seed in range(len(LAYOUTS))]
    params = [torch.nn.Parameter(placed(start, layout)) for start in starts]
    twins = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer, other = (getattr(onepass.optim, rule)(each, **options) for each in (params, twins))
    places = [(param.data_ptr(), param.stride()) for param in params]
    for step in range(3):
        for i, (param, twin, grad_layout) in enumerate(zip(params, twins, LAYOUTS, strict=True)):
            twin.grad = random(SHAPE, 100 * step + i, backend.device, dtype)
            param.grad = placed(twin.grad, grad_layout)
        optimizer.step()
        other.step()
        for param, twin in zip(params, twins, strict=True):
            assert torch.equal(param.grad, twin.grad)
            assert_guards(param.grad)
    for param, twin, place in zip(params, twins, places, strict=True):
        assert_same_run(param, optimizer, twin, other)
        assert_guards(param)
        assert (param.data_ptr(), param.stride()) == place
        # What torch's preserve_format gives: the parameter's layout if it is dense.
        for name, value in optimizer.state.get(param, {}).items():
            assert name == "step" or value.stride() == torch.empty_like(param).stride(), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rule", "options"), RULES[1:])
def test_states_that_lie_otherwise(rule, options, layout, backend):
    """A checkpoint of a model in another layout brings such states."""
    start = random(SHAPE, 0, backend.device).to(memory_format=torch.channels_last)
    grads = [random(SHAPE, seed, backend.device) for seed in (1, 2, 3)]
    param, twin = (torch.nn.Parameter(start.clone()) for _ in "ab")
    optimizer, other = run(rule, options, param, grads[:1]), run(rule, options, twin, grads[:1])
    for name, value in optimizer.state[param].items():
        if name != "step":
            optimizer.state[param][name] = placed(value, layout)
    run(rule, options, param, grads[1:], optimizer)
    run(rule, options, twin, grads[1:], other)
    assert_same_run(param, optimizer, twin, other)
    # Brought to the parameter's layout once, not copied at each step.
    for name, value in optimizer.state[param].items():
        assert name == "step" or value.stride() == param.stride(), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_layout_that_changes_between_steps(rule, options, layout, backend):
    """`model.to(memory_format=...)` in the middle of a run: the states follow."""
    grads = [random(SHAPE, seed, backend.device) for seed in range(1, 6)]
    param, twin = (torch.nn.Parameter(random(SHAPE, 0, backend.device)) for _ in "ab")
    optimizer, other = run(rule, options, param, grads[:2]), run(rule, options, twin, grads)
    param.grad = None
    param.data = placed(param.data, layout)
    run(rule, options, param, grads[2:4], optimizer)
    param.grad = None
    param.data = param.data.contiguous()
    run(rule, options, param, grads[4:], optimizer)
    assert_same_run(param, optimizer, twin, other)


EXPANDED = {
    "all": lambda t: t[0, 0, 0, 0].expand(SHAPE),
    "first": lambda t: t[:1].expand(SHAPE),
    "last": lambda t: t[..., :1].expand(SHAPE),
    "middle": lambda t: t[:, :1, :1].expand(SHAPE),
    "of-a-view": lambda t: t.permute(3, 2, 1, 0)[:1, :, ::2, 1:].permute(3, 2, 1, 0)[..., :1].expand(3, 2, 5, 2),
    "window": lambda t: t.flatten().as_strided(SHAPE, (7, 3, 2, 1)),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("expand", EXPANDED.values(), ids=EXPANDED.keys())
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_gradients_with_several_elements_in_one_place(rule, options, expand, memory_format, backend):
    """`loss.sum().backward()` gives gradients with strides of 0."""
    grads = [expand(random(SHAPE, seed, backend.device)) for seed in (1, 2, 3)]
    start = random(grads[0].shape, 0, backend.device).contiguous(memory_format=memory_format)
    param, twin = (torch.nn.Parameter(start.clone()) for _ in "ab")
    optimizer = run(rule, options, param, grads)
    other = run(rule, options, twin, [grad.clone(memory_format=memory_format) for grad in grads])
    assert_same_run(param, optimizer, twin, other)


LARGER = {
    "channels_last_3d": ((2, 3, 2, 4, 3), lambda t: t.to(memory_format=torch.channels_last_3d)),
    "transposed-matrix": ((13, 17), lambda t: t.t().clone().t()),
    "seven-dimensions": (
        (2, 3, 1, 2, 1, 2, 3),
        lambda t: t.permute(6, 5, 4, 3, 2, 1, 0).contiguous().permute(6, 5, 4, 3, 2, 1, 0),
    ),
    "odd-strides-of-ones": ((5, 1, 7, 1), lambda t: t.clone().as_strided((5, 1, 7, 1), (7, 1000, 1, 3))),
    "one-element": ((1, 1), lambda t: t.clone().as_strided((1, 1), (9, 5))),
    "empty-transposed": ((0, 3, 4), lambda t: t.permute(2, 1, 0).contiguous().permute(2, 1, 0)),
}


@pytest.mark.parametrize("which", ["param", "grad", "both"])
@pytest.mark.parametrize("name", LARGER)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_other_numbers_of_dimensions(rule, options, name, which, backend):
    shape, lay = LARGER[name]
    start = random(shape, 0, backend.device)
    grads = [random(shape, seed, backend.device) for seed in (1, 2, 3)]
    param = torch.nn.Parameter(start.clone() if which == "grad" else lay(start))
    twin = torch.nn.Parameter(start.clone())
    strides = param.stride()
    optimizer = run(rule, options, param, [grad if which == "param" else lay(grad) for grad in grads])
    assert_same_run(param, optimizer, twin, run(rule, options, twin, grads))
    assert param.stride() == strides
    for key, value in optimizer.state.get(param, {}).items():
        assert key == "step" or value.stride() == torch.zeros_like(param).stride(), key


def in_flat_buffer(values, gap):
    """The values behind each other in one buffer, `gap` elements of GUARD before, between and behind them."""
    parts = [part for value in values for part in (value.new_full((gap,), GUARD), value.flatten())]
    buffer = torch.cat([*parts, values[0].new_full((gap,), GUARD)])
    views, at = [], gap
    for value in values:
        views.append(buffer[at : at + value.numel()].view(value.shape))
        at += value.numel() + gap
    return buffer, views


@pytest.mark.parametrize("gap", [0, 1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_slices_of_one_flat_buffer(rule, options, dtype, gap, backend):
    """FSDP lays parameters out so. A slice without a gradient must stay as it is between its neighbours."""
    shapes = [(3,), (5, 7), (), (1,), (64,), (33, 2), (0,), (129,), (2, 3, 4)]
    frozen = {1, 3, 5}
    starts = [random(shape, seed, backend.device, dtype) for seed, shape in enumerate(shapes)]
    buffer, views = in_flat_buffer(starts, gap)
    params = [torch.nn.Parameter(view) for view in views]
    twins = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer, other = (getattr(onepass.optim, rule)(each, **options) for each in (params, twins))
    for step in range(3):
        grads = [random(shape, 100 + 10 * step + i, backend.device, dtype) for i, shape in enumerate(shapes)]
        flat, pieces = in_flat_buffer(grads, gap)
        before = flat.clone()
        for i in set(range(len(shapes))) - frozen:
            params[i].grad, twins[i].grad = pieces[i], grads[i]
        optimizer.step()
        other.step()
        assert torch.equal(flat, before)
    for param, twin in zip(params, twins, strict=True):
        assert_same_run(param, optimizer, twin, other)
    for i in frozen:
        assert torch.equal(params[i], starts[i])
    assert torch.equal(buffer, in_flat_buffer([param.detach() for param in params], gap)[0])


def off_by(value, offset):
    """The value, `offset` elements behind a multiple of 64 bytes."""
    room = torch.full((value.numel() + offset + 128,), GUARD, dtype=value.dtype, device=value.device)
    first = (-room.data_ptr() % 64) // room.itemsize + offset
    return room[first : first + value.numel()].copy_(value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_every_alignment(rule, options, dtype, backend):
    """Parameter, gradient and states each begin anywhere in a vector of 64 bytes, of 16 on a GPU."""
    count = (16 if backend.is_cuda_code else 64) // dtype.itemsize
    start = random((75,), 0, backend.device, dtype)
    grads = [random((75,), seed, backend.device, dtype) for seed in (1, 2)]
    twin = torch.nn.Parameter(start.clone())
    other = run(rule, options, twin, grads)
    offsets = [(i, j, k) for i in range(count) for j in {0, i, count - 1} for k in {0, i, count // 2}]
    params = [torch.nn.Parameter(off_by(start, i)) for i, _, _ in offsets]
    optimizer = getattr(onepass.optim, rule)(params, **options)
    for grad in grads:
        for param, (_, j, k) in zip(params, offsets, strict=True):
            param.grad = off_by(grad, j)
            for name, value in optimizer.state.get(param, {}).items():
                optimizer.state[param][name] = value if name == "step" else off_by(value, k)
        optimizer.step()
    for param, offset in zip(params, offsets, strict=True):
        assert torch.equal(param, twin), offset
        assert_same_run(param, optimizer, twin, other)
        assert_guards(param)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_buffers_of_the_functional_form_are_written_in_place(layout, backend):
    """Explicit lists are the caller's: a buffer that lies otherwise is updated where it lies."""
    options = {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "dampening": 0.0,
        "nesterov": True,
        "maximize": False,
    }
    values = [random(SHAPE, seed, backend.device) for seed in (1, 2, 3)]
    param, grad, buffer = (value.clone() for value in values)
    functional.sgd([param], [grad], [buffer], **options)
    other, lies = values[0].clone(), placed(values[2], layout)
    buffers = [lies]
    functional.sgd([other], [grad], buffers, **options)
    assert torch.equal(other, param)
    assert buffers[0] is lies
    assert torch.equal(lies, buffer)
    assert_guards(lies)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "Lion"])
def test_a_gradient_that_is_negated_when_it_is_read(rule, shape, backend):
    """Autograd makes such of complex parts: with one element it looks dense, and its memory has the other sign."""
    steps = []
    for module in (onepass.optim, torchs):
        param = torch.nn.Parameter(torch.ones(shape, device=backend.device))
        optimizer = getattr(module, rule)([param], lr=0.1)
        for _ in range(3):
            param.grad = torch.complex(torch.zeros(shape), torch.full(shape, -2.0)).to(backend.device).conj().imag
            assert param.grad.is_neg()
            optimizer.step()
        steps.append(param.detach())
    torch.testing.assert_close(*steps)
    assert steps[0].item() < 1


def test_a_parameter_that_is_negated_when_it_is_read(backend):
    memory = torch.complex(torch.zeros(1), torch.ones(1)).to(backend.device)
    param = memory.conj().imag
    options = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}
    functional.sgd([param], [torch.ones(1, device=backend.device)], [], lr=0.1, **options)
    torch.testing.assert_close(param, torch.full((1,), -1.1, device=backend.device))
    torch.testing.assert_close(memory.imag, torch.full((1,), 1.1, device=backend.device))
