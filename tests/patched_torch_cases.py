"""Calls of ours that fall back to torch's functions, for processes in which those are replaced."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import onepass

F = onepass.nn.functional
# Our modules, and the places where torch has functions or classes of the same names.
PLACES = (
    (F, ("torch.nn.functional",)),
    (onepass.nn, ("torch.nn", "torch.nn.modules", "torch.nn.modules.batchnorm", "torch.nn.modules.dropout")),
    (onepass.nn, ("torch.nn.modules.loss",)),
    (onepass.optim, ("torch.optim", "torch.nn.utils", "torch.nn.utils.clip_grad")),
    (onepass.optim, ("torch.optim.sgd", "torch.optim.adam", "torch.optim.adamw")),
    (onepass.optim.lr_scheduler, ("torch.optim.lr_scheduler",)),
    (onepass.optim.functional, ("torch.optim.sgd", "torch.optim.adam", "torch.optim.adamw")),
)


def patch() -> list[str]:
    """Replaces everything of torch that has the name of something of ours by ours; returns the names."""
    replaced = []
    for ours, theirs in PLACES:
        for name in ours.__all__:
            for place in map(importlib.import_module, theirs):
                if callable(getattr(ours, name)) and callable(getattr(place, name, None)):
                    setattr(place, name, getattr(ours, name))
                    replaced.append(f"{place.__name__}.{name}")
    return replaced


class Subclass(torch.Tensor):
    """A tensor whose functions go through __torch_function__."""


class FunctionMode(TorchFunctionMode):
    """Lets everything through."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    """Lets everything through."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_rows(x: Tensor, target: Tensor, target2: Tensor | None = None, **options: object) -> Tensor:
    """Computes the loss with as many targets as there are rows."""
    second = None if target2 is None else target2[: len(x)]
    return F.cross_entropy(x, target[: len(x)], target2=second, **options)


def functions() -> dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]]:
    """Returns functions of one tensor by name, each with the tensor's shape."""
    labels, rows = torch.tensor([0, 2, -100, 1]), tensor(4, 3, seed=1).softmax(1)
    weight, second = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1, 1, 0, -100])
    mean, var = tensor(3, seed=2), tensor(3, seed=3).square() + 0.5
    found: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {}
    for reduction in ("mean", "sum", "none"):
        loss = partial(of_rows, reduction=reduction)
        found |= {
            f"labels-{reduction}": (partial(loss, target=labels, weight=weight, label_smoothing=0.1), (4, 3)),
            f"dense-{reduction}": (partial(loss, target=rows, label_smoothing=0.2), (4, 3)),
            f"mixed-{reduction}": (partial(loss, target=labels, target2=second, lam=0.3, z_loss=0.1), (4, 3)),
        }
    found["of-one"] = (partial(F.cross_entropy, target=torch.tensor(1)), (3,))
    train = partial(F.batch_norm, running_mean=None, running_var=None, training=True, weight=weight, bias=mean)
    found["norm-training"] = (train, (4, 3, 2))
    found["norm-relu"] = (partial(train, activation="relu"), (4, 3, 2))
    found["norm"] = (partial(F.batch_norm, running_mean=mean, running_var=var, weight=weight), (4, 3))
    shapes = {"dropout1d": (2, 3, 2), "dropout2d": (2, 3, 2, 2), "dropout3d": (2, 3, 2, 2, 2)}
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"):
        function = partial(getattr(F, name), p=0.5, training=True, seed=7)
        found[name] = (function, shapes.get(name, (2, 3, 2)))
    return found


def ways(function: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields names and calls of the function, most of which leave the kernels' regular way."""
    total = lambda x: function(x).sum()  # noqa: E731
    directions = tensor(2, *x.shape, seed=4)

    def twice() -> object:
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
        if not first.requires_grad:
            return first
        return first, torch.autograd.grad(first.square().sum(), leaf)

    def batched() -> object:
        leaf = x.clone().requires_grad_()
        output = function(leaf)
        return torch.autograd.grad(output, leaf, tensor(2, *output.shape, seed=5), is_grads_batched=True)

    def dual() -> object:
        with forward_ad.dual_level():
            return tuple(forward_ad.unpack_dual(function(forward_ad.make_dual(x, directions[0]))))

    def within(mode: AbstractContextManager[object], x: Tensor = x) -> object:
        with mode:
            leaf = x.clone().requires_grad_()
            output = function(leaf)
            return output, torch.autograd.grad(output.sum(), leaf)

    yield "plain", partial(within, nullcontext())
    yield "twice", twice
    yield "grads-batched", batched
    yield "dual", dual
    yield "function-mode", partial(within, FunctionMode())
    yield "dispatch-mode", partial(within, DispatchMode())
    yield "subclass", partial(within, nullcontext(), x.as_subclass(Subclass))
    yield "empty", lambda: within(nullcontext(), x[:0] if x.dim() > 1 else x)
    yield "func-grad", lambda: torch.func.grad(total)(x)
    yield "jvp", lambda: torch.func.jvp(function, (x,), (directions[0],))
    yield "vjp", lambda: torch.func.vjp(total, x)[1](torch.tensor(2.0))
    yield "vmap", lambda: torch.func.vmap(function, randomness="same")(directions)
    yield "vmap-grad", lambda: torch.func.vmap(torch.func.grad(total), randomness="same")(directions)
    yield "jacrev", lambda: torch.func.jacrev(function)(x)
    yield "jacfwd", lambda: torch.func.jacfwd(function, randomness="same")(x)
    yield "hessian", lambda: torch.func.hessian(total)(x)
    yield "jacobian", lambda: torch.autograd.functional.jacobian(function, x, vectorize=True)


def gradients() -> dict[str, Callable[[], list[Tensor]]]:
    """Makes gradients that our clipping hands to torch's, and some that it clips itself."""
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.tensor([3.0, -4.0]), (5,))
    return {
        "dense": lambda: [tensor(5), tensor(3, 3, seed=1)],
        "sparse": lambda: [sparse.clone(), tensor(3, seed=1)],
        "complex": lambda: [torch.complex(tensor(5), tensor(5, seed=1))],
        "subclass": lambda: [tensor(5).as_subclass(Subclass)],
        "strided": lambda: [tensor(6, 6)[:, ::2]],
    }


def clipping() -> Iterator[tuple[str, Callable[[], object]]]:
    clip_norm, clip_value = onepass.optim.clip_grad_norm_, onepass.optim.clip_grad_value_

    def clipped(make: Callable[[], list[Tensor]], clip: Callable[[list[Tensor]], object]) -> object:
        params = []
        for grad in make():
            params.append(torch.nn.Parameter(torch.zeros(grad.shape, dtype=grad.dtype)))
            params[-1].grad = grad
        return clip(params), [param.grad for param in params]

    for name, make in gradients().items():
        for foreach in (None, False):
            for order in (2.0, 1.0, -2.0):
                norm = partial(clip_norm, max_norm=1.0, norm_type=order, foreach=foreach)
                yield f"clip-{name}-{foreach}-{order}", partial(clipped, make, norm)
            yield (
                f"value-{name}-{foreach}",
                partial(clipped, make, partial(clip_value, clip_value=0.5, foreach=foreach)),
            )


def training() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields calls of our classes that look torch's up."""

    def rates(make: Callable[[torch.optim.Optimizer], object]) -> object:
        optimizer = onepass.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        scheduler = make(optimizer)
        found = []
        for _ in range(5):
            optimizer.step()
            scheduler.step(*([1.0] if "Plateau" in type(scheduler).__name__ else []))
            found.append(optimizer.param_groups[0]["lr"])
        return torch.tensor(found)

    def parts(optimizer: torch.optim.Optimizer) -> list[object]:
        return [schedulers.ConstantLR(optimizer, 0.5, 2), schedulers.ExponentialLR(optimizer, 0.5)]

    schedulers = onepass.optim.lr_scheduler
    yield "StepLR", lambda: rates(lambda o: schedulers.StepLR(o, 2))
    yield "Sequential", lambda: rates(lambda o: schedulers.SequentialLR(o, parts(o), [2]))
    yield "Chained", lambda: rates(lambda o: schedulers.ChainedScheduler(parts(o)))
    yield "Plateau", lambda: rates(lambda o: schedulers.ReduceLROnPlateau(o, patience=1))
    for kind in ("SGD", "Adam", "AdamW"):
        yield kind, partial(steps, kind)


def steps(kind: str) -> object:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), onepass.nn.BatchNorm1d(4), onepass.nn.Dropout(0.0))
    with torch.no_grad():
        for i, param in enumerate(model.parameters()):
            param.copy_(tensor(*param.shape, seed=i))
    optimizer = getattr(onepass.optim, kind)(model.parameters(), lr=0.1)
    loss = onepass.nn.CrossEntropyLoss(label_smoothing=0.1)
    for seed in range(3):
        loss(model(tensor(5, 3, seed=seed)), torch.tensor([0, 1, 2, 3, 0])).backward()
        onepass.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for name, (function, shape) in functions().items():
        for way, call in ways(function, tensor(*shape)):
            yield f"{name}-{way}", call
    yield from clipping()
    yield from training()


def listed(value: object) -> list[Tensor]:
    """Returns the tensors in nested tuples, detached."""
    if isinstance(value, Tensor):
        return [value.detach().as_subclass(Tensor).to_dense().contiguous().clone()]
    if isinstance(value, (list, tuple)):
        return [one for part in value for one in listed(part)]
    return []


def main(path: str, patched: bool) -> None:
    """Writes a file with what each case gives, by name: tensors, or the text of its error."""
    made = list(cases())
    if patched:
        names = patch()
        assert {"torch.nn.functional.cross_entropy", "torch.nn.utils.clip_grad_norm_", "torch.optim.SGD"} <= {
            *names
        }
    # Falling back takes only a few calls, so an endless recursion is found soon.
    sys.setrecursionlimit(600)
    results: dict[str, object] = {}
    for name, call in made:
        try:
            results[name] = listed(call())
        except RecursionError:
            results[name] = "RecursionError"
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"
    torch.save(results, path)
