"""Docstrings of optimizers, schedules, schedulers and monitors: each has an example, and the examples run."""

from __future__ import annotations

import doctest
import inspect

import pytest

from onepass import monitor, optim
from onepass.optim import apex, functional, lr_scheduler, schedules

MODULES = (optim, functional, apex, lr_scheduler, schedules, monitor)
PUBLIC = {
    f"{module.__name__}.{name}": value
    for module in MODULES
    for name, value in ((name, getattr(module, name)) for name in module.__all__)
    if (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__.startswith("onepass.")
}


@pytest.mark.parametrize("name", PUBLIC)
def test_examples(name):
    finder = doctest.DocTestFinder()
    tests = [test for test in finder.find(PUBLIC[name], name, globs={}) if test.examples]
    assert [test for test in tests if test.name == name], "an example is missing"
    for test in tests:
        said: list[str] = []
        runner = doctest.DocTestRunner()
        runner.run(test, out=said.append)
        assert not runner.failures, "".join(said)


def test_what_is_public_is_found():
    assert {"onepass.optim.AdamW", "onepass.optim.schedules.wsd", "onepass.monitor.lr_range_test"} <= set(PUBLIC)
    assert len(PUBLIC) > 45
