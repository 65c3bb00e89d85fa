"""The range test: it leaves everything as it was, counts real updates, and finds a rate."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import onepass.nn
import onepass.optim
from onepass.monitor import _snapshot, lr_range_test
from onepass.monitor._rules import RULES
from onepass.optim import lr_scheduler
from tolerance import ACCUMULATED_RTOL

OPTIMIZERS = {
    "torch-sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "torch-fused": lambda p: torch.optim.AdamW(p, torch.tensor(0.1), fused=True),
    "sgd": lambda p: onepass.optim.SGD(p, 0.1, momentum=0.9),
    "adamw": lambda p: onepass.optim.AdamW(
        p, 0.1, skip_nonfinite=True, max_grad_norm=1.0, ema_decay=0.9, telemetry=True
    ),
    "stochastic": lambda p: onepass.optim.AdamW(p, 0.1, rounding="stochastic", seed=1),
}


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3)]
    if dtype == torch.float32:
        layers.insert(1, onepass.nn.BatchNorm1d(16, activation="relu", dropout=0.1))
    model = torch.nn.Sequential(*layers).to(dtype)
    model.register_buffer("scratch", torch.ones(2), persistent=False)
    return model


def loader_of(dtype=torch.float32, **options):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(64, 4, generator=generator)
    targets = (inputs.sum(1) > 0).long()
    return DataLoader(TensorDataset(inputs.to(dtype), targets), 16, shuffle=True, **options)


def step(model, optimizer, loader):
    for inputs, targets in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def test_state(model, optimizer, scaler, loader):
    """Everything that is put back, as bits that can be compared."""
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    own = [value for state in optimizer.state.values() for value in state.values()]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return {
        "tensors": [tensor.detach().clone() for tensor in tensors],
        "grads": [id(p.grad) for p in model.parameters()],
        "state": copy.deepcopy(own),
        "identities": [id(value) for value in (*tensors, *own) if isinstance(value, torch.Tensor)],
        "groups": copy.deepcopy(groups),
        "skipped": getattr(optimizer, "skipped_steps", None),
        "names": sorted(set(optimizer.__dict__) - {"_plan"}),
        "modes": [module.training for module in model.modules()],
        "scaler": None if scaler is None else copy.deepcopy(scaler.state_dict()),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),  # noqa: NPY002
        "loader": None if loader.generator is None else loader.generator.get_state().tolist(),
    }


test_state.__test__ = False


def same(first, second):
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first.detach(), second.detach())
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
def test_everything_is_as_it_was(kind, trained, fails):
    dtype = torch.bfloat16 if kind == "stochastic" else torch.float32
    model, loader = model_of(dtype), loader_of(dtype, generator=torch.Generator().manual_seed(5))
    model[0].bias.requires_grad_(False)
    optimizer = OPTIMIZERS[kind](p for p in model.parameters() if p.requires_grad)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9, follow="optimizer")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    if trained:
        step(model, optimizer, loader)
        scaler.scale(torch.ones(()))
    before = test_state(model, optimizer, scaler, loader)
    calls = []

    def loss_fn(outputs, targets):
        calls.append(random.random() + np.random.rand())  # noqa: NPY002
        if fails and len(calls) > 30:
            raise KeyboardInterrupt
        return torch.nn.functional.cross_entropy(outputs, targets)

    options = {"steps": 12, "seeds": 2, "accumulate": 2, "scaler": scaler, "max_lr": 100.0, "diverge": 1e9}
    if fails:
        with pytest.raises(KeyboardInterrupt):
            lr_range_test(model, optimizer, loss_fn, loader, **options)
    else:
        result = lr_range_test(model, optimizer, loss_fn, loader, **options)
        assert [len(curve.lrs) for curve in result.curves] == [12, 12]
    after = test_state(model, optimizer, scaler, loader)
    for name in before:
        assert same(before[name], after[name]), name
    # What follows is what would have followed without the test.
    other, other_loader = model_of(dtype), loader_of(dtype, generator=torch.Generator().manual_seed(5))
    other[0].bias.requires_grad_(False)
    untouched = OPTIMIZERS[kind](p for p in other.parameters() if p.requires_grad)
    lr_scheduler.ExponentialLR(untouched, 0.9, follow="optimizer")
    if trained:
        step(other, untouched, other_loader)
    for trainee in ((model, optimizer, loader), (other, untouched, other_loader)):
        torch.manual_seed(9)
        step(*trainee)
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    scheduler.step()
    assert scheduler.last_epoch == 4 * (1 + trained)


@pytest.mark.parametrize("fused", [None, True], ids=["scaler-drops", "step-drops"])
def test_dropped_updates_are_tried_again(fused):
    model, loader = model_of(), loader_of()
    optimizer = onepass.optim.SGD(model.parameters(), 0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6)
    calls = []
    model[0].weight.register_hook(
        lambda grad: grad * (calls.append(1) or (float("inf") if len(calls) < 4 else 1.0))
    )
    curve = lr_range_test(
        model, optimizer, torch.nn.functional.cross_entropy, loader, steps=10, max_lr=0.1, seeds=1, scaler=scaler
    ).curves[0]
    assert curve.dropped == 3
    assert scaler.get_scale() == 2.0**10
    assert curve.lrs == pytest.approx(np.geomspace(1e-6, 0.1, 10))
    assert np.isfinite(curve.losses).all()


def test_updates_that_never_succeed():
    model, loader = model_of(), loader_of()
    optimizer = onepass.optim.SGD(model.parameters(), 0.1, skip_nonfinite=True)
    model[0].weight.register_hook(lambda grad: grad * float("nan"))
    before = model[0].weight.detach().clone()
    with pytest.raises(
        RuntimeError, match="updates must succeed now and then, got 65 dropped in a row at rate 1e-06"
    ):
        lr_range_test(model, optimizer, torch.nn.functional.cross_entropy, loader, steps=10)
    assert torch.equal(model[0].weight, before)


def test_accumulated_batches_are_one():
    """The mean of the micro-batches' losses is the large batch's, and so are the updates."""

    def sweep(batch, accumulate):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        data = loader_of().dataset
        loader = DataLoader(data, batch)
        optimizer = onepass.optim.SGD(model.parameters(), 0.1)
        loss_fn = torch.nn.functional.cross_entropy
        return lr_range_test(model, optimizer, loss_fn, loader, steps=20, accumulate=accumulate, seeds=1).curves[0]

    assert sweep(8, 4).losses == pytest.approx(sweep(32, 1).losses, rel=ACCUMULATED_RTOL)


@pytest.mark.parametrize("sweep", ["exponential", "linear"])
def test_it_stops_when_the_loss_diverges_and_suggests(sweep, tmp_path):
    torch.manual_seed(0)
    model, loader = (
        torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3)),
        loader_of(),
    )
    optimizer = onepass.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.2}], 0.1, momentum=0.9
    )
    lrs = []
    optimizer.register_step_pre_hook(lambda opt, *_: lrs.append([group["lr"] for group in opt.param_groups]))
    loss_fn = torch.nn.functional.cross_entropy
    result = lr_range_test(
        model, optimizer, loss_fn, loader, min_lr=1e-4, max_lr=1e5, steps=80, sweep=sweep, seeds=[1, 5]
    )
    assert [curve.seed for curve in result.curves] == [1, 5]
    assert all(curve.diverged and len(curve.lrs) < 80 for curve in result.curves)
    assert all(second == pytest.approx(2 * first) for first, second in lrs)
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert written["options"]["sweep"] == sweep
    picture = tmp_path / "range.png"
    result.plot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert result.table().row_count == len(result.suggestions)
    if sweep == "exponential":
        assert 1e-4 < result.suggestion < 10
        for one in result.suggestions.values():
            assert one.low <= one.lr <= one.high
            assert len(one.by_seed) <= 2


def test_autocast_and_determinism():
    model, loader = model_of(), loader_of()
    optimizer = onepass.optim.AdamW(model.parameters(), 0.1)
    dtypes = []

    def loss_fn(outputs, targets):
        dtypes.append(outputs.dtype)
        return torch.nn.functional.cross_entropy(outputs.float(), targets)

    options = {"steps": 10, "seeds": 2, "autocast": torch.bfloat16}
    first, second = (lr_range_test(model, optimizer, loss_fn, loader, **options) for _ in range(2))
    assert set(dtypes) == {torch.bfloat16}
    assert first.to_json() == second.to_json()
    assert first.curves[0].losses != first.curves[1].losses
    assert first.options["autocast"] == "torch.bfloat16"


def test_rules():
    lrs = np.geomspace(1e-4, 1.0, 9).tolist()
    losses = [2.0, 2.0, 1.9, 1.2, 0.8, 0.7, 0.9, 3.0, 9.0]
    assert RULES["steepest"](lrs, losses) == lrs[3]
    assert RULES["last_stable"](lrs, losses) == pytest.approx(lrs[5] / 10)
    assert RULES["valley"](lrs, losses) in (lrs[2], lrs[3])  # it falls from point 0 or 1 to point 5
    rising = [1.0, 2.0, 3.0]
    assert [rule(lrs[:3], rising) for rule in RULES.values()] == [None, None, None]


def test_nothing_to_suggest():
    model, loader = model_of(), loader_of()
    optimizer = onepass.optim.SGD(model.parameters(), 0.1)
    loss_fn = lambda outputs, targets: 0 * outputs.sum() + 1.0  # noqa: E731
    result = lr_range_test(model, optimizer, loss_fn, loader, steps=10, seeds=1)
    with pytest.raises(
        RuntimeError, match="there is no suggestion, because the loss fell in no sweep; widen min_lr"
    ):
        _ = result.suggestion
    result.plot()


WRONG = {
    "min_lr": ({"min_lr": 0}, "min_lr must be finite and above 0, got 0"),
    "max_lr": ({"min_lr": 1, "max_lr": 0.5}, "max_lr must be finite and above min_lr 1, got 0.5"),
    "text": ({"min_lr": "1"}, "min_lr must be a number, got '1'"),
    "steps": ({"steps": 9}, "steps must be an integer and at least 10, got 9"),
    "accumulate": ({"accumulate": 0}, "accumulate must be an integer and at least 1, got 0"),
    "diverge": ({"diverge": 1}, "diverge must be above 1, got 1"),
    "smoothing": ({"smoothing": 1}, "smoothing must be at least 0 and below 1, got 1"),
    "sweep": ({"sweep": "up"}, "sweep must be exponential or linear, got 'up'"),
    "seeds": ({"seeds": 0}, "seeds must be at least one, got 0"),
    "iterator": ({"loader": iter([])}, "loader must be iterable again and again, got the iterator"),
    "empty": ({"loader": []}, "loader must have at least one batch, got none"),
    "pairs": ({"loader": [{"x": 1}]}, r"loader must give pairs \(input, target\), got dict"),
    "loss": ({"loss_fn": lambda o, t: 3.0}, "loss_fn must return a tensor of one element, got 3.0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    options, message = WRONG[name]
    model = model_of()
    arguments = {"loss_fn": torch.nn.functional.cross_entropy, "loader": loader_of(), **options}
    with pytest.raises((ValueError, TypeError), match=f"lr_range_test: {message}"):
        lr_range_test(model, onepass.optim.SGD(model.parameters(), 0.1), **arguments)


class Odd(torch.nn.Module):
    """Buffers that copy_ cannot fill, and one that each forward pass resizes."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 3)
        self.register_buffer("expanded", torch.ones(1).expand(3))
        with torch.inference_mode():
            self.register_buffer("inferred", torch.ones(3))
        self.register_buffer("resized", torch.full((3,), 2.0))
        self.register_buffer("zero", torch.zeros(1))

    def forward(self, inputs):
        self.expanded[:1] += 1
        self.zero.neg_()
        self.resized.resize_(self.resized.numel() + 1).zero_()
        return self.body(inputs)


def test_tensors_that_are_hard_to_put_back():
    torch.manual_seed(0)
    model = Odd()
    before = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    optimizer = onepass.optim.SGD(model.parameters(), 0.1)
    lr_range_test(model, optimizer, torch.nn.functional.cross_entropy, loader_of(), steps=11, seeds=1)
    for name, value in model.state_dict(keep_vars=True).items():
        assert value is before[name][0], name
        assert torch.equal(value, before[name][1]), name
    assert not torch.signbit(model.zero)


def test_what_cannot_be_put_back_stops_nothing_else(monkeypatch):
    model = Odd()
    weight = model.body.weight.detach().clone()
    optimizer = onepass.optim.SGD(model.parameters(), 0.1)
    fill = _snapshot._fill

    def refuses(value, contents):
        if value is model.inferred:
            raise RuntimeError("no")
        fill(value, contents)

    monkeypatch.setattr(_snapshot, "_fill", refuses)
    with pytest.raises(RuntimeError, match="lr_range_test: everything must be put back, got no"):
        lr_range_test(model, optimizer, torch.nn.functional.cross_entropy, loader_of(), steps=10, seeds=1)
    assert torch.equal(model.body.weight, weight)
    assert model.resized.tolist() == [2.0] * 3


def test_gradients_stay_where_an_argument_is_refused_and_outside_the_model():
    model, outside = model_of(), torch.nn.Parameter(torch.ones(2))
    grad = model[0].weight.grad = torch.ones_like(model[0].weight)
    optimizer = onepass.optim.SGD([*model.parameters(), outside], 0.1)
    loss_fn = lambda o, t: torch.nn.functional.cross_entropy(o, t) + outside.sum()  # noqa: E731
    with pytest.raises(TypeError, match=r"scaler must be a torch\.amp.GradScaler, got int"):
        lr_range_test(model, optimizer, loss_fn, loader_of(), steps=10, scaler=3)
    assert model[0].weight.grad is grad
    lr_range_test(model, optimizer, loss_fn, loader_of(), steps=10, seeds=1)
    assert model[0].weight.grad is grad
    assert outside.grad is None


def test_evaluation_mode_is_refused():
    model = model_of().eval()
    with pytest.raises(ValueError, match="model must be in training mode, got one in evaluation mode"):
        lr_range_test(model, onepass.optim.SGD(model.parameters(), 0.1), torch.nn.functional.cross_entropy, [])


def rates_in_a_test(optimizer):
    """The rates of the groups in the first updates of a range test."""
    seen = []
    optimizer.register_step_pre_hook(
        lambda opt, *_: seen.append([float(group["lr"]) for group in opt.param_groups])
    )
    inputs, targets = torch.ones(4, 2), torch.zeros(4, 1)
    model = torch.nn.Linear(2, 1)
    loss_fn = torch.nn.functional.mse_loss
    lr_range_test(model, optimizer, loss_fn, [(inputs, targets)], min_lr=1.0, max_lr=2.0, steps=10, seeds=1)
    return seen[0]


@pytest.mark.parametrize("held", ["warm-up", "one group", "no scheduler"])
def test_rates_of_zero(held):
    """If a warm-up holds the rates at 0, the ratios are those of the initial rates. A frozen group stays at 0."""
    lrs = [0.1, 0.4, 0.0] if held != "no scheduler" else [0.0, 0.2, 0.4]
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs])
    if held == "warm-up":
        lr_scheduler.ScheduleLR(optimizer, "warmup(5)")
    elif held == "one group":
        lr_scheduler.ScheduleLR(optimizer, ["warmup(5)", "warmup(5, 0.5)", "cosine(5)"])
    before = [group["lr"] for group in optimizer.param_groups]
    wanted = [1.0, 4.0, 0.0] if held != "no scheduler" else [0.0, 1.0, 2.0]
    assert rates_in_a_test(optimizer) == pytest.approx(wanted)
    assert [group["lr"] for group in optimizer.param_groups] == before


def test_all_rates_of_zero_are_one_rate():
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=0.0)
    assert rates_in_a_test(optimizer) == [1.0, 1.0]
