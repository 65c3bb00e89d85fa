"""Trains copies of one network side by side, which differ only in their optimizers, or in their layers, too."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import onepass.nn
import onepass.optim
from onepass.bench.memory import kept_bytes
from onepass.demo.augment import augmentation
from onepass.demo.data import Data
from onepass.demo.model import Score, evaluate, narrowed, network
from onepass.optim._step.fused import FusedOptimizer
from onepass.optim.lr_scheduler import ScheduleLR
from onepass.optim.schedules import Schedule

# The names of the two trainings in tables and pictures.
TORCH, OURS = "torch.optim", "onepass.optim"

# The class and the options of each optimizer; the learning rate is used where the user gives none.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}),
    "adam": ("Adam", {"lr": 1e-3}),
    "adamw": ("AdamW", {"lr": 1e-3, "weight_decay": 0.01}),
}

# The options by which ours keeps what bfloat16 weights lose; torch has no such options.
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {},
    "bfloat16-stochastic": {"rounding": "stochastic"},
    "bfloat16-kahan": {"rounding": "kahan"},
    "bfloat16-master": {"master_weights": True},
}

# Whose batch norms, dropouts and loss our training has; torch's training has torch's.
LAYERS = ("torch", "onepass")

MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]


@dataclass(frozen=True)
class Plan:
    """Holds what both trainings have in common."""

    epochs: int
    batch_size: int
    seed: int
    device: torch.device
    clip: float | None = None
    """Largest norm of all gradients together, or None."""
    ema: float | None = None
    """Decay of a moving average of the weights, or None."""
    precision: str = "float32"
    """A name in `PRECISIONS`."""
    layers: str = "torch"
    """A name in `LAYERS`."""
    schedule: Schedule | None = None
    """The learning rate's factor by step, or None for torch's cosine down to 0 at the last step."""
    label_smoothing: float = 0.0
    """How much of each label the loss spreads over all classes."""
    augment: bool = False
    """Whether the images to train on are moved, turned and scaled at random."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of images and weights; the parameters of batch norm stay float32."""
        return torch.float32 if self.precision == "float32" else torch.bfloat16

    def to_json(self) -> dict[str, Any]:
        """Returns the plan by the names of the command's options."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        schedule = None if self.schedule is None else repr(self.schedule)
        return {**values, "device": str(self.device), "schedule": schedule}


@dataclass
class Run:
    """Holds one training: the model, its optimizer and what was recorded."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    """Sets the learning rate, in both trainings alike."""
    update: Callable[[], object]
    """Does all that follows the backward pass."""
    loss: nn.Module
    """Called with logits and labels."""
    averaged: AveragedModel | None = None
    """torch's moving average of the weights; ours is in the optimizer."""
    losses: list[float] = field(default_factory=list)
    """Loss of each batch, before its update."""
    lrs: list[float] = field(default_factory=list)
    """Learning rate of each step."""
    update_seconds: list[float] = field(default_factory=list)
    """Time of each call of ``update()``."""
    step_seconds: list[float] = field(default_factory=list)
    """Time of each training step: forward, backward and update."""
    validation: list[Score] = field(default_factory=list)
    """Score after each epoch."""
    train: Score | None = None
    """Score on the images it was trained on, at the end."""
    average: Score | None = None
    """Validation score of the moving average of the weights, at the end."""
    skipped_steps: int = 0
    """Steps that were not taken because a gradient was not finite."""
    kept_bytes: int = 0
    """Bytes that autograd keeps between forward and backward for one batch, without the parameters."""


def contenders(
    optimizer: str,
    lr: float | None,
    clip: float | None = None,
    ema: float | None = None,
    precision: str = "float32",
) -> dict[str, MakeOptimizer]:
    """Returns makers of torch's optimizer as it is built by default, and of ours with the same options.

    Args:
        optimizer: A name in `OPTIMIZERS`.
        lr: Learning rate, or None for the optimizer's own in `OPTIMIZERS`.
        clip: As in `Plan`; ours then also skips steps whose gradients are not finite.
        ema: As in `Plan`.
        precision: As in `Plan`.
    """
    name, options = OPTIMIZERS[optimizer]
    options = options if lr is None else {**options, "lr": lr}
    return {
        TORCH: partial(getattr(torch.optim, name), **options),
        OURS: partial(
            getattr(onepass.optim, name),
            max_grad_norm=clip,
            skip_nonfinite=clip is not None,
            ema_decay=ema,
            **PRECISIONS[precision],
            **options,
        ),
    }


def train(
    data: Data, plan: Plan, makers: dict[str, MakeOptimizer], advance: Callable[[int], object] = lambda epoch: None
) -> dict[str, Run]:
    """Trains a copy of one network with each optimizer, a step of each in turn.

    All copies have the same weights at the start and see the same batches and the same dropout masks. The copy of
    our optimizer has the layers of the plan. The order of the copies changes from step to step, so that changes of
    the machine's speed affect all equally.

    Args:
        data: The images and labels.
        plan: Epochs, batch size, seed, device and the rest.
        makers: The optimizers by name.
        advance: Called with the epoch, from 0, after each step of all copies.

    Returns:
        The trainings by the names of their optimizers.
    """
    data = data.to(plan.device, plan.dtype)
    with _deterministic(), _own_random_numbers(plan), _no_collection():
        model = narrowed(network().to(plan.device), plan.dtype)
        for make in makers.values():
            _warm_up(make, plan)
        steps = plan.epochs * steps_per_epoch(data, plan)
        copies = {name: copy.deepcopy(model) for name in makers}
        if plan.layers == "onepass":
            onepass.nn.convert(copies[OURS], fuse_relu=True)
        runs = {
            name: _start(copies[name], make, steps, plan, _loss_of(name, plan)) for name, make in makers.items()
        }
        names = list(runs)
        augment = augmentation(data, plan.seed) if plan.augment else None
        # On the CPU in any case: the order of the images must not depend on the device.
        order = torch.Generator().manual_seed(plan.seed)
        for epoch in range(plan.epochs):
            losses: dict[str, list[Tensor]] = {name: [] for name in names}
            for turn, batch in enumerate(_batches(len(data.train_labels), plan, order)):
                images, labels = data.train_images[batch], data.train_labels[batch]
                if augment is not None:
                    # The image's number in the data: its parameters do not depend on the order.
                    images = augment(images, ids=batch, epoch=epoch)
                masks = _random_state(plan.device)
                first = turn % len(names)
                for name in names[first:] + names[:first]:
                    _set_random_state(plan.device, masks)
                    losses[name].append(_step(runs[name], images, labels))
                advance(epoch)
            for name, run in runs.items():
                # Once an epoch: reading a number waits for the device.
                run.losses += torch.stack(losses[name]).tolist()
                run.validation.append(evaluate(run.model, data.validation_images, data.validation_labels))
        for run in runs.values():
            run.train = evaluate(run.model, data.train_images, data.train_labels)
            some = data.train_images[: plan.batch_size]
            run.kept_bytes = kept_bytes(partial(run.model, some), (*run.model.parameters(), some))
            if plan.ema is not None:
                run.average = _score_of_average(run, data)
            if isinstance(run.optimizer, FusedOptimizer):
                run.skipped_steps = run.optimizer.skipped_steps
    return runs


def steps_per_epoch(data: Data, plan: Plan) -> int:
    """Counts the steps of an epoch; images that do not fill a batch are left out of it.

    Args:
        data: The images to train on.
        plan: The batch size.
    """
    return len(data.train_labels) // plan.batch_size


def _loss_of(name: str, plan: Plan) -> nn.Module:
    ours = name == OURS and plan.layers == "onepass"
    kind = onepass.nn.CrossEntropyLoss if ours else nn.CrossEntropyLoss
    return kind(label_smoothing=plan.label_smoothing)


def _start(model: nn.Module, make: MakeOptimizer, steps: int, plan: Plan, loss: nn.Module) -> Run:
    optimizer = make(model.parameters())
    schedule: LRScheduler
    if plan.schedule is None:
        schedule = CosineAnnealingLR(optimizer, steps)
    else:
        schedule = ScheduleLR(optimizer, plan.schedule)
    if isinstance(optimizer, FusedOptimizer):
        return Run(model, optimizer, schedule, optimizer.step, loss)
    # torch gives these functions no types.
    average: Any = get_ema_multi_avg_fn
    averaged = None if plan.ema is None else AveragedModel(model, multi_avg_fn=average(plan.ema))
    params = list(model.parameters())

    def update() -> None:
        if plan.clip is not None:
            torch.nn.utils.clip_grad_norm_(params, plan.clip)
        optimizer.step()
        if averaged is not None:
            averaged.update_parameters(model)

    return Run(model, optimizer, schedule, update, loss, averaged)


def _score_of_average(run: Run, data: Data) -> Score:
    """Scores the averaged weights with the model's own buffers: batch norm's statistics are averages already."""
    if run.averaged is None:
        assert isinstance(run.optimizer, FusedOptimizer)
        with run.optimizer.ema_parameters():
            return evaluate(run.model, data.validation_images, data.validation_labels)
    module = run.averaged.module
    for own, current in zip(module.buffers(), run.model.buffers(), strict=True):
        own.copy_(current)
    return evaluate(module, data.validation_images, data.validation_labels)


def _batches(count: int, plan: Plan, order: torch.Generator) -> Iterator[Tensor]:
    shuffled = torch.randperm(count, generator=order).to(plan.device)
    for start in range(0, count - plan.batch_size + 1, plan.batch_size):
        yield shuffled[start : start + plan.batch_size]


def _step(run: Run, images: Tensor, labels: Tensor) -> Tensor:
    """Takes one training step; returns the loss, still on its device."""
    begin = _now(images.device)
    run.optimizer.zero_grad()
    loss: Tensor = run.loss(run.model(images).float(), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    before_update = _now(images.device)
    run.update()
    end = _now(images.device)
    run.update_seconds.append(end - before_update)
    run.step_seconds.append(end - begin)
    run.lrs.append(float(run.optimizer.param_groups[0]["lr"]))
    run.schedule.step()
    return loss.detach()


def _now(device: torch.device) -> float:
    """Reads the host's clock once the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _warm_up(make: MakeOptimizer, plan: Plan) -> None:
    """Takes a step elsewhere: torch's first step imports modules for a second, a GPU's first one loads kernels."""
    param = torch.zeros(1, device=plan.device, dtype=plan.dtype, requires_grad=True)
    param.grad = torch.zeros_like(param)
    make([param]).step()


@contextmanager
def _deterministic() -> Iterator[None]:
    """Lets torch use only algorithms that give the same bits each time."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    # torch gives this module its settings at run time.
    memory: Any = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor first would slow down the optimizer that makes temporaries in a step.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        memory.fill_uninitialized_memory = fills


@contextmanager
def _own_random_numbers(plan: Plan) -> Iterator[None]:
    """Seeds torch's generators, and sets them back afterwards."""
    with torch.random.fork_rng(devices=[plan.device] if plan.device.type == "cuda" else []):
        torch.manual_seed(plan.seed)
        yield


@contextmanager
def _no_collection() -> Iterator[None]:
    """Stops garbage collection, whose time would count for the training that happens to trigger it."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _random_state(device: torch.device) -> Tensor:
    """Returns the state of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
