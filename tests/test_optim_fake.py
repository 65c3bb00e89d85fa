"""Tensors without memory of their own: fake ones, subclasses that wrap others, zeros that are not stored."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

import onepass
from conftest import apart
from optim_setup import put, snapshot, torchs
from tolerance import FLOAT32_STEPS

RULES = [
    pytest.param("SGD", {}, id="sgd"),
    pytest.param("SGD", {"momentum": 0.9, "dampening": 0.5, "nesterov": False}, id="sgd-momentum"),
    pytest.param("Adam", {"amsgrad": True, "weight_decay": 0.1}, id="adam-amsgrad"),
    pytest.param("AdamW", {"maximize": True}, id="adamw"),
    pytest.param("Lion", {"weight_decay": 0.1}, id="lion"),
]
each_rule = pytest.mark.parametrize(("rule", "options"), RULES)
LOW = [
    {"rounding": "stochastic"},
    {"rounding": "kahan"},
    {"master_weights": True},
    {"state_dtype": torch.float32},
]
TAIL = {"max_grad_norm": 1.0, "skip_nonfinite": True, "ema_decay": 0.9, "telemetry": True}
CASES = [{}, TAIL, {"differentiable": True}, {"fused": True}, {"foreach": True}, *LOW]
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.complex64)


def of_ones(package, rule, options, dtypes=TYPES):
    params = [torch.nn.Parameter(torch.ones(2, 3, dtype=dtype)) for dtype in dtypes]
    return params, getattr(package, rule)(params, lr=0.1, **options)


def kinds(params, optimizer):
    return [{n: (v.dtype, v.shape) for n, v in optimizer.state[p].items() if v is not None} for p in params]


@pytest.mark.parametrize("extra", CASES, ids=str)
@each_rule
def test_fake_steps(rule, options, extra):
    """The states of a real step, made of nothing; values are not asked for."""
    if rule == "SGD" and not options:
        extra = {name: value for name, value in extra.items() if name != "state_dtype"}
    dtypes = TYPES if extra in CASES[1:2] or not extra.keys() & {"telemetry"} else TYPES[:3]
    dtypes = TYPES[:3] if extra in LOW or "telemetry" in extra else dtypes
    options = {**options, **extra}
    dtypes = TYPES[:1] if "differentiable" in extra else dtypes
    real, stepped = of_ones(onepass.optim, rule, options, dtypes)
    if "differentiable" in extra:
        real = [real[0].detach().clone()]
        stepped = getattr(onepass.optim, rule)(real, lr=0.1, **options)
    zero_grad = "telemetry" in extra
    for param in real:
        param.grad = torch.ones_like(param)
    stepped.step(zero_grad=zero_grad)
    with FakeTensorMode():
        params, optimizer = of_ones(onepass.optim, rule, options, dtypes)
        if "differentiable" in extra:
            params = [params[0].detach().clone()]
            optimizer = getattr(onepass.optim, rule)(params, lr=0.1, **options)
        counted = None
        for _ in range(2):
            for param in params:
                param.grad = torch.ones_like(param)
            versions = [param._version for param in params]
            optimizer.step(zero_grad=zero_grad)
            assert all(param._version > before for param, before in zip(params, versions, strict=True))
            counts = [own["step"]._version for own in optimizer.state.values() if "step" in own]
            assert all(count > before for count, before in zip(counts, counted or [-1] * len(counts), strict=True))
            counted = counts
        optimizer.zero_grad()
        assert optimizer.skipped_steps == 0
        assert isinstance(optimizer.grad_norm, torch.Tensor)
        if "telemetry" in extra:
            assert isinstance(optimizer.statistics()[0].grad_norm, FakeTensor)
        saved = optimizer.state_dict()
    assert kinds(params, optimizer) == kinds(real, stepped)
    assert all(isinstance(v, FakeTensor) for own in saved["state"].values() for v in own.values() if v is not None)


@each_rule
def test_fake_states_are_loaded(rule, options):
    with FakeTensorMode():
        params, optimizer = of_ones(onepass.optim, rule, {**options, **TAIL, "telemetry": False})
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        resumed = getattr(onepass.optim, rule)(params, lr=0.1, **options, ema_decay=0.9)
        resumed.load_state_dict(optimizer.state_dict())
        resumed.step()
        assert kinds(params, resumed) == kinds(params, optimizer)


@each_rule
def test_fake_learning_rates_and_scales(rule, options):
    with FakeTensorMode():
        lr = torch.ones(()) * 0.1  # without a value, unlike a tensor that was just made of one
        params, optimizer = of_ones(onepass.optim, rule, options)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.grad_scale, optimizer.found_inf = lr, lr
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        getattr(onepass.optim, rule)(params, lr=lr, **options).step()
    assert all(optimizer.state[p] or not options for p in params)


def test_a_real_parameter_among_fake_ones():
    real = torch.nn.Parameter(torch.ones(3))
    real.grad = torch.ones(3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        params, _ = of_ones(onepass.optim, "SGD", {})
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer = onepass.optim.SGD([params[0], real])
        with pytest.raises(
            TypeError, match=r"^sgd: params\[1\] must be a fake tensor like others, got a real one"
        ):
            optimizer.step()
    assert torch.equal(real, torch.ones(3))


def test_a_fake_learning_rate_for_real_parameters():
    params, optimizer = of_ones(onepass.optim, "AdamW", {}, TYPES[:1])
    with FakeTensorMode():
        optimizer.param_groups[0]["lr"] = torch.ones(()) * 0.1
    params[0].grad = torch.ones(2, 3)
    before = params[0].detach().clone()
    with pytest.raises(ValueError, match=r"^adamw: lr must be finite and at least 0, got -?nan"):
        optimizer.step()
    assert torch.equal(params[0], before)


class Wrapped(torch.Tensor):
    """A tensor that holds another, and whose own memory is not there."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=inner.device, strides=inner.stride()
        )

    def __init__(self, inner):
        self.held = inner

    def __repr__(self):
        return f"Wrapped({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args, kwargs = pytree.tree_map_only(Wrapped, lambda t: t.held, (args, kwargs or {}))
        result = function(*args, **kwargs)
        if function.overloadpacket in (torch.ops.aten._local_scalar_dense,):
            return result
        return pytree.tree_map_only(torch.Tensor, Wrapped, result)


@pytest.mark.parametrize("tail", [{}, {"max_grad_norm": 0.5, "ema_decay": 0.5, "skip_nonfinite": True}], ids=str)
@each_rule
def test_wrapper_subclasses(rule, options, tail):
    """Stepped by operations that the class sees; the plain parameter next to it by the kernels."""
    runs = []
    for wrap in (Wrapped, torch.clone):
        params = [torch.nn.Parameter(wrap(torch.arange(1.0, 5))), torch.nn.Parameter(torch.ones(3))]
        optimizer = getattr(onepass.optim, rule)(params, lr=0.1, **options, **tail)
        for _ in range(3):
            params[0].grad, params[1].grad = wrap(torch.arange(4.0)), torch.ones(3)
            optimizer.step()
        runs.append(([getattr(params[0], "held", params[0]).detach(), params[1].detach()], optimizer))
    for mine, plain in zip(runs[0][0], runs[1][0], strict=True):
        torch.testing.assert_close(mine, plain, **FLOAT32_STEPS)
    assert [one.why for one in runs[0][1].unfused_parameters()] == ["tensor of class Wrapped"]
    assert not runs[1][1].unfused_parameters()


@each_rule
def test_functional_tensors(rule, options):
    """Within torch.func.functionalize, whose tensors have no memory either."""
    seen = []

    def two_steps(value, grad, package=onepass.optim):
        param = value.clone()
        param.grad = grad.clone()
        optimizer = getattr(package, rule)([param], lr=0.1, **options)
        optimizer.step()
        optimizer.step()
        seen.append([one.why for one in optimizer.unfused_parameters()] if package is onepass.optim else None)
        return param

    given = torch.linspace(-1, 1, 5), torch.linspace(2, 3, 5)
    stepped = torch.func.functionalize(two_steps)(*given)
    assert torch.equal(stepped, two_steps(*given, torchs))
    assert seen == [["tensor of torch.func"], None]


DTENSOR = """
import warnings
warnings.simplefilter("ignore")
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, init_device_mesh
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
mesh = init_device_mesh("cpu", (1,))
for rule in ("SGD", "Adam", "AdamW", "Lion"):
    plain = torch.nn.Parameter(torch.ones(4))
    shard = torch.nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Replicate()]))
    optimizer = getattr(onepass.optim, rule)([plain, shard])
    for param in (plain, shard):
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert torch.equal(plain, shard.to_local()) and not torch.equal(plain, torch.ones(4))
    assert optimizer.unfused_parameters() == []
    for param, grad in ((shard, torch.ones(4)), (plain, torch.ones_like(shard).detach())):
        plain.grad = shard.grad = None
        param.grad, before = grad, [plain.clone(), shard.to_local().clone()]
        try:
            optimizer.step()
        except TypeError as error:
            print(error)
        assert torch.equal(before[0], plain) and torch.equal(before[1], shard.to_local())
dist.destroy_process_group()
"""


def test_dtensor():
    """Is stepped; a gradient of the other kind is refused by name, and nothing has been changed."""
    lines = apart("test_optim_fake", DTENSOR).splitlines()
    kinds = ("a DTensor", "a plain tensor")
    assert lines == [
        f"{rule}: param_groups[0]['params'][{place}] must have a gradient that is {wanted} as it is itself, "
        f"got {got}"
        for rule in ("SGD", "Adam", "AdamW", "Lion")
        for place, wanted, got in ((1, *kinds), (0, *kinds[::-1]))
    ]


def zeros():
    """Returns zeros that are not stored, as some backward formulas of torch do."""
    return torch._efficientzerotensor((2, 3))


@pytest.mark.parametrize("tail", [{}, {"max_grad_norm": 0.5, "skip_nonfinite": True}], ids=str)
@each_rule
def test_zero_tensor_gradients(rule, options, tail):
    runs = []
    for zero in (zeros, lambda: torch.zeros(2, 3)):
        params, optimizer = of_ones(onepass.optim, rule, {**options, **tail}, TYPES[:2])
        for step in range(4):
            params[0].grad = zero() if step in (0, 2) else torch.ones(2, 3)
            params[1].grad = torch.ones(2, 3, dtype=torch.bfloat16)
            optimizer.step(zero_grad=step > 1)
            if step > 1:
                assert not params[0].grad.any()
        runs.append(snapshot(optimizer))
    assert (runs[0][1], runs[0][3]) == (runs[1][1], runs[1][3])


def test_zero_tensors_are_clipped():
    param, other = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))
    param.grad, other.grad = zeros(), torch.full((2,), 3.0)
    assert onepass.optim.clip_grad_norm_([param, other], 1.0).item() == pytest.approx(18**0.5)
    assert other.grad.norm().item() == pytest.approx(1)
    onepass.optim.clip_grad_value_([param, other], 0.25)
    assert other.grad.tolist() == [0.25, 0.25]
    assert not param.grad.any()


def test_a_parameter_of_zeros_that_are_not_stored():
    param = zeros().requires_grad_()
    param.grad = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"^sgd: params\[0\] must have memory, got a ZeroTensor"):
        onepass.optim.SGD([param]).step()


STATES = {"sparse": lambda v: v.to_sparse(), "meta": lambda v: v.to("meta"), "zero": lambda v: zeros()}


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
def test_states_without_memory(rule, kind):
    """Every state in turn, the average and the kept bits of low precision, too."""
    options = {
        "ema_decay": 0.5,
        "rounding": "kahan",
        **({"momentum": 0.9} if rule == "SGD" else {"amsgrad": True}),
    }
    params, optimizer = of_ones(onepass.optim, rule, options, TYPES[1:2])
    for _ in range(2):
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
    twin = copy.deepcopy(optimizer)
    for name in optimizer.state[params[0]]:
        value = STATES[kind](optimizer.state[params[0]][name])
        mend = put(optimizer.state[params[0]], name, value)
        before = params[0].detach().clone()
        with pytest.raises((TypeError, ValueError), match=rf"^{rule.lower()}: [a-z_]+\[0\] must (be|have) .*"):
            optimizer.step()
        assert torch.equal(params[0], before)
        mend()
    optimizer.step()
    (copied,) = twin.param_groups[0]["params"]
    copied.grad = params[0].grad
    twin.step()
    assert torch.equal(copied, params[0])
