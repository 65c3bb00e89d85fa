"""BatchNorm1d, 2d and 3d as modules: torch's in everything but speed."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import onepass.nn
from batch_norm_setup import laid_out
from onepass.nn.functional import batch_norm
from tolerance import HALF_RESULTS

PAIRS = [
    (nn.BatchNorm1d, onepass.nn.BatchNorm1d, (6, 5)),
    (nn.BatchNorm1d, onepass.nn.BatchNorm1d, (6, 5, 3)),
    (nn.BatchNorm2d, onepass.nn.BatchNorm2d, (3, 5, 4, 4)),
    (nn.BatchNorm3d, onepass.nn.BatchNorm3d, (2, 5, 3, 2, 3)),
]
PAIR_IDS = ["1d", "1d-length", "2d", "3d"]
OPTIONS = [
    {},
    {"eps": 0.1, "momentum": 0.7},
    {"momentum": None},
    {"momentum": 0.0},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"track_running_stats": False, "momentum": None, "affine": False},
    {"dtype": torch.float64},
]
pairs = pytest.mark.parametrize(("theirs", "ours", "shape"), PAIRS, ids=PAIR_IDS)
options = pytest.mark.parametrize(
    "more", OPTIONS, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()) or "defaults"
)


def close(mine: torch.Tensor | None, other: torch.Tensor | None) -> None:
    """Equal but for rounding: test_batch_norm.py judges how well each is rounded."""
    torch.testing.assert_close(mine, other) if other is not None else None
    assert (mine is None) == (other is None)


@pairs
@options
def test_training_and_evaluation_go_as_with_torch(backend, theirs, ours, shape, more):
    """Steps in training, then evaluation, then training again, with momentum, counts and buffers compared."""
    torch.manual_seed(0)
    a, b = theirs(5, device=backend.device, **more), ours(5, device=backend.device, **more)
    for step in range(8):
        for module in (a, b):
            module.train(step not in (4, 5))
        x = torch.randn(shape, device=backend.device, dtype=more.get("dtype", torch.float32)) + step
        xs = [x.clone().requires_grad_() for _ in (a, b)]
        ys = [module(value) for module, value in zip((a, b), xs, strict=True)]
        for y in ys:
            y.backward(torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view(shape))
        close(ys[1], ys[0])
        close(xs[1].grad, xs[0].grad)
    for name, value in a.state_dict().items():
        close(b.state_dict()[name], value)
    for mine, other in zip(b.parameters(), a.parameters(), strict=True):
        close(mine.grad, other.grad)
    assert str(a) == str(b)


@pairs
@options
def test_state_dict_goes_both_ways_in_the_middle_of_training(theirs, ours, shape, more):
    a, b = theirs(5, **more), ours(5, **more)
    for first, second in ((a, b), (b, a)):
        for _ in range(3):
            first(torch.randn(shape, dtype=more.get("dtype", torch.float32)))
        assert second.load_state_dict(first.state_dict()).missing_keys == []
        assert list(first.state_dict()) == list(second.state_dict())
        assert first.state_dict()._metadata == second.state_dict()._metadata
        for name, value in first.state_dict().items():
            assert torch.equal(second.state_dict()[name], value)
            assert second.state_dict()[name].dtype == value.dtype


def test_checkpoints_from_before_num_batches_tracked_load():
    old = nn.BatchNorm2d(3).state_dict()
    del old["num_batches_tracked"]
    old._metadata[""]["version"] = 1
    module = onepass.nn.BatchNorm2d(3)
    module.load_state_dict(old)
    assert module.num_batches_tracked.item() == 0


@pairs
def test_class_and_text_are_torchs(theirs, ours, shape):
    module = ours(5, 1e-3, 0.2, True, True, "cpu", torch.float32)
    assert isinstance(module, theirs)
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    assert str(module) == str(theirs(5, 1e-3, 0.2))
    fused = ours(5, activation="relu", dropout=0.25)
    assert str(fused) == str(theirs(5)).replace(")", ", activation=relu, dropout=0.25)")


@pairs
def test_copies_and_pickles(theirs, ours, shape):
    module = ours(5, activation="relu")
    x = torch.randn(shape)
    module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), copy.deepcopy(module)(x))
        assert other.activation == "relu"


@pairs
def test_wrong_dimensions(theirs, ours, shape):
    for dims in range(1, 7):
        messages = []
        for kind in (theirs, ours):
            module = kind(5)
            try:
                module(torch.randn([5] * dims))
                messages.append("")
            except ValueError as error:
                messages.append(str(error))
                assert module.num_batches_tracked.item() == 0
        assert messages[0] == messages[1]


def test_one_value_a_channel_in_training():
    """An error as in torch, which then has counted the batch; in evaluation it is right (pytorch/pytorch#4534)."""
    module = onepass.nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match=r"input must have more than 1 value per channel in training, got shape"):
        module(torch.randn(1, 3, 1, 1))
    assert module.num_batches_tracked.item() == 0
    x = torch.randn(1, 3, 1, 1)
    close(module.eval()(x), nn.BatchNorm2d(3).eval()(x))


def test_rejected_calls_change_nothing():
    """torch counts the batch before it looks at the input."""
    module = onepass.nn.BatchNorm1d(3)
    before = copy.deepcopy(module.state_dict())
    for bad, error, message in (
        (torch.randn(4, 5), ValueError, "must have 5 elements, got 3"),
        (torch.randn(4, 3, dtype=torch.float64), TypeError, "must be torch.float64, got torch.float32"),
        (torch.ones(4, 3, dtype=torch.int64), TypeError, "must be"),
        (torch.ones(4, 3, dtype=torch.complex64), TypeError, "must be"),
    ):
        with pytest.raises(error, match=message):
            module(bad)
    with pytest.raises(ValueError, match=r"residual must have input's shape \(4, 3\), got \(1, 3\)"):
        module(torch.randn(4, 3), torch.randn(1, 3))
    with pytest.raises(TypeError, match=r"residual must be torch\.float32 like input, got torch\.bfloat16"):
        module(torch.randn(4, 3), torch.randn(4, 3).bfloat16())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("which", ["eps", "activation", "dropout", "running", "evaluation", "momentum", "seed"])
def test_arguments_of_the_function(which):
    x, mean, var = torch.randn(4, 3), torch.zeros(3), torch.ones(3)
    calls = {
        "eps": [
            (ValueError, "eps must be positive in training, got 0.0", {"training": True, "eps": 0.0}),
            (ValueError, "eps must be at least 0, got -1", {"eps": -1}),
            (ValueError, "eps must be positive in training, got nan", {"training": True, "eps": float("nan")}),
        ],
        "activation": [(ValueError, "activation must be None or 'relu', got 'tanh'", {"activation": "tanh"})],
        "dropout": [
            (ValueError, "dropout must be at least 0 and at most 1, got 1.5", {"dropout": 1.5, "training": True}),
            (ValueError, "dropout must be at least 0 and at most 1, got -1", {"dropout": -1}),
            (ValueError, "dropout must be at least 0 and at most 1, got nan", {"dropout": float("nan")}),
        ],
        "running": [
            (ValueError, "running_mean and running_var must both be given or both be None", {"running_var": None})
        ],
        "evaluation": [
            (
                ValueError,
                "running_mean and running_var must be given when not training",
                {"running_mean": None, "running_var": None},
            )
        ],
        "momentum": [(TypeError, "momentum must be a number, got None", {"momentum": None, "training": True})],
        "seed": [
            (ValueError, "seed must be None with dropout=0", {"seed": 1}),
            (ValueError, "generator must be None with dropout=0", {"generator": torch.Generator()}),
            (
                ValueError,
                "one of generator and seed must be None, got both",
                {"seed": 1, "generator": torch.Generator(), "dropout": 0.5, "training": True},
            ),
            (ValueError, "seed must be at least 0 and below 2", {"seed": -1, "dropout": 0.5, "training": True}),
            (ValueError, "seed must be at least 0 and below 2", {"seed": 2**64, "dropout": 0.5, "training": True}),
            (TypeError, "seed must be an int or an int64 tensor", {"seed": 1.0, "dropout": 0.5, "training": True}),
            (
                TypeError,
                "seed must be torch.int64, got torch.int32",
                {"seed": torch.ones(1, dtype=torch.int32), "dropout": 0.5, "training": True},
            ),
            (
                ValueError,
                "seed must have one element on cpu, got shape",
                {"seed": torch.ones(2, dtype=torch.int64), "dropout": 0.5, "training": True},
            ),
        ],
    }
    for error, message, more in calls[which]:
        with pytest.raises(error, match=f"batch_norm: {message}"):
            batch_norm(x, **{"running_mean": mean, "running_var": var, **more})
    assert (mean == 0).all()
    assert (var == 1).all()


@pytest.mark.parametrize("option", [{"activation": "gelu"}, {"dropout": -0.1}], ids=str)
def test_options_of_the_module_are_checked_at_once(option):
    name, value = next(iter(option.items()))
    with pytest.raises(ValueError, match=f"BatchNorm2d: {name} must be .*, got '?{value}"):
        onepass.nn.BatchNorm2d(3, **option)


@pairs
def test_empty_batches(theirs, ours, shape):
    """Nothing is normalised, gradients are zeros, the batch is counted and the statistics stay: as in torch."""
    for training in (True, False):
        a, b = theirs(5).train(training), ours(5, activation=None).train(training)
        for module in (a, b):
            x = torch.randn(0, *shape[1:], requires_grad=True)
            y = module(x)
            assert y.shape == x.shape
            y.sum().backward()
            assert x.grad.shape == x.shape
            assert torch.equal(module.weight.grad, torch.zeros(5))
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name


def test_empty_batches_with_everything():
    x, residual = (torch.randn(0, 5, 2, requires_grad=True) for _ in range(2))
    module = onepass.nn.BatchNorm1d(5, activation="relu", dropout=0.5)
    module(x, residual).sum().backward()
    assert residual.grad.shape == x.grad.shape == (0, 5, 2)


def test_no_channels():
    """torch fails on weight[0]."""
    y = batch_norm(torch.randn(4, 0), None, None, torch.ones(0), torch.ones(0), training=True, activation="relu")
    assert y.shape == (4, 0)


def test_a_parametrised_weight():
    """The class is another one then, and the weight an attribute."""

    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    modules = [nn.BatchNorm1d(3), onepass.nn.BatchNorm1d(3)]
    x = torch.randn(4, 3)
    for module in modules:
        parametrize.register_parametrization(module, "weight", Double())
    close(modules[1](x), modules[0](x))


def test_half_precision_keeps_float32_parameters():
    """module.half() makes them half; a mixed-precision recipe does not: both work, as in torch."""
    x = torch.randn(6, 3).half()
    for change in (lambda m: m, lambda m: m.half(), lambda m: m.bfloat16()):
        a, b = change(nn.BatchNorm1d(3)), change(onepass.nn.BatchNorm1d(3))
        value = x.to(torch.bfloat16) if a.weight.dtype == torch.bfloat16 else x
        y = b(value)
        assert y.dtype == value.dtype
        torch.testing.assert_close(y, a(value), **HALF_RESULTS)
        assert b.running_var.dtype == a.running_var.dtype


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_residual_of_another_layout(layout):
    x, residual = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    expected = batch_norm(x, None, None, training=True, residual=residual)
    for mine in ("contiguous", "channels_last"):
        y = batch_norm(laid_out(x, mine), None, None, training=True, residual=laid_out(residual, layout))
        assert torch.equal(y, expected)
        assert y.stride() == laid_out(x, mine).stride()


@pytest.fixture(scope="module")
def torchs_own():
    """torch's own test inputs, which come with it; its test code warns of its own habits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    return op_db, module_db


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_torchs_own_module_inputs(torchs_own, kind, training):
    theirs, ours = getattr(nn, kind), getattr(onepass.nn, kind)
    (info,) = (one for one in torchs_own[1] if one.module_cls is theirs)
    given = info.module_inputs_func(info, "cpu", torch.float32, requires_grad=True, training=training)
    assert len(given) > 5
    for one in given:
        args, kwargs = one.constructor_input.args, one.constructor_input.kwargs
        a, b = theirs(*args, **kwargs).train(training), ours(*args, **kwargs).train(training)
        results = [module(*one.forward_input.args, **one.forward_input.kwargs) for module in (a, b)]
        close(results[1], results[0])
        for name, value in a.state_dict().items():
            close(b.state_dict()[name], value)
    errors = info.module_error_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True)
    for one in errors:
        construct, forward = one.module_error_input.constructor_input, one.module_error_input.forward_input
        with pytest.raises(one.error_type, match=one.error_regex):
            ours(*construct.args, **construct.kwargs)(*forward.args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torchs_own_function_inputs(torchs_own, dtype):
    info = next(one for one in torchs_own[0] if one.name == "nn.functional.batch_norm")
    for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
        results = []
        for function in (nn.functional.batch_norm, batch_norm):
            args = [value.detach().clone() if value is not None else None for value in sample.args]
            x = sample.input.detach().clone().requires_grad_()
            if x.dim() == 1:
                assert x.numel() == 0
            y = function(x, *args, **sample.kwargs)
            (grad,) = torch.autograd.grad(y.float().square().sum(), x)
            results.append((y, grad, args[0], args[1]))
        for theirs, mine in zip(*results, strict=True):
            torch.testing.assert_close(mine, theirs, equal_nan=True) if theirs is not None else None


def test_negative_bit():
    """What only says that it is negative is read as what it is; running statistics are written through it."""

    def flipped(tensor):
        return torch._neg_view(-tensor)

    x, residual, grad = torch.randn(3, 6, 4)
    vectors = torch.rand(4, 4)
    for training in (False, True):
        found = []
        for view in (torch.clone, flipped):
            mean, var, weight, bias = (view(one) for one in vectors)
            one = x.clone().requires_grad_()
            y = onepass.nn.functional.batch_norm(
                one, mean, var, weight, bias, training, activation="relu", residual=view(residual)
            )
            y.backward(view(grad))
            plain = onepass.nn.functional.batch_norm(view(x), mean, var, weight, bias)
            found.append((y, one.grad, mean, var, plain))
        for mine, theirs in zip(*found, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning:torch")
def test_traced():
    module = onepass.nn.BatchNorm1d(4).eval()
    module.running_mean.fill_(2)
    traced = torch.jit.trace(module, torch.randn(3, 4))
    x = torch.randn(3, 4)
    assert torch.equal(traced(x), module(x))


def test_inference_tensors_and_running_statistics_with_gradients_are_refused_before_anything_changes():
    with torch.inference_mode():
        x = torch.randn(6, 4)
    mean, var = torch.zeros(4), torch.ones(4)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="batch_norm: input must not be an inference tensor"):
        batch_norm(x, mean, var, torch.ones(4, requires_grad=True), training=True, dropout=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="batch_norm: running_mean and running_var must not require a gradient"):
        batch_norm(torch.randn(6, 4), mean, var.clone().requires_grad_(), training=True)
    assert mean.eq(0).all()
    assert var.eq(1).all()
