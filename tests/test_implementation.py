"""Implementations that the command gets by name: --impl, --kwargs and --as."""

from __future__ import annotations

import sys

import pytest
import torch

import onepass
from onepass._implementation import LAYERS, ImplementationError, load, parse_kwargs, stands_for, text_of


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("torch.optim:AdamW", torch.optim.AdamW),
        ("torch.nn.functional:cross_entropy", torch.nn.functional.cross_entropy),
        ("onepass:optim.SGD", onepass.optim.SGD),
    ],
)
def test_load(name, found):
    assert load(name) is found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with modules, which are forgotten again."""
    texts = {
        "own_rule": "class Mine:\n    class Inner:\n        pass\nTABLE = {}\n",
        "own_broken": "raise RuntimeError('no such GPU')\n",
        "own_lacking": "import a_package_that_is_not_there\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    for name in texts:
        sys.modules.pop(name, None)


def test_modules_of_the_current_folder_are_found(folder):
    assert load("own_rule:Mine.Inner").__qualname__ == "Mine.Inner"
    assert str(folder) == sys.path[-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("AdamW", "--impl must be module:Name, as torch.optim:AdamW, got AdamW"),
        ("torch.optim:", "--impl must be module:Name, as torch.optim:AdamW, got torch.optim:"),
        (":AdamW", "--impl must be module:Name, as torch.optim:AdamW, got :AdamW"),
        (".optim:AdamW", "--impl must be module:Name, as torch.optim:AdamW, got .optim:AdamW"),
        (
            "nowhere.optim:AdamW",
            "--impl must name a module that can be imported, got nowhere.optim:AdamW: there is no module nowhere",
        ),
        (
            "torch.optim.nowhere:AdamW",
            "--impl must name a module that can be imported, got torch.optim.nowhere:AdamW: "
            "there is no module torch.optim.nowhere",
        ),
        (
            "own_broken:Mine",
            "--impl must name a module that can be imported, got own_broken:Mine: RuntimeError: no such GPU",
        ),
        (
            "own_lacking:Mine",
            "--impl must name a module that can be imported, got own_lacking:Mine: "
            "ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
        ),
        ("own_rule:mine", "--impl must name a class or function of own_rule, got own_rule:mine; it has Mine"),
        ("own_rule:Other", "--impl must name a class or function of own_rule, got own_rule:Other"),
        ("own_rule:TABLE", "--impl must name a class or function, got own_rule:TABLE, which is of type dict"),
    ],
)
def test_load_says_what_is_wrong(name, message, folder):
    with pytest.raises(ImplementationError) as caught:
        load(name)
    assert str(caught.value) == message


def test_kwargs():
    given = [
        "fused=True",
        "betas=(0.9, 0.95)",
        "eps=1e-3",
        "state_dtype=torch.bfloat16",
        "rounding=stochastic",
        "name='a b'",
        "seed=-3",
        "clip=None",
        "layout=torch.channels_last",
    ]
    assert parse_kwargs(given) == {
        "fused": True,
        "betas": (0.9, 0.95),
        "eps": 1e-3,
        "state_dtype": torch.bfloat16,
        "rounding": "stochastic",
        "name": "a b",
        "seed": -3,
        "clip": None,
        "layout": torch.channels_last,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fused"], "--kwargs must be name=value, got fused"),
        (["=3"], "--kwargs must be name=value, got =3"),
        (["a-b=3"], "--kwargs must be name=value, got a-b=3"),
        (["a=3", "a=4"], "--kwargs must have each name once, got a twice"),
        (["fused=true"], "--kwargs must have True with a capital, got fused=true"),
        (["clip=none"], "--kwargs must have None with a capital, got clip=none"),
        (
            ["dtype=torch.flaot32"],
            "--kwargs must have a dtype or memory format after torch., got dtype=torch.flaot32",
        ),
        (["dtype=torch.ones"], "--kwargs must have a dtype or memory format after torch., got dtype=torch.ones"),
        (
            ["betas=(0.9,"],
            "--kwargs must have a literal of Python, a dtype or a word as value, got betas=(0.9,",
        ),
        (["lr="], "--kwargs must have a literal of Python, a dtype or a word as value, got lr="),
    ],
)
def test_kwargs_say_what_is_wrong(given, message):
    with pytest.raises(ImplementationError) as caught:
        parse_kwargs(given)
    assert str(caught.value) == message


def named(name: str, *bases: type) -> type:
    return type(name, bases or (object,), {})


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("AdamW8bit", "adamw"),
        ("PagedAdamW32bit", "adamw"),
        ("AdamWFp8", "adamw"),
        ("Adam", "adam"),
        ("MyFusedSGD", "sgd"),
        ("SGD8bit", "sgd"),
        ("Lion_8bit", "lion"),
    ],
)
def test_an_optimizers_name_says_its_rule(name, rule):
    assert stands_for(named(name)) == rule


@pytest.mark.parametrize("name", ["RAdam", "NAdam", "Adamax", "AdamMini", "ScheduleFreeAdamW", "Dadam", "Ours"])
def test_other_rules_must_be_named(name):
    kind = named(name)
    wanted = "--as must say what .*, one of sgd, adam, adamw, lion: its name and base classes do not, got nothing"
    with pytest.raises(ImplementationError, match=wanted):
        stands_for(kind)
    assert stands_for(kind, "adam") == "adam"
    with pytest.raises(ImplementationError, match="--as must be one of sgd, adam, adamw, lion, got radam"):
        stands_for(kind, "radam")


def test_the_base_class_of_torch_says_the_rule():
    assert stands_for(named("Ours", torch.optim.AdamW)) == "adamw"
    assert stands_for(named("Ours", torch.optim.Adam)) == "adam"
    assert stands_for(named("Ours", torch.nn.BatchNorm2d), among=LAYERS) == "batch_norm"
    with pytest.raises(ImplementationError):
        stands_for(named("Ours", torch.optim.RAdam))


def test_layers_names():
    kinds = {
        "BatchNorm2d": "batch_norm",
        "FusedBatchNorm": "batch_norm",
        "SyncBatchNorm": "batch_norm",
        "Dropout1d": "dropout",
        "LigerCrossEntropyLoss": "cross_entropy",
        "fast_cross_entropy": "cross_entropy",
    }
    assert {name: stands_for(named(name), among=LAYERS) for name in kinds} == kinds
    assert stands_for(torch.nn.functional.cross_entropy, among=LAYERS) == "cross_entropy"


def test_an_argument_says_that_the_decay_is_decoupled():
    class FusedAdam:
        def __init__(self, params, adam_w_mode=True):
            pass

    assert stands_for(FusedAdam) == "adamw"
    assert stands_for(FusedAdam, kwargs={"adam_w_mode": False}) == "adam"
    assert stands_for(FusedAdam, "adam") == "adam"
    assert stands_for(torch.optim.Adam, kwargs={"decoupled_weight_decay": True}) == "adamw"
    assert stands_for(torch.optim.Adam) == "adam"


def test_text_of():
    assert text_of(torch.optim.AdamW) == "torch.optim.adamw:AdamW"
    assert text_of(torch.nn.functional.cross_entropy) == "torch.nn.functional:cross_entropy"
