"""Threads at once: two optimizers, the same optimizer, the same layer. On any build: kernels release the GIL."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import sys
import threading
import weakref

import pytest
import torch

import onepass
import onepass.nn.batch_norm.modules as batch_norm_modules
from onepass.optim import clip_grad_norm_, lr_scheduler
from optim_setup import RULES, give_gradients, optimizer_of, random_params

# Without a GIL more of two calls runs at once: there it is worth more tries.
TRIES = 3 if getattr(sys, "_is_gil_enabled", lambda: True)() else 20
# Tensors of which some are shared between the threads of a kernel, and enough small ones that another thread looks
# at what is remembered of their states.
SHAPES = ((70_001,), (5,), (0,), (33, 7))
MANY = ((3,),) * 300
# For kernels of the GPU that run on the host.
FEW = ((33,), (5, 4), (0,))
TAIL = {"max_grad_norm": 1.0, "ema_decay": 0.9, "skip_nonfinite": True, "telemetry": True}


def at_once(*works):
    """Runs each in a thread of its own, all from the same moment on; returns what they return."""
    start, found, failures = threading.Barrier(len(works)), {}, []

    def run(number, work):
        try:
            start.wait(timeout=60)
            found[number] = work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=each) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    if failures:
        raise failures[0]
    return [found[number] for number in range(len(works))]


def made(rule, options, shapes=SHAPES, seed=0, device="cpu"):
    params = random_params(shapes, seed=seed, device=device)
    return params, optimizer_of(onepass.optim, rule, params, options, second=2)


def bits(params, optimizer):
    """Everything that a step writes."""
    states = [value for param in params for value in optimizer.state.get(param, {}).values()]
    return [param.detach().clone() for param in params] + [value.clone() for value in states]


def same(found, wanted):
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


def train(params, optimizer, steps):
    for step in range(steps):
        give_gradients(params, step)
        optimizer.step()
    return bits(params, optimizer)


def cases():
    """Each rule with and without a tail, and one of them on the kernels of the GPU, which are slow on the host."""
    wide = itertools.product(RULES, ("plain", "tail"), ("large", "many"))
    adamw = RULES[3]
    return [
        *(pytest.param("cpu", *rule.values, *how, id="-".join((rule.id, *how))) for rule, *how in wide),
        *(pytest.param(name, *adamw.values, "tail", "few", id=f"{name}-{adamw.id}") for name in ("simt", "cuda")),
    ]


def made_of(rule, options, tail, shapes, device, seed=0):
    sizes = {"large": SHAPES, "many": MANY, "few": FEW}[shapes]
    return made(rule, {**options, **(TAIL if tail == "tail" else {})}, sizes, seed, device)


@pytest.mark.parametrize(("backend", "rule", "options", "tail", "shapes"), cases(), indirect=["backend"])
def test_two_optimizers(backend, rule, options, tail, shapes):
    case = rule, options, tail, shapes, backend.device
    runs = [lambda seed=seed: train(*made_of(*case, seed), 10) for seed in (0, 1)]
    wanted = [run() for run in runs]
    for _ in range(1 if backend.is_cuda_code else TRIES):
        assert all(map(same, at_once(*runs), wanted))


@pytest.mark.parametrize(("backend", "rule", "options", "tail", "shapes"), cases(), indirect=["backend"])
def test_the_same_optimizer(backend, rule, options, tail, shapes):
    """Steps from two threads are taken one after the other: with the same gradients in any order."""
    case, steps = (rule, options, tail, shapes, backend.device), 4 if backend.is_cuda_code else 10

    def step(optimizer, count):
        for _ in range(count):
            optimizer.step()

    params, optimizer = made_of(*case)
    give_gradients(params, 0)
    step(optimizer, 2 * steps)
    wanted = bits(params, optimizer)
    for _ in range(1 if backend.is_cuda_code else TRIES):
        params, optimizer = made_of(*case)
        give_gradients(params, 0)
        at_once(*(lambda optimizer=optimizer: step(optimizer, steps),) * 2)
        assert same(bits(params, optimizer), wanted)


def test_the_same_optimizer_waits_for_a_step_that_is_under_way():
    """Another thread's step begins when this one's ends, and the thread itself may step inside a step."""
    params, optimizer = made("AdamW", {"lr": 0.1})
    give_gradients(params, 0)
    order = []

    class Slow(type(optimizer)):
        def _options(self, group, first):
            order.append("begin")
            if len(order) == 1:
                other.start()
                other.join(timeout=0.2)
            return super()._options(group, first)

    other = threading.Thread(target=lambda: (optimizer.step(), order.append("other")))
    optimizer.__class__ = Slow
    optimizer.step()
    order.append("mine")
    other.join(timeout=60)
    assert order.index("mine") < order.index("other")
    assert [float(optimizer.state[p]["step"]) for p in params] == [2.0] * len(params)


@pytest.mark.parametrize("name", ["state_dict", "load_state_dict", "add_param_group"])
def test_what_changes_groups_and_states_waits_for_a_step_that_is_under_way(name):
    params, optimizer = made("AdamW", {"lr": 0.1})
    train(params, optimizer, 1)
    arguments = {
        "state_dict": [],
        "load_state_dict": [optimizer.state_dict()],
        "add_param_group": [{"params": [torch.ones(3)]}],
    }
    order = []
    other = threading.Thread(target=lambda: (getattr(optimizer, name)(*arguments[name]), order.append("other")))

    class Slow(type(optimizer)):
        def _options(self, group, first):
            if not order:
                order.append("begin")
                other.start()
                other.join(timeout=0.2)
            return super()._options(group, first)

    optimizer.__class__ = Slow
    optimizer.step()
    order.append("mine")
    other.join(timeout=60)
    assert order == ["begin", "mine", "other"]


def test_a_step_inside_a_step_does_not_wait_for_itself():
    params, optimizer = made("AdamW", {"lr": 0.1})
    give_gradients(params, 0)
    inner = []

    class Nested(type(optimizer)):
        def _options(self, group, first):
            if not inner:
                inner.append(True)
                self.step()
            return super()._options(group, first)

    optimizer.__class__ = Nested
    at_once(optimizer.step)
    assert [float(optimizer.state[p]["step"]) for p in params] == [2.0] * len(params)


def test_a_rejected_step_lets_others_step():
    params, optimizer = made("AdamW", {"lr": 0.1})
    give_gradients(params, 0)
    optimizer.param_groups[0]["lr"] = -1.0
    for _ in range(2):
        with pytest.raises(ValueError, match="lr"):
            optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    at_once(optimizer.step)
    assert float(optimizer.state[params[0]]["step"]) == 1.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["optimizer", "batch_norm"])
def test_a_forked_child_does_not_wait_for_a_thread_that_it_lacks(kind):
    params, optimizer = made("SGD", {"lr": 0.1}, shapes=((3,),))
    give_gradients(params, 0)
    optimizer.step()
    norm, x = onepass.nn.BatchNorm1d(3), torch.randn(4, 3)
    norm(x)
    turn = optimizer._turn if kind == "optimizer" else batch_norm_modules._COUNTING
    held, done = threading.Event(), threading.Event()

    def hold():
        with turn:
            held.set()
            done.wait(timeout=60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(timeout=60)
    child = os.fork()
    if child == 0:
        # The count of batches has a lock only while another thread of Python runs.
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        optimizer.step()
        norm(x)
        os._exit(7)
    done.set()
    holder.join(timeout=60)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        threading.Event().wait(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child waits for ever")
    assert os.waitstatus_to_exitcode(status) == 7


def test_averages_are_not_put_in_while_another_thread_steps():
    """A step sees the weights or is refused: it never moves the averages that stand in their place."""
    params, optimizer = made("AdamW", {"lr": 0.1, "ema_decay": 0.9})
    give_gradients(params, 0)
    optimizer.step()
    taken, refused = [], []

    def step():
        for _ in range(100):
            try:
                optimizer.step()
                taken.append(True)
            except RuntimeError as error:
                refused.append(str(error))

    def look():
        for _ in range(30):
            with optimizer.ema_parameters():
                pass

    at_once(step, look)
    assert all("ema_parameters" in text for text in refused)
    twins, twin = made("AdamW", {"lr": 0.1, "ema_decay": 0.9})
    give_gradients(twins, 0)
    for _ in range(1 + len(taken)):
        twin.step()
    assert same(bits(params, optimizer), bits(twins, twin))


def test_the_garbage_collector_meanwhile():
    """It looks into what an optimizer remembers while threads step, and frees optimizers that they have left."""
    kept = []

    def run():
        for _ in range(20):
            params, optimizer = made("AdamW", {"lr": 0.1}, MANY[:20])
            params[0].owner = optimizer  # a ring that only the collector frees
            kept.append(weakref.ref(params[0]))
            train(params, optimizer, 3)

    def collect():
        for _ in range(40):
            gc.collect()

    gc.freeze()  # a look at what other tests left in the process would take a second
    try:
        at_once(run, run, collect)
        gc.collect()
    finally:
        gc.unfreeze()
    assert [one for one in kept if one() is not None] == []


def test_schedulers_and_clipping_of_two_optimizers():
    def run(seed):
        _, optimizer = made("AdamW", {"lr": 0.1}, seed=seed)
        optimizer.add_param_group({"params": random_params(((4,),), seed=7), "lr": 0.3})
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
        every = [param for group in optimizer.param_groups for param in group["params"]]
        norms = []
        for step in range(20):
            give_gradients(every, step)
            norms.append(clip_grad_norm_(every, 0.5))
            optimizer.step()
            schedule.step()
        return bits(every, optimizer) + norms

    wanted = [run(0), run(1)]
    for _ in range(TRIES):
        assert all(map(same, at_once(lambda: run(0), lambda: run(1)), wanted))


@pytest.mark.parametrize("shape", [(8, 8), (16, 20_000), (8, 64, 20, 20)], ids=["small", "wide", "image"])
def test_the_same_batch_norm(shape):
    """Each batch counts once in the running statistics. The batches are alike: their order does not matter."""
    calls = 20
    kind = onepass.nn.BatchNorm1d if len(shape) == 2 else onepass.nn.BatchNorm2d
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def run(module, count):
        for _ in range(count):
            y = module(x)
        return y

    module = kind(shape[1], momentum=0.01).train()
    wanted = run(module, 2 * calls)
    for _ in range(2 * TRIES):
        shared = kind(shape[1], momentum=0.01).train()
        outputs = at_once(*(lambda shared=shared: run(shared, calls),) * 2)
        assert all(torch.equal(output, wanted) for output in outputs)
        assert int(shared.num_batches_tracked) == 2 * calls
        assert torch.equal(shared.running_mean, module.running_mean)
        assert torch.equal(shared.running_var, module.running_var)


def test_the_same_dropout_and_loss():
    """No two calls draw the same seed, and all draw those that one thread would."""
    layer, loss = onepass.nn.Dropout(0.5), onepass.nn.CrossEntropyLoss()
    x, calls = torch.ones(64), 100
    logits, target = torch.randn(16, 10), torch.arange(16) % 10

    def run():
        return [(layer(x), loss(logits, target)) for _ in range(calls)]

    torch.manual_seed(0)
    wanted = {tuple(y.tolist()) for y, _ in run() + run()}
    value = loss(logits, target)
    torch.manual_seed(0)
    first, second = at_once(run, run)
    assert {tuple(y.tolist()) for y, _ in first + second} == wanted
    assert len(wanted) == 2 * calls
    assert all(torch.equal(one, value) for _, one in first + second)


def test_backward_of_layers_in_two_threads():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), onepass.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10)
    )
    loss = onepass.nn.CrossEntropyLoss(label_smoothing=0.1)
    x, target = torch.randn(5, 3, 8, 8), torch.arange(5)

    def run(own):
        optimizer = onepass.optim.AdamW(own.parameters(), lr=1e-3)
        for _ in range(5):
            optimizer.zero_grad()
            loss(own(x), target).backward()
            optimizer.step()
        return [value.clone() for value in own.state_dict().values()]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a convolution rounds differently with others
    try:
        wanted = run(copy.deepcopy(model))
        for _ in range(TRIES):
            for found in at_once(*(lambda: run(copy.deepcopy(model)),) * 2):
                assert same(found, wanted)
    finally:
        torch.set_num_threads(threads)
