"""torch's own databases of modules and operators, which its tests run on, against our layers."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import onepass.nn
import onepass.nn.functional
from tolerance import UPSTREAM_FLOAT64, assert_parity

pytest.importorskip("expecttest", reason="torch's testing package needs it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*record_function.*", "ignore::DeprecationWarning:torch", "ignore:dropout2d. input with 3 dimensions"
)

MODULES = {
    info.module_cls.__name__: info
    for info in module_db
    if info.module_cls
    in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.CrossEntropyLoss, nn.LayerNorm, nn.RMSNorm)
}
NAMES = (
    "batch_norm",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_alpha_dropout",
    "layer_norm",
    "rms_norm",
)
OPERATORS = {
    f"{info.name.removeprefix('nn.functional.')} {info.variant_test_name}".strip(): info
    for info in op_db
    if info.name.removeprefix("nn.functional.") in NAMES and info.dtypes
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
modules = pytest.mark.parametrize("name", MODULES)
operators = pytest.mark.parametrize("name", OPERATORS)
trainings = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def test_the_databases_hold_what_is_expected():
    """If torch renames an entry, it is not silently left out."""
    assert len(MODULES) == 6
    assert {name.split()[0] for name in OPERATORS} == set(NAMES)


def fresh(value, dtype=None):
    """A leaf of its own for each that computes with it, in float64 for the judge."""
    if not isinstance(value, torch.Tensor):
        return value
    wide = value.detach().clone() if dtype is None or not value.is_floating_point() else value.detach().to(dtype)
    return wide.requires_grad_(value.requires_grad)


def results(function, given, changed=()) -> list[torch.Tensor]:
    """Output, gradients of all that require one, and what the call has changed."""
    output = function()
    leaves = [t for t in given if isinstance(t, torch.Tensor) and t.requires_grad]
    found = [output.detach()]
    if leaves and output.requires_grad:
        upstream = (torch.arange(output.numel()) % 8 - 3).to(output.dtype).view(output.shape)
        found += torch.autograd.grad(output, leaves, upstream)
    return found + [t.detach().clone() for t in changed]


def assert_all(mine, theirs, exact) -> None:
    """By the parity rule; what is no number of 16 or 32 bits is equal, or as good as that."""
    assert [(m.shape, m.dtype) for m in mine] == [(t.shape, t.dtype) for t in theirs]
    for k, (one, other, judge) in enumerate(zip(mine, theirs, exact, strict=True)):
        if one.dtype == torch.float64:
            torch.testing.assert_close(one, other, **UPSTREAM_FLOAT64, equal_nan=True)
        elif one.is_floating_point():
            assert_parity(one, other, judge, f"result {k}")
        else:
            assert torch.equal(one, other)


def assert_statistics(mine, exact, largest: float) -> None:
    """A mean near 0 of numbers that are not has their error, which the rule would not allow."""
    for one, judge in zip(mine, exact, strict=True):
        unit = torch.finfo(one.dtype).eps if one.is_floating_point() else 0
        torch.testing.assert_close(one.double(), judge.double(), atol=unit * largest, rtol=4 * unit)


def narrowed(mine, theirs) -> list[torch.Tensor]:
    """Our losses of half precision logits, which are float32 (docs/differences.md), in torch's dtype."""
    if theirs[0].dtype.itemsize == 2:
        assert mine[0].dtype == torch.float32
        return [mine[0].to(theirs[0].dtype), *mine[1:]]
    return mine


def module_inputs(info, dtype, training, errors=False):
    torch.manual_seed(0)
    function = info.module_error_inputs_func if errors else info.module_inputs_func
    return function(info, device="cpu", dtype=dtype, requires_grad=True, training=training)


def made(cls, given, dtype, training):
    """The module of a database entry in a dtype, with weights that are not 1 and 0."""
    module = cls(*given.args, **given.kwargs).train(training)
    if not isinstance(module, nn.CrossEntropyLoss):
        module = module.to(dtype)
    for k, value in enumerate([*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]):
        torch.nn.init.uniform_(value, 0.5, 1.5, generator=torch.Generator().manual_seed(k))
    return module


@dtypes
@trainings
@modules
def test_modules(name, training, dtype):
    """Outputs, gradients and buffers; a copy and a pickle of the module compute the same; print shows the same."""
    info = MODULES[name]
    for given in module_inputs(info, dtype, training):
        theirs, mine = (
            made(cls, given.constructor_input, dtype, training)
            for cls in (info.module_cls, getattr(onepass.nn, name))
        )
        assert repr(mine) == repr(theirs)
        exact = copy.deepcopy(theirs).double()
        found = []
        for module in (exact, theirs, mine, copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
            wide = torch.float64 if module is exact else None
            args = [fresh(value, wide) for value in given.forward_input.args]
            kwargs = {key: fresh(value, wide) for key, value in given.forward_input.kwargs.items()}
            tensors = [*args, *kwargs.values(), *module.parameters()]
            found.append(results(lambda m=module, a=args, k=kwargs: m(*a, **k), tensors, list(module.buffers())))
        exact_ones, torchs, *ours = found
        end = len(torchs) - len(list(mine.buffers())) * (name != "CrossEntropyLoss")
        largest = max([0.0, *given.forward_input.args[0].detach().abs().flatten().tolist()])
        for one in ours:
            assert_all((narrowed(one, torchs) if "Loss" in name else one)[:end], torchs[:end], exact_ones[:end])
            assert_statistics(one[end:], exact_ones[end:], largest)


# torch lists no errors of these.
WITHOUT_ERRORS = ("LayerNorm", "RMSNorm")


@trainings
@pytest.mark.parametrize("name", [name for name in MODULES if name not in WITHOUT_ERRORS])
def test_modules_refuse_what_torchs_refuse(name, training):
    info = MODULES[name]
    if info.module_error_inputs_func is None:
        pytest.fail("torch no longer has errors of this module")
    for given in module_inputs(info, torch.float32, training, errors=True):
        for cls in (info.module_cls, getattr(onepass.nn, name)):
            made_of = given.module_error_input
            raised = None
            try:
                module = cls(*made_of.constructor_input.args, **made_of.constructor_input.kwargs).train(training)
                module(*made_of.forward_input.args, **made_of.forward_input.kwargs)
            except (ValueError, TypeError, RuntimeError) as error:
                raised = error
            if cls is info.module_cls:
                expected = raised
        assert (raised is None) == (expected is None), (name, made_of, expected, raised)


@dtypes
@operators
def test_functions(name, dtype):
    """What is not drawn is torch's; what is drawn has, element by element, one of the two values it may have."""
    info = OPERATORS[name]
    for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
        if name[7:] in ("2d", "3d") and sample.input.dim() not in DIMENSIONS[name]:
            with pytest.raises(ValueError, match=f"^{name}: input must have "):
                call(getattr(onepass.nn.functional, name), sample)
            continue
        mine = call(getattr(onepass.nn.functional, name.split()[0]), sample)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs, exact = call(info.op, sample), call(info.op, sample, torch.float64)
        if drawn(name, sample):
            assert [(m.shape, m.dtype) for m in mine] == [(t.shape, t.dtype) for t in theirs]
            assert_kept_or_dropped(name, sample.input.detach(), mine[0], sample.kwargs.get("p", 0.5))
        else:
            assert_all(narrowed(mine, theirs) if name == "cross_entropy" else mine, theirs, exact)


# torch takes others with a warning; ours refuse them (docs/differences.md).
DIMENSIONS = {"dropout2d": (3, 4), "dropout3d": (4, 5)}


def call(function, sample, dtype=None) -> list[torch.Tensor]:
    args = [fresh(value, dtype) for value in (sample.input, *sample.args)]
    kwargs = {key: fresh(value, dtype) for key, value in sample.kwargs.items()}
    tensors = [*args, *kwargs.values()]
    changed = [t for t in tensors if isinstance(t, torch.Tensor) and not t.requires_grad]
    return results(lambda: function(*args, **kwargs), tensors, changed)


def drawn(name, sample) -> bool:
    """Whether an element may be dropped, another not."""
    assert len(sample.args) == 0 or "dropout" not in name
    default = "alpha" not in name
    return "dropout" in name and sample.kwargs.get("training", default) and 0 < sample.kwargs.get("p", 0.5) < 1


def assert_kept_or_dropped(name, x, y, p) -> None:
    wide = x.double()
    a, b, dead = 1 / (1 - p), 0.0, 0.0
    if "alpha" in name:
        limit = 1.7580993408473766
        a = ((1 - p) * (1 + p * limit**2)) ** -0.5
        b = a * p * limit
        dead = b - a * limit
    alive = a * wide + b
    # One rounding of the result, and one of a sum that may cancel.
    room = 2 * torch.finfo(y.dtype).eps * (alive.abs() + abs(b) + abs(dead))
    assert (((y.double() - alive).abs() <= room) | ((y.double() - dead).abs() <= room)).all()
