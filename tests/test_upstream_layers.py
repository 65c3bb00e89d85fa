"""What torch documents and tests of batch norm, dropout and the loss besides numbers: ours in the same program.

Each scenario builds layers from a namespace, torch's or ours, and returns what it saw.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune, skip_init
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import onepass.nn
from onepass.nn import functional
from optim_scenarios import outcome, same

pytestmark = pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")

SCENARIOS: dict[str, Callable[[Any], Any]] = {}
NORMS = {"BatchNorm1d": [(4, 3), (4, 3, 5)], "BatchNorm2d": [(4, 3, 5, 5)], "BatchNorm3d": [(2, 3, 2, 3, 2)]}
DROPOUTS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
X = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def net(nns) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nns.BatchNorm1d(4), nn.ReLU(), nns.Dropout(0.0))


def state(module) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def gradients(module) -> list[torch.Tensor | None]:
    return [p.grad for p in module.parameters()]


@scenario
def printing(nns):
    norms = (((), {}), ((1e-3, None), {}), ((1e-3, 0.3, False, False), {}), ((), {"bias": False}))
    losses = ({}, {"reduction": "sum", "label_smoothing": 0.1})
    return [
        [repr(getattr(nns, name)(3, *a, **k)) for name in NORMS for a, k in norms],
        [repr(getattr(nns, name)(*a)) for name in DROPOUTS for a in ((), (0.3,), (0.2, True))],
        [repr(nns.CrossEntropyLoss(**k)) for k in losses],
        repr(net(nns)).replace("onepass.", ""),
    ]


@scenario
def signatures(nns):
    """Names, order and defaults of all that torch's take; what is ours is by keyword alone."""
    functions = F if nns is nn else functional
    names = ("batch_norm", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "cross_entropy")
    found = [getattr(functions, name) for name in names]
    found += [getattr(nns, name).__init__ for name in (*NORMS, *DROPOUTS, "CrossEntropyLoss")]
    return [
        [(p.name, repr(p.default)) for p in inspect.signature(f).parameters.values() if p.kind != p.KEYWORD_ONLY]
        for f in found
    ]


@scenario
def kinds(nns):
    modules = torch.nn.modules
    return [
        [type(m).__name__ for m in net(nns).modules()],
        [isinstance(getattr(nns, name)(3), getattr(nn, name)) for name in NORMS],
        isinstance(nns.BatchNorm2d(3), modules.batchnorm._BatchNorm),
        [isinstance(getattr(nns, name)(), getattr(nn, name)) for name in (*DROPOUTS, "CrossEntropyLoss")],
        isinstance(nns.Dropout(), modules.dropout._DropoutNd),
        nns.BatchNorm1d._version,
        # Ours may have more: TorchScript's names of options.
        [
            set(getattr(nn, name).__constants__) <= set(getattr(nns, name).__constants__)
            for name in (*NORMS, *DROPOUTS, "CrossEntropyLoss")
        ],
    ]


@scenario
def dimensions_of_norms(nns):
    shapes = [(2, 3, 2, 2, 2, 2)[:d] for d in range(1, 7)]
    return [
        outcome(lambda n=name, s=shape, t=training: getattr(nns, n)(3).train(t)(torch.ones(s)).shape)[:2]
        for name in NORMS
        for shape in shapes
        for training in (True, False)
    ]


@scenario
def one_value_a_channel(nns):
    shapes = {"BatchNorm1d": [(1, 3), (1, 3, 1), (1, 3, 2)], "BatchNorm2d": [(1, 3, 1, 1), (1, 3, 1, 2)]}
    return [
        outcome(lambda n=name, s=shape, o=options: getattr(nns, n)(3, **o).eval()(torch.ones(s)).shape)[:2]
        for name, given in shapes.items()
        for shape in given
        for options in ({}, {"track_running_stats": False})
    ]


@scenario
def empty_batches(nns):
    found = []
    for name, shape in (
        ("BatchNorm1d", (0, 3)),
        ("BatchNorm1d", (2, 3, 0)),
        ("BatchNorm2d", (0, 3, 2, 2)),
        ("BatchNorm3d", (2, 3, 0, 2, 2)),
    ):
        module, x = getattr(nns, name)(3), torch.ones(shape, requires_grad=True)
        y = module(x)
        y.sum().backward()
        found.append((y.shape, x.grad.shape, gradients(module), state(module)))
    for name, shape in (("Dropout", (3, 0)), ("Dropout1d", (0, 3, 4)), ("Dropout2d", (2, 3, 0, 4))):
        found.append(getattr(nns, name)(0.5)(torch.ones(shape)).shape)
    return found


@scenario
def checkpoints(nns):
    """Loads older versions without the count, missing and superfluous keys, and by assignment."""
    saved, found = nns.BatchNorm2d(3).state_dict(), []
    found.append((list(saved), saved["num_batches_tracked"].dtype, saved._metadata))
    for key in list(saved):
        some = copy.deepcopy(saved)
        del some[key]
        found.append(outcome(lambda s=some: nns.BatchNorm2d(3).load_state_dict(s))[0])
    old = copy.deepcopy(saved)
    del old["num_batches_tracked"]
    old._metadata[""] = {"version": 1}
    module = nns.BatchNorm2d(3)
    module.num_batches_tracked.fill_(5)
    module.load_state_dict(old)
    found.append(module.num_batches_tracked)
    found.append(outcome(lambda: nns.BatchNorm2d(4).load_state_dict(saved))[0])
    found.append(str(nns.BatchNorm2d(3, affine=False).load_state_dict(saved, strict=False)))
    whole = net(nns)
    put = {k: v.clone() for k, v in whole.state_dict().items()}
    whole.load_state_dict(put, assign=True)
    whole(X)
    found.append((whole[1].running_mean is put["1.running_mean"], put["1.running_mean"]))
    with torch.device("meta"):
        empty = net(nns)
    found.append([t.device.type for t in empty.state_dict().values()])
    empty.load_state_dict(net(nns).state_dict(), assign=True)
    return [*found, empty(X), skip_init(nns.BatchNorm1d, 4).weight.shape]


@scenario
def attributes_set_later(nns):
    module, found = nns.BatchNorm1d(3), []
    for momentum in (0.1, 1.0, 0.0, None, 0.5, 1.5):
        module.momentum = momentum
        module(X)
        found.append(state(module))
    module.track_running_stats = False
    found += [module(X), module.eval()(X), state(module)]
    module.track_running_stats = True
    module.train()(X)
    found.append(state(module))
    module.reset_running_stats()
    found.append(state(module))
    module.running_mean = module.running_var = None
    found += [module(X), module.eval()(X)]
    module.weight = None
    found.append(module(X))
    counted = nns.BatchNorm1d(3)
    counted.num_batches_tracked = None
    found += [counted(X), counted.running_mean]
    drop = nns.Dropout(0.5)
    drop.p = 1.0
    found.append(drop(X))
    drop.p = 2.0
    return [*found, outcome(lambda: drop(X))]


@scenario
def copies(nns):
    module = net(nns)
    module(X)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    twins = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)]
    found = [(twin(X), state(twin)) for twin in twins]
    shallow = copy.copy(module[1])
    shallow(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    return found, state(module), shallow.running_mean is module[1].running_mean


@scenario
def averaged_models(nns):
    found = []
    for use_buffers in (True, False):
        module = net(nns)
        averaged = AveragedModel(module, use_buffers=use_buffers, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        for k in range(3):
            module(X + k)
            averaged.update_parameters(module)
        found.append(state(averaged))
        update_bn([X, X + 1], averaged)
        found.append(state(averaged))
    return found


@scenario
def transforms(nns):
    """torch.func: a module called with other parameters, an ensemble at once, gradients of each example."""
    module = net(nns)
    given = {k: v.clone() for k, v in module.state_dict().items()}
    found = [torch.func.functional_call(module, given, (X,)), list(given.values()), state(module)]
    module.eval()
    weights = dict(module.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(module, weights, (x[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, X)
    found += [
        list(each.values()),
        torch.func.jacfwd(module)(X[:2]),
        torch.func.hessian(lambda x: module(x).sum())(X[:1]),
    ]
    several = [net(nns).eval() for _ in range(3)]
    for k, one in enumerate(several):
        one[1].running_mean.fill_(k)
    stacked = torch.func.stack_module_state(several)
    return [*found, torch.func.vmap(lambda p, b: torch.func.functional_call(several[0], (p, b), (X,)))(*stacked)]


class Positive(nn.Module):
    def forward(self, x):
        return x.abs() + 0.1


@scenario
def weights_of_others_making(nns):
    module = net(nns)
    parametrize.register_parametrization(module[1], "weight", Positive())
    module(X).sum().backward()
    pruned = net(nns)
    prune.custom_from_mask(pruned[1], "weight", torch.tensor([1.0, 0, 1, 0]))
    pruned(X).sum().backward()
    found = [module(X), gradients(module), pruned(X), pruned[1].weight_orig.grad]
    prune.remove(pruned[1], "weight")
    return [*found, pruned(X)]


@scenario
def autograd(nns):
    """What is kept on the host, anomalies looked for, hooks, gradients of some, twice, of what was written to."""
    # The gradient of a bias in front of a norm is 0; in float32 its noise would be as large as the tolerance.
    inputs = X.double()
    found = []
    for context in (torch.autograd.graph.save_on_cpu(), torch.autograd.set_detect_anomaly(True)):
        module = net(nns).double()
        with context:
            module(inputs).square().sum().backward()
        found.append(gradients(module))
    module, x = net(nns).double(), inputs.clone().requires_grad_()
    module[1].weight.register_hook(lambda grad: grad * 2)
    module[1].weight.register_post_accumulate_grad_hook(lambda p: found.append(p.grad.shape))
    y = module(x).square().sum()
    y.backward(retain_graph=True)
    y.backward(inputs=[x])
    found += [x.grad, gradients(module), outcome(y.backward)[:2]]
    for spoil in (lambda norm, h: h.add_(1), lambda norm, h: norm.weight.add_(1)):
        norm, h = nns.BatchNorm1d(3).double(), inputs.clone().requires_grad_() * 1
        y = norm(h)
        with torch.no_grad():
            spoil(norm, h)
        found.append(outcome(lambda y=y: y.sum().backward())[0])
    y = nns.BatchNorm1d(3).double()(x)
    y.relu_().square().sum().backward()
    return [*found, x.grad]


@scenario
def modes(nns):
    found = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module = net(nns)
        y = module(X)
    y.float().sum().backward()
    found.append((y.dtype, module[1].weight.grad.dtype, module[1].running_mean.dtype))
    module = net(nns)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    found += [module(X.double()), module[1].num_batches_tracked.dtype]
    module = net(nns)
    module[1].eval()
    module(X).square().sum().backward()
    found += [gradients(module), state(module)]
    module.eval()
    outputs: list[torch.Tensor] = [X] * 4
    threads = [threading.Thread(target=lambda k=k: outputs.__setitem__(k, module(X + k))) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [*found, outputs]


@scenario
def random_numbers(nns):
    """Dropouts that drop nothing draw nothing, and give the input itself in evaluation."""
    found = []
    for drop in (nns.Dropout(0.5).eval(), nns.AlphaDropout(0.5).eval()):
        torch.manual_seed(3)
        found.append((drop(X) is X, torch.rand(1)))
    torch.manual_seed(3)
    nns.Dropout(0.0)(X)
    return [*found, torch.rand(1)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios(name):
    same(SCENARIOS[name](onepass.nn), SCENARIOS[name](nn), name)
