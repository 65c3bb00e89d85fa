"""Every public function, with a value of a wrong kind for each argument: an error by name, or a result."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import onepass
from onepass import monitor, optim
from onepass._arguments import told
from onepass.nn import functional
from onepass.optim import functional as updates
from onepass.optim import lr_scheduler, schedules

PACKAGE = Path(onepass.__file__).parent
BATCH = torch.randn(8, 4)
LABELS = torch.zeros(8, dtype=torch.long)


class Nothing:
    """An object that is of no use to anyone."""


WRONG = {"None": None, "text": "x", "object": Nothing()}
# What torch itself refuses, by its own words: it takes these arguments as they are.
BY_TORCH = {"device", "dtype"}
# Objects that hold what they are given.
RECORDS = {
    "Conversion",
    "Draws",
    "LossStatistics",
    "Prediction",
    "Curve",
    "LRRangeResult",
    "Suggestion",
    "NoDecay",
}
RECORDS |= {"GroupStatistics", "FunctionLR", "Schedule", "KeptMemory"}
RECORDS |= {"Cure", "Evidence", "Finding", "Rule", "Threshold"}


def param():
    made = nn.Parameter(torch.ones(4))
    made.grad = torch.ones(4)
    return made


def adamw(**options):
    made = optim.AdamW([param()], **options)
    made.step()
    return made


def model():
    return nn.Sequential(nn.Linear(4, 4), onepass.nn.Dropout(0.5))


def given(name: str) -> dict:
    """Values that go together, by the names of arguments; `name`: the callable."""
    sgd = optim.SGD([param()], lr=0.1)
    parts = [lr_scheduler.LinearLR(sgd) for _ in range(2)]
    one = torch.zeros(4)
    values = {
        "model": model(), "params": [param()], "parameters": [param()], "optimizer": sgd, "input": BATCH,
        "x": BATCH, "target": LABELS, "num_features": 4, "running_mean": one.clone(), "running_var": one + 1,
        "layer": nn.Linear(4, 4), "batch_norm": nn.BatchNorm1d(4).eval(), "state_dict": adamw().state_dict(),
        "max_norm": 1.0, "clip_value": 1.0, "weight_decay": 0.1, "samples": 2, "schedulers": parts, "size": 3,
        "grads": [one], "exp_avgs": [one.clone()], "exp_avg_sqs": [one.clone()], "milestones": [2], "up": 3,
        "max_exp_avg_sqs": [one.clone()], "state_steps": [torch.tensor(0.0)], "momentum_buffer_list": [None],
        "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "dampening": 0.0, "nesterov": False, "step": 1,
        "maximize": False, "amsgrad": False, "momentum": 0.9, "schedule": schedules.cosine(9), "step_size": 2,
        "lr_lambda": abs, "T_max": 5, "T_0": 5, "max_lr": 0.1, "base_lr": 0.01, "gamma": 0.9, "steps": 10,
        "warmup_steps": 2, "total_steps": 9, "stable_steps": 3, "decay_steps": 3, "timescale": 2.0,
        "text": "cosine(3)", "loss_fn": nn.functional.mse_loss, "loader": [(BATCH, BATCH)], "metrics": 1.0,
        "param_group": {"params": [param()]}, "averages": [], "history": monitor.History(),
        "normalized_shape": [4],
    }  # fmt: skip
    if name in ("dropout2d", "dropout3d", "feature_alpha_dropout"):
        values["input"] = torch.randn(2, 3, 4, 4, 4) if name == "dropout3d" else torch.randn(2, 3, 4, 4)
    return values


def publics() -> dict:
    """The package's functions and classes, by name."""
    found = {}
    for module in (onepass, onepass.nn, functional, optim, updates, lr_scheduler, schedules, monitor):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and value.__module__.startswith("onepass") and name not in RECORDS:
                found[f"{module.__name__}.{name}"] = value
    return found


def method(make, name):
    return lambda **options: getattr(make(), name)(**options)


def sgd_of_one():
    return optim.SGD([param()], lr=0.1)


METHODS = {
    "History.to_pandas": monitor.History,
    "BatchNorm1d.forward": lambda: onepass.nn.BatchNorm1d(4),
    "Dropout.forward": lambda: onepass.nn.Dropout(0.5),
    "CrossEntropyLoss.forward": onepass.nn.CrossEntropyLoss,
    "AdamW.step": adamw,
    "AdamW.load_state_dict": adamw,
    "AdamW.add_param_group": adamw,
    "AdamW.import_ema": adamw,
    "ReduceLROnPlateau.step": lambda: lr_scheduler.ReduceLROnPlateau(sgd_of_one()),
    "ReduceLROnPlateau.load_state_dict": lambda: lr_scheduler.ReduceLROnPlateau(sgd_of_one()),
    "ScheduleLR.step": lambda: lr_scheduler.ScheduleLR(sgd_of_one(), "cosine(9)"),
    "ScheduleLR.load_state_dict": lambda: lr_scheduler.ScheduleLR(sgd_of_one(), "cosine(9)"),
}
CALLS = {name: (value, inspect.signature(value)) for name, value in publics().items()}
CALLS |= {
    name: (method(make, name.split(".")[1]), inspect.signature(getattr(make(), name.split(".")[1])))
    for name, make in METHODS.items()
}
# Who else may speak in the name of a callable.
ALSO = {
    "BatchNorm1d.forward": "batch_norm",
    "CrossEntropyLoss.forward": "cross_entropy",
    "Dropout.forward": "dropout",
    "mc_predict": "mc_dropout",
    "parse": "schedule",
    "ScheduleLR": "schedule",
}
# What goes to the user's own model, and a text that is one of the wrong content.
FREE = {("mc_predict", "x"), ("parse", "text")}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_a_wrong_kind_is_named(name, wrong):
    function, signature = CALLS[name]
    short = name.split(".")[0] if name in METHODS else name.split(".")[-1]
    speaking = [short, ALSO.get(name, ALSO.get(short, short))]
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in signature.parameters.values() if p.kind not in kinds]
    required = [n for n in names if signature.parameters[n].default is inspect.Parameter.empty]
    unnamed = []
    for argument in set(names) - BY_TORCH:
        values = given(short)
        options = {n: values[n] for n in {*required, *({"total_steps", "metrics"} & {*names})}}
        options[argument] = WRONG[wrong]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function(**options)
        except Exception as error:
            text = str(error)
            by_name = argument in text and any(one.lower() in text.lower() for one in speaking)
            if not by_name and (short, argument) not in FREE:
                unnamed.append(f"{argument}: {type(error).__name__}: {text}")
    assert unnamed == []


@pytest.mark.parametrize("wrong", [None, 3, Nothing()], ids=["None", "number", "object"])
def test_what_is_no_path_of_a_run_file(wrong):
    with pytest.raises(TypeError, match=r"^History\.read: path must be a path, got "):
        monitor.History.read(wrong)


LONG = {
    "list": [0.5] * 5000,
    "dict": {f"key{i}": i for i in range(5000)},
    "array": np.arange(999.0).reshape(-1, 3),
    "text": "x" * 5000,
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize(
    "call",
    [
        lambda value: optim.AdamW([param()], lr=value),
        lambda value: optim.AdamW([param()], betas=value),
        lambda value: optim.AdamW([param()], rounding=value if isinstance(value, str) else repr(value)),
        lambda value: adamw().load_state_dict(value if isinstance(value, Mapping) else {repr(value): 0}),
        lambda value: optim.no_decay_groups(model(), 0.1, no_decay_names=value),
        lambda value: optim.clip_grad_norm_([param()], value),
        lambda value: functional.dropout(value),
        lambda value: functional.cross_entropy(BATCH, LABELS, reduction=repr(value)),
        lambda value: onepass.nn.BatchNorm1d(4, activation=repr(value)),
        lambda value: onepass.nn.convert(value),
        lambda value: schedules.cosine(value),
        lambda value: lr_scheduler.ReduceLROnPlateau(sgd_of_one(), patience=value),
    ],
)
def test_a_long_value_is_cut(call, kind):
    with pytest.raises((TypeError, ValueError)) as raised:
        call(LONG[kind])
    assert len(str(raised.value)) < 400


def test_told():
    assert told([1, "a"]) == "[1, 'a']"
    assert re.fullmatch(r"\[0, 1, .{150,200} \.\.\. \(of class list\)", told(list(range(10000))))

    class Unshown:
        def __repr__(self):
            raise OSError

    assert told(Unshown()) == "an object of class Unshown"


def test_all_that_is_told_is_cut():
    """Errors of the package show what they got by one function."""
    tools = ("bench", "cli", "parity", "demo")
    files = [p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] not in tools]
    shown = [(p.name, line) for p in files for line in p.read_text().splitlines() if re.search(r"got .*!r}", line)]
    assert shown == []


@pytest.mark.parametrize(
    "values",
    [(1, 2), iter([1, 2]), {1: 0, 2: 0}, range(1, 3), [1, 2]],
    ids=["tuple", "iterator", "dict", "range", "list"],
)
def test_what_is_listed(values):
    from onepass._arguments import listed

    assert listed("f", "values", values, "numbers") == [1, 2]


@pytest.mark.parametrize(
    "state", [{}, {"state": {}}, {"param_groups": [], "state": 3}, {"state": {}, "param_groups": 3}]
)
def test_to_apex_names_what_is_missing(state):
    with pytest.raises((TypeError, ValueError), match=r"^to_apex: state_dict(\['\w+'\])? must (hold|be a)"):
        optim.to_apex(state)
