"""What an optimizer remembers of its tensors between steps changes no result and keeps nothing alive."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import weakref

import pytest
import torch

import onepass
from conftest import apart, simt_core
from onepass import _native

RULES = [
    pytest.param("SGD", {"lr": 0.1, "momentum": 0.9}, id="sgd-momentum"),
    pytest.param("Adam", {"lr": 0.1, "amsgrad": True}, id="adam-amsgrad"),
    pytest.param("Lion", {"lr": 0.1, "weight_decay": 0.1}, id="lion"),
]


class Fallback(torch.Tensor):
    """A tensor as older versions of torch give it: only through __dlpack__, without the exchange API."""

    __dlpack_c_exchange_api__ = None


def random(shape, seed, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def warm(rule, options, device, count=4):
    """Takes some steps, so that the optimizer remembers its tensors."""
    params = [torch.nn.Parameter(random((4, 4), i, device)) for i in range(count)]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.3}]
    optimizer = getattr(onepass.optim, rule)(groups, **options)
    train(params, optimizer, range(3))
    return params, optimizer


def train(params, optimizer, steps):
    """Trains with gradients that are views of another tensor each time; in each step one parameter gets none."""
    for step in steps:
        grads = random((len(params), 4, 4), step, params[0].device)
        for i, param in enumerate(params):
            param.grad = None if i == step % 5 else grads[i]
        optimizer.step()


def move(state):
    """Gives the same tensor object other memory and other values."""
    state.data = state.data * 2 + 1


# What users do between two steps to what the optimizer remembers.
BETWEEN = {
    "list-grows": lambda params, o: o.param_groups[0]["params"].append(params[-1]),
    "list-shrinks": lambda params, o: o.param_groups[0]["params"].pop(0),
    "list-turned-round": lambda params, o: o.param_groups[0]["params"].reverse(),
    "entry-replaced": lambda params, o: o.param_groups[0]["params"].__setitem__(1, params[-1]),
    "groups-turned-round": lambda params, o: o.param_groups.reverse(),
    "group-added": lambda params, o: o.add_param_group({"params": params[-1:]}),
    "group-gone": lambda params, o: o.param_groups.pop(0),
    "states-dropped": lambda params, o: o.state.clear(),
    "one-state-dropped": lambda params, o: o.state.pop(params[2]),
    "state-dict-loaded": lambda params, o: o.load_state_dict(copy.deepcopy(o.state_dict())),
    "set_": lambda params, o: torch.no_grad()(params[0].set_)(params[1].detach() * 3),
    "param-turned": lambda params, o: torch.no_grad()(params[0].t_)(),
    "state-moved": lambda params, o: move([*o.state[params[1]].values()][-1]),
    "last-state-moved": lambda params, o: move(next(iter(o.state[params[-2]].values()))),
    "rate": lambda params, o: o.param_groups[0].update(lr=0.7),
    "less-state": lambda params, o: o.param_groups[0].update(momentum=0.0, amsgrad=False),
}


# With 600 parameters a second thread checks where the states are.
MOVES = ("state-moved", "last-state-moved", "set_")
CHANGES = [*((name, 4) for name in BETWEEN), *((name, 600) for name in MOVES)]


@pytest.mark.parametrize(("change", "count"), CHANGES)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_what_is_remembered_changes_no_result(rule, options, change, count, backend):
    """After the same change, an optimizer that remembers steps as one that is made to forget before each step."""
    runs = []
    for forget in (False, True):
        params, optimizer = warm(rule, options, backend.device, count)
        params.append(torch.nn.Parameter(random((4, 4), 9, backend.device)))
        BETWEEN[change](params, optimizer)
        for step in range(3, 8):
            if forget:
                optimizer._plan = None
            train(params, optimizer, [step])
        runs.append((params, optimizer))
    (params, optimizer), (twins, other) = runs
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(param, twin)
        for name, value in other.state.get(twin, {}).items():
            assert torch.equal(optimizer.state[param][name], value), name
    assert all(copied(optimizer)._plan is None for copied in (copy.copy, copy.deepcopy))


@pytest.mark.parametrize("package", [torch.optim, onepass.optim], ids=lambda package: package.__name__)
def test_optimizer_that_its_parameter_refers_to_is_freed(package):
    """torch.distributed.optim._apply_optimizer_in_backward makes such cycles; garbage collection must see them."""

    def used():
        param = torch.nn.Parameter(torch.ones(4))
        param._in_backward_optimizers = [package.SGD([param], lr=0.1)]
        param.grad = torch.ones(4)
        param._in_backward_optimizers[0].step()
        return weakref.ref(param)

    param = used()
    gc.collect()
    assert param() is None


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_tensors_that_are_gone_are_freed(rule, options, backend):
    params, optimizer = warm(rule, options, backend.device)
    gone = [weakref.ref(value) for param in params for value in (param, *optimizer.state[param].values())]
    optimizer.param_groups[0]["params"] = [torch.nn.Parameter(random((4, 4), 0, backend.device))]
    del optimizer.param_groups[1], params
    optimizer.state.clear()
    train(optimizer.param_groups[0]["params"], optimizer, [3])
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_step_inside_a_hook_of_the_step(rule, options, backend):
    (params, optimizer), (twins, other) = (warm(rule, options, backend.device) for _ in "ab")
    inside = [optimizer.step]
    optimizer.register_step_pre_hook(lambda *_: inside.pop()() if inside else None)
    optimizer.step()
    for _ in "ab":
        other.step()
    assert all(torch.equal(param, twin) for param, twin in zip(params, twins, strict=True))


def step_while_a_parameter_is_read():
    params = [torch.nn.Parameter(torch.ones(5).as_subclass(Fallback)) for _ in range(300)]
    optimizer = onepass.optim.SGD(params, lr=0.5)
    for param in params:
        param.grad = torch.ones(5)
    inside = [optimizer.step]
    export = torch.Tensor.__dlpack__
    Fallback.__dlpack__ = lambda self, **o: (
        export(self, **o) if not inside else (inside.pop()(), export(self, **o))[1]
    )
    optimizer.step()
    print(sum(param.detach().abs().sum().item() for param in params))


def test_step_while_a_parameter_is_read():
    """A __dlpack__ in Python may step the optimizer, which then remembers more than before the outer step."""
    assert apart("test_plan", "step_while_a_parameter_is_read()") == "0.0\n"


def step_with_two_cores():
    (params, optimizer), (twins, other) = (warm("SGD", {}, "cpu") for _ in "ab")
    _native.core, other._plan = simt_core(), None
    with contextlib.suppress(TypeError):
        optimizer.step()
        other.step()
    print(all(torch.equal(param, twin) for param, twin in zip(params, twins, strict=True)))


def test_what_one_core_remembers_is_not_for_another():
    """The step is refused, or reads its tensors again."""
    simt_core()
    assert apart("test_plan", "step_with_two_cores()") == "True\n"


def test_states_are_remembered_with_this_torch():
    """Pointers come the quick way with every torch that has the function, not with a list of versions."""
    assert _native.use_fast_pointers(_native.core)


@pytest.mark.parametrize("answer", [0, 64])
def test_a_pointer_function_that_is_wrong_is_not_used(answer):
    """The function says another place of the tensor's memory, or none."""
    samples = [torch.empty(1), torch.empty(8)]
    calls = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.py_object)
    def wrong_about_the_last(sample):
        calls.append(sample)
        return sample.data_ptr() if sample is samples[0] else answer and sample.data_ptr() + answer

    address = ctypes.cast(wrong_about_the_last, ctypes.c_void_p).value
    assert not _native.core.use_data_pointer(address, samples)
    assert [id(sample) for sample in calls] == [id(sample) for sample in samples]
    params, optimizer = warm("SGD", {"lr": 0.1, "momentum": 0.9}, "cpu")
    train(params, optimizer, range(3))
    assert len(calls) == 2


def test_a_pointer_function_needs_samples():
    assert not _native.core.use_data_pointer(1, [])
    assert not _native.core.use_data_pointer(0, [torch.empty(1)])
