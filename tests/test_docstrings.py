"""Docstrings of everything public: what they must say, and that their examples run.

Public is what `onepass.__all__` leads to: the classes and functions in it, and those of the modules in it. Classes
that are torch's own are torch's to document.
"""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterator

import pytest
import torch

import onepass
import onepass.parity
import onepass.report
import onepass.visualize


def public(module: types.ModuleType) -> Iterator[tuple[str, object]]:
    """Name below onepass, and the class or function, of all that a module makes public."""
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            yield from public(value)
        elif callable(value) and value.__module__.startswith("onepass"):
            yield f"{module.__name__}.{name}".removeprefix("onepass."), value


PUBLIC = dict([*public(onepass), *public(onepass.parity), *public(onepass.report), *public(onepass.visualize)])
# Where torch keeps what has the same name as ours.
TORCHS = {
    "nn": ("torch.nn",),
    "nn.functional": ("torch.nn.functional",),
    "optim": ("torch.optim", "torch.nn.utils"),
    "optim.functional": ("torch.optim.sgd", "torch.optim.adam", "torch.optim.adamw"),
    "optim.lr_scheduler": ("torch.optim.lr_scheduler",),
}
# What a paper proposed, besides what torch has, too.
OF_PAPERS = {
    "monitor.lr_range_test",
    "nn.mc_dropout",
    "nn.mc_predict",
    "visualize.landscape",
    "optim.lr_scheduler.WarmupStableDecayLR",
    *(f"optim.schedules.{name}" for name in ("cosine", "cyclic", "inverse_sqrt", "one_cycle", "sqrt_decay")),
    *(f"optim.schedules.{name}" for name in ("warm_restarts", "warmup", "wsd")),
}


def within(room: str, names: str) -> set[str]:
    return {f"{room}.{name}" for name in names.split()}


# What is still missing, by rule. A name goes from its list when its docstring has it; none is added.
LACKING: dict[str, set[str]] = {
    "difference": {
        *within("optim.lr_scheduler", "CosineAnnealingLR ExponentialLR MultiStepLR PolynomialLR StepLR"),
    },
}


def text_of(value: object) -> str:
    """The docstring, not an inherited one."""
    own = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    return inspect.cleandoc(own or "")


def section(text: str, title: str) -> str:
    """The indented lines below a title."""
    found = re.search(rf"^{title}:\n((?:[ \t]+.*\n|\n)*)", text + "\n", re.MULTILINE)
    return textwrap.dedent(found[1]) if found else ""


def pointed_at(name: str, what: str) -> object | None:
    """The class or function that is said to have the same: "arguments as `Dropout`"."""
    found = re.search(rf"{what}[^.`]*`([\w.]+)`", text_of(PUBLIC[name]), re.IGNORECASE)
    rooms = (name.rpartition(".")[0], "nn", "optim")
    places = [f"{room}.{found[1]}" for room in rooms] if found else []
    return next((PUBLIC[place] for place in places if place in PUBLIC), None)


def own_init(value: object) -> object | None:
    """The function whose arguments a caller gives; None for records, which nobody makes by hand."""
    if not isinstance(value, type):
        return inspect.unwrap(value)
    if dataclasses.is_dataclass(value) or issubclass(value, tuple):
        return None
    return value.__init__ if inspect.isfunction(value.__init__) else None


def lacks_summary(name: str) -> str:
    """A line of its own that begins with a verb: "Scales ..."."""
    first, _, rest = text_of(PUBLIC[name]).partition("\n")
    if not re.match(r"[A-Z][a-z]+s\b", first):
        return f"begins with no verb: {first}"
    return "" if first.endswith(".") and not rest.strip("\n").startswith(" ") and rest[:1] in ("", "\n") else first


def lacks_args(name: str) -> str:
    made_by = own_init(PUBLIC[name])
    if made_by is None:
        return ""
    wanted = [parameter for parameter in inspect.signature(made_by).parameters if parameter != "self"]
    texts = [text_of(value) for value in (PUBLIC[name], pointed_at(name, "arguments")) if value is not None]
    entries = re.findall(r"^([*\w][^:\n]*):", "\n".join(section(text, "Args") for text in texts), re.MULTILINE)
    told = {entry.strip("* ") for line in entries for entry in line.split(",")}
    return ", ".join(parameter for parameter in wanted if parameter not in told)


def lacks_raises(name: str) -> str:
    """Each kind of error that stands in its own code."""
    made_by = own_init(PUBLIC[name])
    if made_by is None:
        return ""
    tree = ast.parse(textwrap.dedent(inspect.getsource(made_by)))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    kinds = {call.func.id for call in raised if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
    texts = [text_of(value) for value in (PUBLIC[name], pointed_at(name, "errors")) if value is not None]
    told = "\n".join(section(text, "Raises") for text in texts)
    return ", ".join(sorted(kind for kind in kinds if not re.search(rf"^{kind}:", told, re.MULTILINE)))


def torchs(name: str) -> object | None:
    """What torch has by the same name."""
    room, _, own = name.rpartition(".")
    found = (getattr(importlib.import_module(place), own, None) for place in TORCHS.get(room, ()))
    return next((value for value in found if callable(value)), None)


def lacks_difference(name: str) -> str:
    missing = torchs(name) is not None and "\nDiffers from torch: " not in text_of(PUBLIC[name])
    return "no 'Differs from torch: '" if missing else ""


def lacks_source(name: str) -> str:
    wanted = torchs(name) is not None or name in OF_PAPERS
    return "no 'Source: '" if wanted and "\nSource: " not in text_of(PUBLIC[name]) else ""


def lacks_example(name: str) -> str:
    return "" if ">>>" in section(text_of(PUBLIC[name]), "Examples?") else "no 'Example:' with '>>> '"


RULES: dict[str, Callable[[str], str]] = {
    "summary": lacks_summary,
    "args": lacks_args,
    "raises": lacks_raises,
    "difference": lacks_difference,
    "source": lacks_source,
    "example": lacks_example,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name, rule):
    lacks = RULES[rule](name)
    if name in LACKING.get(rule, ()):
        assert lacks, f"{name} has what {rule} asks for: take it off LACKING"
    else:
        assert not lacks, f"{name}: {lacks}"


def test_what_is_lacking_is_public():
    assert {name for names in LACKING.values() for name in names} <= PUBLIC.keys()
    assert PUBLIC.keys() >= OF_PAPERS


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name):
    """Runs the examples of a function, or of a class and its methods; each imports what it uses."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    output: list[str] = []
    with torch.random.fork_rng(devices=[]):
        for example in doctest.DocTestFinder().find(PUBLIC[name], name, globs={}):
            runner.run(example, out=output.append)
    assert runner.failures == 0, "".join(output)


def scale(values: list[float], factor: float) -> list[float]:
    """The values scaled.

    Args:
        values: What is scaled.

    Raises:
        TypeError: Never.
    """
    if not values:
        raise ValueError("scale: values must not be empty")
    return [factor * value for value in values]


def test_the_rules_can_fail(monkeypatch):
    monkeypatch.setitem(PUBLIC, "nn.Linear", scale)
    found = {rule: bool(lacks("nn.Linear")) for rule, lacks in RULES.items()}
    assert found == dict.fromkeys(RULES, True)
    assert (lacks_args("nn.Linear"), lacks_raises("nn.Linear")) == ("factor", "ValueError")
