"""torch.distributed.checkpoint makes an optimizer's states by a step on zeros, which must not count as a step."""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import onepass.monitor
import onepass.optim
from tail_setup import flat

# One process is enough.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
RULES = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "dampening": ("SGD", {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
    "adam": ("Adam", {"weight_decay": 0.1}),
    "amsgrad": ("Adam", {"amsgrad": True}),
    "adamw": ("AdamW", {"weight_decay": 0.1}),
    "lion": ("Lion", {"weight_decay": 0.1}),
}
HALVES = {
    "bfloat16": {},
    "state-float32": {"state_dtype": torch.float32},
    "stochastic": {"rounding": "stochastic"},
    "kahan": {"rounding": "kahan"},
    "master": {"master_weights": True},
}
TAILS = {"": {}, "-tail": {"ema_decay": 0.5, "max_grad_norm": 1.0, "telemetry": True}}
FLAT = {"nested": StateDictOptions(), "flat": StateDictOptions(flatten_optimizer_state_dict=True)}
Run = tuple[torch.nn.Module, torch.optim.Optimizer]

each_rule = pytest.mark.parametrize("rule", RULES)
each_precision = pytest.mark.parametrize("precision", ["float32", *HALVES])
each_tail = pytest.mark.parametrize("tail", TAILS)
each_form = pytest.mark.parametrize("form", FLAT)


def build(rule: str, precision="float32", tail="", *, seed=0, package=onepass.optim, **more) -> Run:
    torch.manual_seed(seed)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).to(dtype)
    kind, options = RULES[rule]
    options = {**options, **HALVES.get(precision, {}), **TAILS[tail], "lr": 0.1, **more}
    if rule == "sgd":
        options.pop("state_dtype", None)
    return model, getattr(package, kind)(model.parameters(), **options)


def train(run: Run, *steps: int) -> None:
    model, optimizer = run
    for step in steps:
        batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        model(batch.to(model[0].weight.dtype)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def bits(value: torch.Tensor) -> tuple[torch.dtype, list[int]]:
    return value.dtype, value.detach().flatten().view(torch.uint8).tolist()


def options_of(optimizer: torch.optim.Optimizer) -> list[dict[str, object]]:
    """Returns the options of the groups; in full states torch makes lists of tuples."""
    return [
        {name: list(value) if name == "betas" else value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def assert_same_runs(one: Run, other: Run) -> None:
    """Returns bits and dtypes of parameters and states, and the options."""
    (model, optimizer), (twin, second) = one, other
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert bits(param) == bits(other)
        states, others = optimizer.state.get(param, {}), second.state.get(other, {})
        assert {name: bits(value) for name, value in states.items()} == {n: bits(v) for n, v in others.items()}
    assert options_of(optimizer) == options_of(second)
    assert optimizer.skipped_steps == second.skipped_steps
    if optimizer.telemetry and optimizer._tail is not None:
        assert str(optimizer.statistics()) == str(second.statistics())


@each_tail
@each_precision
@each_rule
def test_a_fresh_optimizer_stays_one(rule, precision, tail):
    """States are asked for twice, by getting and by setting; the next step is the first one, bit for bit."""
    run, twin = (build(rule, precision, tail) for _ in "ab")
    random = torch.get_rng_state()
    for _ in range(2):
        saved = get_optimizer_state_dict(*run)
    assert torch.equal(torch.get_rng_state(), random)
    for own in saved["state"].values():
        assert own.get("step", torch.zeros(())).item() == 0
        assert not any(own[name].any() for name in ("momentum_buffer", "exp_avg", "exp_avg_sq") if name in own)
    assert run[1].param_groups[0]["lr"] == 0.1
    assert torch.equal(flat(run[0].parameters()), flat(twin[0].parameters()))
    train(run, 0, 1, 2)
    train(twin, 0, 1, 2)
    assert_same_runs(run, twin)


@each_rule
def test_weights_loaded_in_between(rule):
    """Averages, and what is kept next to half precision, begin from the parameters that the first step finds."""
    for precision in ("float32", *HALVES):
        run, twin = (build(rule, precision, "-tail") for _ in "ab")
        get_optimizer_state_dict(*run)
        for model, _ in (run, twin):
            model.load_state_dict(build(rule, precision, seed=9)[0].state_dict())
        train(run, 0, 1)
        train(twin, 0, 1)
        assert_same_runs(run, twin)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda run: pickle.loads(pickle.dumps(run))}


@pytest.mark.parametrize("how", COPIES)
@each_rule
def test_copies_in_between(rule, how):
    run, twin = (build(rule, tail="-tail") for _ in "ab")
    get_optimizer_state_dict(*run)
    copied = COPIES[how](run)
    for one in (run, copied, twin):
        train(one, 0, 1)
    assert_same_runs(run, twin)
    assert_same_runs(copied, twin)


@each_form
@each_tail
@each_precision
@each_rule
def test_resumed_by_dcp(rule, precision, tail, form, tmp_path):
    """A run that is saved to files, loaded into a fresh optimizer and continued equals one without a break."""
    run = build(rule, precision, tail)
    train(run, 0, 1, 2)
    save(run, FLAT[form], tmp_path)
    resumed = build(rule, precision, tail, seed=1)
    load(resumed, FLAT[form], tmp_path)
    if tail:  # counted again, and measured by the next step
        resumed[1]._tail = copy.deepcopy(run[1]._tail)
    assert_same_runs(run, resumed)
    train(run, 3, 4)
    train(resumed, 3, 4)
    assert_same_runs(run, resumed)


def save(run: Run, how: StateDictOptions, path) -> None:
    model, optimizer = get_state_dict(*run, options=how)
    dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=path, no_dist=True)


def load(run: Run, how: StateDictOptions, path, planner=None) -> None:
    model, optimizer = get_state_dict(*run, options=how)
    found = {"model": model, "optimizer": optimizer}
    dcp.load(found, checkpoint_id=path, planner=planner, no_dist=True)
    set_state_dict(*run, model_state_dict=found["model"], optim_state_dict=found["optimizer"], options=how)


@each_form
@each_tail
@each_rule
def test_a_checkpoint_of_no_steps(rule, tail, form, tmp_path):
    """After a checkpoint from before the first step, the resumed run's first step is the first one."""
    for precision in ("float32", "bfloat16", "master"):
        run, twin = (build(rule, precision, tail) for _ in "ab")
        path = tmp_path / precision
        save(run, FLAT[form], path)
        resumed = build(rule, precision, tail, seed=1)
        load(resumed, FLAT[form], path)
        for one in (run, twin, resumed):
            train(one, 0, 1)
        assert_same_runs(run, twin)
        assert_same_runs(resumed, twin)


@each_form
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "sgd"])
def test_float32_states_of_halves_stay(rule, form, tmp_path):
    """Averages from a checkpoint stay, also where no option asks for them."""
    run = build(rule, "bfloat16")
    train(run, 0, 1)
    for own in run[1].state.values():
        for name in own.keys() - {"step"}:
            own[name] = own[name].float() * (1 + 2**-12)
    save(run, FLAT[form], tmp_path)
    resumed = build(rule, "bfloat16", seed=1)
    load(resumed, FLAT[form], tmp_path)
    assert_same_runs(run, resumed)
    assert all(v.dtype == torch.float32 for own in resumed[1].state.values() for v in own.values())
    train(run, 2, 3)
    train(resumed, 2, 3)
    assert_same_runs(run, resumed)


@each_form
def test_step_counts_that_bfloat16_does_not_hold(form, tmp_path):
    run = build("adamw", "bfloat16")
    train(run, 0)
    for own in run[1].state.values():
        own["step"].fill_(257)
    save(run, FLAT[form], tmp_path)
    resumed = build("adamw", "bfloat16", seed=1)
    load(resumed, FLAT[form], tmp_path)
    train(resumed, 1)
    assert {own["step"].item() for own in resumed[1].state.values()} == {258}


@each_form
@pytest.mark.parametrize("rule", ["adamw", "dampening"])
def test_got_and_set_again(rule, form):
    """Nothing is loaded between the two: the optimizer is as fresh as before."""
    run, twin = (build(rule, "bfloat16", "-tail") for _ in "ab")
    for _ in range(2):
        saved = get_optimizer_state_dict(*run, options=FLAT[form])
        assert len(saved) > 2 or saved["state"]
        set_optimizer_state_dict(*run, saved, options=FLAT[form])
    train(run, 0, 1)
    train(twin, 0, 1)
    assert_same_runs(run, twin)


@each_rule
def test_states_loaded_in_place_alone(rule, tmp_path):
    """dcp.load without set_optimizer_state_dict writes into the states, which torch's optimizers then keep."""
    run = build(rule, tail="-tail")
    train(run, 0, 1)
    save(run, FLAT["nested"], tmp_path)
    resumed = build(rule, tail="-tail", seed=1)
    model, optimizer = get_state_dict(*resumed)
    dcp.load({"model": model, "optimizer": optimizer}, checkpoint_id=tmp_path, no_dist=True)
    train(run, 2)
    train(resumed, 2)
    assert_same_runs(run, resumed)


def test_with_the_averages_in_the_parameters():
    """If the step raised, torch would leave a rate of 0 in the groups."""
    run, twin = (build("adamw", tail="-tail") for _ in "ab")
    with pytest.raises(RuntimeError, match="state_dict cannot be taken"), run[1].ema_parameters():
        get_optimizer_state_dict(*run)
    train(run, 0, 1)
    train(twin, 0, 1)
    assert_same_runs(run, twin)


def test_in_inference_mode(tmp_path):
    run = build("dampening", tail="-tail")
    train(run, 0, 1)
    resumed = build("dampening", tail="-tail", seed=1)
    save(run, FLAT["nested"], tmp_path)
    with torch.inference_mode():
        found = {"optimizer": get_optimizer_state_dict(*resumed)}
        dcp.load(found, checkpoint_id=tmp_path, no_dist=True)
    resumed[0].load_state_dict(run[0].state_dict())
    set_optimizer_state_dict(*resumed, found["optimizer"])
    train(run, 2)
    train(resumed, 2)
    assert_same_runs(run, resumed)
    fresh, twin = (build("dampening", tail="-tail") for _ in "ab")
    with torch.inference_mode():
        get_optimizer_state_dict(*fresh)
    train(fresh, 0)
    train(twin, 0)
    assert_same_runs(fresh, twin)


@pytest.fixture
def alone():
    """Gives a process group of this process only."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("offload", [False, True])
@each_rule
def test_full_states_as_trainers_save_them(rule, offload, tmp_path):
    for precision in ("float32", *HALVES):
        how = StateDictOptions(full_state_dict=True, cpu_offload=offload)
        run = build(rule, precision, "-tail")
        train(run, 0, 1)
        torch.save(get_state_dict(*run, options=how), tmp_path / "full.pt")
        model, optimizer = torch.load(tmp_path / "full.pt")
        resumed = build(rule, precision, "-tail", seed=1)
        set_state_dict(*resumed, model_state_dict=model, optim_state_dict=optimizer, options=how)
        train(run, 2)
        train(resumed, 2)
        assert_same_runs(run, resumed)


def test_torchs_optimizer_with_names():
    """torch's _NamedOptimizer makes states by a step at the full rate; ours must not move."""
    run, twin = (build("adamw") for _ in "ab")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own torch.jit.script
        optim = importlib.import_module("torch.distributed.optim")
    named = optim._NamedOptimizer(dict(run[0].named_parameters()), type(run[1]), lr=0.1, weight_decay=0.1)
    named.init_state()
    assert torch.equal(flat(run[0].parameters()), flat(twin[0].parameters()))
    run[0].zero_grad()
    train((run[0], named._optimizer), 0, 1)
    train(twin, 0, 1)
    assert_same_runs((run[0], named._optimizer), twin)


def test_a_range_test_in_between():
    run, twin = (build("dampening", tail="-tail") for _ in "ab")
    batches = [(torch.ones(2, 3), torch.ones(2, 2))] * 12
    get_optimizer_state_dict(*run)
    onepass.monitor.lr_range_test(*run, torch.nn.functional.mse_loss, batches, steps=12, min_lr=1e-6, max_lr=1e-3)
    train(run, 0, 1)
    train(twin, 0, 1)
    assert_same_runs(run, twin)


def test_an_optimizer_that_never_has_states():
    """In mid-training nothing changes: telemetry, too, stays that of the last step."""
    run, twin = (build("sgd", telemetry=True) for _ in "ab")
    for one in (run, twin):
        train(one, 0)
    get_optimizer_state_dict(*run)
    assert_same_runs(run, twin)


class Wrapper(torch.optim.Optimizer):
    """An optimizer that wraps another, as trainers have them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.state, self.param_groups = optimizer.state, optimizer.param_groups

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self):
        return self.optimizer.state_dict()


@pytest.mark.parametrize("around", ["hook", "scheduler", "wrapper", "tensor-rate"])
def test_what_lies_between_the_call_and_the_step(around):
    more = {"lr": torch.tensor(0.1)} if around == "tensor-rate" else {}
    run, twin = (build("adamw", tail="-tail", **more) for _ in "ab")
    model, optimizer = run
    if around == "hook":
        optimizer.register_step_post_hook(lambda *_: None)
    if around == "scheduler":
        for one in (run, twin):
            torch.optim.lr_scheduler.StepLR(one[1], 100)
    get_optimizer_state_dict(model, Wrapper(optimizer) if around == "wrapper" else optimizer)
    train(run, 0, 1)
    train(twin, 0, 1)
    assert_same_runs(run, twin)


def _init_optim_state(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()


def test_a_function_of_the_users_of_the_same_name_takes_a_step():
    run, twin = (build("adamw", lr=0.0) for _ in "ab")
    for model, _ in (run, twin):
        model(torch.ones(1, 3)).sum().backward()
    _init_optim_state(run[1])
    twin[1].step()
    assert_same_runs(run, twin)
    assert {own["step"].item() for own in run[1].state.values()} == {1}


def test_a_compiled_step_is_refused():
    model, optimizer = build("adamw")
    optimizer.step = torch.compile(optimizer.step, backend="eager")
    with pytest.raises(RuntimeError, match=r"AdamW: step must not be compiled where torch\.distributed"):
        get_optimizer_state_dict(model, optimizer)
