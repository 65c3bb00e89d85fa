"""States in 8 bits: the bytes, the step against a reference, special numbers, what the step does besides."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from onepass import _native
from onepass.optim import SGD, Adam, AdamW, Lion
from onepass.optim._step.codes import decoded, encoded
from reference import codes as reference
from tolerance import CODED

RULES = {
    "adamw": (AdamW, {}),
    "amsgrad": (Adam, {"amsgrad": True, "weight_decay": 0.1}),
    "momentum": (SGD, {"momentum": 0.9}),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "lion": (Lion, {}),
}
each_rule = pytest.mark.parametrize("rule", RULES)
# Less than a block, blocks that are not whole, several strips, nothing, a scalar.
SHAPES = ((7,), (), (0,), (33,), (3, 5, 7), (40, 40), (2, 3, 4, 5))


def params_of(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def made(rule, params, **options):
    kind, own = RULES[rule]
    return kind(params, lr=1e-2, **own, **options)


def give_in(params, step, scale=1.0):
    """Gradients whose magnitudes differ within a block."""
    generator = torch.Generator().manual_seed(50 + step)
    for param in params:
        noise = torch.randn(param.shape, generator=generator)
        param.grad = (noise * torch.randn(param.shape, generator=generator).exp() * scale).to(param.dtype)


def floats_of(optimizer):
    return optimizer.float_state_dict()["state"]


def test_the_bytes_of_the_format():
    """What docs/precision.md says, byte by byte: another program may read a checkpoint by it."""
    values = torch.tensor([1.0, 0.5, -0.5, 2.0**-20, 0.0, -3.0, 1e-9, 2.5])
    codes, scales = encoded(values, signed=True)
    assert scales.tolist() == [3.0]
    assert bytes(codes.tolist()).hex() == "6757d70200ff007b"
    codes, scales = encoded(values.abs(), signed=False)
    assert bytes(codes.tolist()).hex() == "dcc5c51000ff04f9"
    assert scales.tolist() == [3.0]


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_the_references(signed):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(200, generator=generator) * torch.randn(200, generator=generator).mul(3).exp()
    values[::9] = 0
    values[40], values[70] = math.inf, math.nan
    values[100:132] = 0
    values[132:164] *= 1e-42  # denormals
    values = values if signed else values.abs()
    codes, scales = encoded(values, signed)
    back = decoded(codes, scales, signed)
    for block in range(7):
        part = slice(32 * block, 32 * block + 32)
        expected, scale = reference.encode_block(values[part].numpy(), signed, [1 << 15] * 32)
        assert codes[part].tolist() == expected
        assert int(scales[block].view(torch.int32)) & 0xFFFFFFFF == scale
        wanted = reference.decode_block(expected, scale, signed)
        np.testing.assert_array_equal(back[part].numpy().view(np.uint32), wanted.view(np.uint32))


def test_nothing_is_coded_as_zero_but_zero():
    values = torch.tensor([1.0, 1e-30, 0.0, 1e-45])
    back = decoded(*encoded(values, signed=False), signed=False)
    assert (back > 0).tolist() == [True, True, False, True]


@pytest.mark.parametrize("signed", [True, False])
def test_values_keep_their_codes(signed):
    """Coding what was decoded changes nothing: a state that stands still does not drift."""
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[codes != 0x80] if signed else codes
    blocks = torch.cat([torch.cat([chunk, codes[-1:]]) for chunk in codes.split(31)])[: 32 * 8]
    scales = torch.full((8,), 3.7e-5)
    values = decoded(blocks, scales, signed)
    again, scales_again = encoded(values, signed)
    assert torch.equal(values, decoded(again, scales_again, signed))


@each_rule
def test_a_step_is_the_float_step_between_codes(rule):
    """Bit for bit: decode, the float32 step of the same rule, code with the dithers of the reference."""
    params = params_of()
    optimizer = made(rule, params, state_format="8bit")
    for step in range(4):
        twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
        plain = made(rule, twins)
        if step:
            plain.load_state_dict(copy.deepcopy(optimizer.float_state_dict()))
        give_in(params, step)
        give_in(twins, step)
        optimizer.step()
        plain.step()
        for number, (param, twin) in enumerate(zip(params, twins, strict=True)):
            assert torch.equal(param, twin)
            own, states = optimizer.state[param], plain.state[twin]
            names = [name for name in optimizer._state_names if name in states]
            for k, name in enumerate(names):
                flat = states[name].reshape(-1).numpy()
                found = own[name + "_codes"].reshape(-1)
                for block in range(len(own["scales"])):
                    part = slice(32 * block, 32 * block + 32)
                    dither = reference.dithers(number, block, step + 1, k)
                    expected, scale = reference.encode_block(flat[part], k == 0, dither)
                    assert found[part].tolist() == expected, (rule, name, number, block)
                    assert int(own["scales"][block, k].view(torch.int32)) & 0xFFFFFFFF == scale


@each_rule
def test_threads_do_not_matter(rule):
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            param = torch.nn.Parameter(torch.randn(50_001))
            optimizer = made(rule, [param], state_format="8bit")
            for step in range(3):
                give_in([param], step)
                optimizer.step()
            results.append([param.detach(), *optimizer.state[param].values()])
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_group_of_its_own():
    """Formats by group: the float group is what it always was, in one step with the other."""
    params, others, twins = params_of(), params_of(seed=1), params_of(seed=1)
    optimizer = AdamW([{"params": params, "state_format": "8bit"}, {"params": others}])
    plain = AdamW(twins)
    for step in range(3):
        for group in (params, others, twins):
            give_in(group, step)
        optimizer.step()
        plain.step()
    assert all(map(torch.equal, others, twins))
    assert set(optimizer.state[params[0]]) == {"step", "exp_avg_codes", "exp_avg_sq_codes", "scales"}
    assert optimizer.state[params[3]]["exp_avg_codes"].dtype == torch.uint8
    assert optimizer.state[params[3]]["scales"].shape == (2, 2)


def test_what_a_step_does_besides():
    """Average, zeroing, clipping, statistics and skipping are those of the float step; a skip changes no state."""
    params, twins = params_of(), params_of()
    options = {"ema_decay": 0.9, "max_grad_norm": 0.5, "skip_nonfinite": True, "telemetry": True}
    optimizer, plain = made("adamw", params, state_format="8bit", **options), made("adamw", twins, **options)
    give_in(params, 0)
    give_in(twins, 0)
    optimizer.step(zero_grad=True)
    plain.step(zero_grad=True)
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(param, twin)
        assert torch.equal(optimizer.state[param]["ema"], plain.state[twin]["ema"])
        assert not param.grad.any()
    ours, theirs = optimizer.statistics()[0], plain.statistics()[0]
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs))
    before = copy.deepcopy(optimizer.state_dict()["state"])
    params[0].grad.fill_(math.inf)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    for key, own in before.items():
        for name, value in own.items():
            assert torch.equal(value, optimizer.state_dict()["state"][key][name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mode", [{}, {"master_weights": True}, {"rounding": "kahan"}, {"rounding": "stochastic"}])
def test_parameters_of_16_bits(dtype, mode):
    """The parameter is kept as with float32 states: after the first step it has the same bits."""
    options = {**mode, "seed": 3} if mode.get("rounding") == "stochastic" else mode
    params, twins = params_of(dtype), params_of(dtype)
    optimizer = made("adamw", params, state_format="8bit", **options)
    plain = made("adamw", twins, state_dtype=torch.float32, **options)
    give_in(params, 0)
    give_in(twins, 0)
    optimizer.step()
    plain.step()
    assert all(map(torch.equal, params, twins))
    for step in range(1, 5):
        give_in(params, step)
        optimizer.step()
    assert all(bool(param.isfinite().all()) for param in params)


def test_a_gradient_that_is_not_finite_stays_with_its_element():
    """Elsewhere in its block nothing is lost; the element itself is a nan from then on, as with float32 states."""
    param = torch.nn.Parameter(torch.ones(32))
    optimizer = AdamW([param], lr=1e-2, state_format="8bit")
    for bad in (None, math.inf, None):
        param.grad = torch.linspace(-1, 1, 32) + 2
        if bad is not None:
            param.grad[5] = bad
        optimizer.step()
    assert param.isnan().nonzero().tolist() == [[5]]
    assert optimizer.state[param]["scales"].signbit().all()
    assert floats_of(optimizer)[0]["exp_avg"].isnan().nonzero().tolist() == [[5]]


@pytest.mark.parametrize("after", [0.1, 10.0])
def test_second_moments_follow_when_gradients_change(after):
    """Half the elements of each block change their scale: rounding to nearest would leave them where they are."""
    generator = torch.Generator().manual_seed(0)
    param, twin = (torch.nn.Parameter(torch.zeros(1024)) for _ in range(2))
    optimizer, plain = Adam([param], state_format="8bit"), Adam([twin])
    scale = torch.ones(1024)
    for step in range(1500):
        if step == 200:
            scale[::2] *= after
        param.grad = torch.randn(1024, generator=generator) * scale
        twin.grad = param.grad.clone()
        optimizer.step()
        plain.step()
    ratio = floats_of(optimizer)[0]["exp_avg_sq"] / plain.state[twin]["exp_avg_sq"]
    # Rounded to nearest the mean is above 2, and 1 / 2 the other way; its noise is 0.16 / sqrt(512).
    assert 0.95 < float(ratio[::2].mean()) < 1.08
    assert 0.95 < float(ratio[1::2].mean()) < 1.08


def test_layouts():
    """Blocks lie in the order of memory: channels_last has its own codes, and the same step."""
    torch.manual_seed(0)
    weight = torch.randn(4, 8, 3, 3)
    last = torch.nn.Parameter(weight.to(memory_format=torch.channels_last))
    view = torch.nn.Parameter(weight.clone())
    big = torch.randn(4, 8, 6, 3)
    sliced = big[:, :, ::2].copy_(weight).requires_grad_()
    optimizers = [AdamW([p], state_format="8bit") for p in (last, view, sliced)]
    for param, optimizer in zip((last, view, sliced), optimizers, strict=True):
        for step in range(3):
            torch.manual_seed(step)
            param.grad = torch.randn(4, 8, 3, 3)
            optimizer.step()
    assert optimizers[0].state[last]["exp_avg_codes"].stride() == last.stride()
    assert torch.equal(view, sliced)
    torch.testing.assert_close(last, view.detach(), **CODED)


def digest():
    """One number for the results of all rules: parameters, codes and scales."""
    found = hashlib.sha256()
    for rule in RULES:
        params = params_of()
        optimizer = made(rule, params, state_format="8bit")
        for step in range(3):
            give_in(params, step)
            optimizer.step()
        for param in params:
            for value in (param.detach(), *optimizer.state[param].values()):
                found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


def test_every_isa():
    """ONEPASS_ISA is read when the core is loaded, so each has a process of its own."""
    here = digest()
    for isa in _native.core.build_info()["isa_compiled"]:
        paths = [str(Path(__file__).parent), *sys.path]
        done = subprocess.run(
            [sys.executable, "-c", "import test_optim_codes as t; print(t.digest())"],
            env={**os.environ, "ONEPASS_ISA": isa, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
        if "does not run on this processor" not in done.stderr:
            assert done.stdout.strip() == here, (isa, done.stderr)
