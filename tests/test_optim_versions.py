"""Version counters of what a step or a clipping wrote, counted up once, by the thread that calls."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import onepass.optim
from onepass import _native
from onepass.optim import clip_grad
from onepass.optim._lists import norms
from onepass.optim._step import fused

CLASSES = (onepass.optim.SGD, onepass.optim.AdamW)


def made(device, count=700, numel=300):
    """Enough for more than one thread, and for what is remembered of states to be looked at by another one."""
    params = [torch.nn.Parameter(torch.ones(numel, device=device)) for _ in range(count)]
    for param in params:
        param.grad = torch.full_like(param, 0.5)
    return params


def versions(tensors):
    return {tensor._version for tensor in tensors}


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_step_counts_what_it_writes_once(cls, threads, backend):
    params = made(backend.device)
    grads = [param.grad for param in params]
    optimizer = cls(params, lr=0.1)
    optimizer.step()
    before, of_grads = versions(params), versions(grads)
    optimizer.step()
    assert versions(params) == {before.pop() + 1}
    assert versions(grads) == of_grads
    optimizer.step(zero_grad=True)
    assert versions(grads) == {of_grads.pop() + 1}


def test_clipping_counts_only_what_it_writes(threads, backend):
    params = made(backend.device)
    grads = [param.grad for param in params]
    (before,) = versions(grads)
    onepass.optim.clip_grad_norm_(params, 1e9)
    if not backend.is_cuda_code:
        assert versions(grads) == {before}
    (before,) = versions(grads)
    onepass.optim.clip_grad_norm_(params, 1e-3)
    assert versions(grads) == {before + 1}
    onepass.optim.clip_grad_value_(params, 1e-9)
    assert versions(grads) == {before + 2}
    assert versions(params) == {0}


@pytest.mark.parametrize("nonfinite", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_clipping_is_not_repeated_where_a_signal_comes_after_it(threads, backend, monkeypatch, nonfinite, error):
    """The handler's exception, as DataLoader's of a killed worker, comes out of any line of Python."""
    params = made(backend.device)

    def interrupted(name):
        inner = getattr(_native.core, name)

        def call(*arguments):
            result = inner(*arguments)
            if result is None or type(result) is bool:
                raise error("worker is killed")
            return result

        return call

    name = "grad_scale" if nonfinite else "grad_norm"
    calls = {"grad_norm": _native.core.grad_norm, name: interrupted(name), "grad_clamp": interrupted("grad_clamp")}
    core = SimpleNamespace(control_size=_native.core.control_size, **calls)
    if nonfinite:
        core.grad_scale = interrupted("grad_scale")
    for module in (clip_grad, norms):
        monkeypatch.setattr(module, "_native", SimpleNamespace(core=core))
    norm = 0.5 * (700 * 300) ** 0.5
    with pytest.raises(error, match="worker is killed"):
        onepass.optim.clip_grad_norm_(params, norm / 2, error_if_nonfinite=nonfinite)
    for param in params:
        torch.testing.assert_close(param.grad, torch.full_like(param, 0.25))
    with pytest.raises(error, match="worker is killed"):
        onepass.optim.clip_grad_value_(params, 0.125)
    assert all(torch.equal(param.grad, torch.full_like(param, 0.125)) for param in params)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_step_is_whole_where_counting_fails(cls, threads, backend, monkeypatch):
    """An error, as older versions of torch raise it of inference tensors, is raised when the kernels are done."""
    params, twins = made(backend.device), made(backend.device)
    optimizer, twin = cls(params, lr=0.1), cls(twins, lr=0.1)
    for one in (optimizer, twin):
        one.step()

    def refuse(tensors):
        raise RuntimeError(f"no counter for {len(tensors)} tensors")

    monkeypatch.setattr(fused, "bump_versions", refuse)
    with pytest.raises(RuntimeError, match="no counter for 700 tensors"):
        optimizer.step()
    monkeypatch.undo()
    twin.step()
    assert all(torch.equal(one, other) for one, other in zip(params, twins, strict=True))
    optimizer.step()
    twin.step()
    assert all(torch.equal(one, other) for one, other in zip(params, twins, strict=True))
