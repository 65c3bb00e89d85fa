"""transformers' Trainer: optimizers of ours given to it, its factory, clipping, accumulation, resuming."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from clients.programs import (
    PACKAGES,
    RULES,
    assert_same,
    client,
    data,
    each_rule,
    each_schedule,
    model,
    optimizer,
    scheduler,
    weights,
)
from tolerance import SCHEDULE_RTOL

transformers = client("transformers")

STEPS = 12


class Classifier(torch.nn.Module):
    """A model as the Trainer takes it: called with keyword arguments, it returns the loss first."""

    def __init__(self):
        super().__init__()
        self.net = model()

    def forward(self, inputs, labels):
        logits = self.net(inputs)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


EXAMPLES = [{"inputs": one, "labels": int(label)} for one, label in zip(*data(), strict=True)]


def arguments(folder, **options):
    defaults = {"max_steps": STEPS, "per_device_train_batch_size": 4, "save_strategy": "no", "seed": 3}
    return transformers.TrainingArguments(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        **{**defaults, **options},
    )


def train(folder, package, rule, schedule="exponential", resume=None, **options):
    net = Classifier()
    opt = optimizer(package, rule, net.parameters())
    lrs = scheduler(package, schedule, opt)
    trainer = transformers.Trainer(
        net, arguments(folder, **options), train_dataset=EXAMPLES, optimizers=(opt, lrs)
    )
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.optimizer.param_groups is opt.param_groups
    return trainer


def rates(trainer):
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


@each_rule
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_trains_as_with_torch(rule, accumulate, clip, bf16, tmp_path, watch):
    options = {"gradient_accumulation_steps": accumulate, "max_grad_norm": clip, "bf16": bf16}
    theirs = train(tmp_path, "torch", rule, **options)
    watch.assert_steps("torch", STEPS)
    ours = train(tmp_path, "onepass", rule, **options)
    watch.assert_steps("onepass", STEPS)
    low = torch.bfloat16 if bf16 else None
    assert_same(weights(ours.model), weights(theirs.model), weights(Classifier()), STEPS, low)
    assert rates(ours) == pytest.approx(rates(theirs), rel=SCHEDULE_RTOL)


@each_schedule
def test_schedulers(schedule, tmp_path):
    theirs = train(tmp_path, "torch", "sgd", schedule)
    ours = train(tmp_path, "onepass", "sgd", schedule)
    assert rates(ours) == pytest.approx(rates(theirs), rel=SCHEDULE_RTOL)
    assert len(set(rates(ours))) > 1


@each_rule
def test_its_factory(rule, tmp_path, watch):
    """optimizer_cls_and_kwargs takes ours, with the Trainer's own groups without decay and its own schedule."""
    ends = {}
    for package, module in PACKAGES.items():
        name, options = RULES[rule]
        net = Classifier()
        trainer = transformers.Trainer(
            net,
            arguments(tmp_path, weight_decay=0.1, lr_scheduler_type="cosine", warmup_steps=3),
            train_dataset=EXAMPLES,
            optimizer_cls_and_kwargs=(
                getattr(module, name),
                {k: v for k, v in options.items() if k != "weight_decay"},
            ),
        )
        trainer.train()
        assert len(trainer.optimizer.param_groups) == 2
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net), rates(trainer)
    assert ends["onepass"][1] == ends["torch"][1]
    assert_same(ends["onepass"][0], ends["torch"][0], weights(Classifier()), STEPS)


def test_its_method_overridden(tmp_path, watch):
    """create_optimizer is overridden as its documentation says, with fused=True and our own groups."""
    from onepass.optim import AdamW, no_decay_groups

    class Ours(transformers.Trainer):
        def create_optimizer(self, model=None):
            groups, _ = no_decay_groups(self.model, 0.1)
            self.optimizer = AdamW(groups, lr=self.args.learning_rate, fused=True)
            return self.optimizer

    trainer = Ours(Classifier(), arguments(tmp_path, learning_rate=1e-2), train_dataset=EXAMPLES)
    trainer.train()
    watch.assert_steps("onepass", STEPS)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


@each_rule
def test_resumes_from_its_checkpoint(rule, tmp_path, watch):
    """The resumed run and its schedule equal the other bit for bit, also across the packages."""

    # The Trainer makes the schedule from the step limit: it is the same in both, but one stops at the first save.
    class Stop(transformers.TrainerCallback):
        def on_save(self, args, state, control, **_):
            control.should_training_stop = True

    def half(package):
        folder = tmp_path / package
        net = Classifier()
        opt = optimizer(package, rule, net.parameters())
        transformers.Trainer(
            net,
            arguments(folder, save_strategy="steps", save_steps=5),
            train_dataset=EXAMPLES,
            optimizers=(opt, scheduler(package, "cosine", opt)),
            callbacks=[Stop()],
        ).train()
        return str(folder / "checkpoint-5")

    saved = {package: half(package) for package in PACKAGES}
    whole = train(tmp_path, "onepass", rule, "cosine")
    watch.quick = 0
    resumed = train(tmp_path, "onepass", rule, "cosine", resume=saved["onepass"])
    assert watch.quick >= STEPS - 5 - 1
    assert all(map(torch.equal, weights(resumed.model), weights(whole.model)))
    assert rates(resumed) == rates(whole)
    for package, source in (("onepass", "torch"), ("torch", "onepass")):
        resumed = train(tmp_path, package, rule, "cosine", resume=saved[source])
        assert_same(weights(resumed.model), weights(whole.model), weights(Classifier()), STEPS)


@pytest.mark.parametrize(
    "kind", ["linear", "cosine", "constant_with_warmup", "inverse_sqrt", "cosine_with_restarts"]
)
def test_its_schedules_on_our_optimizer(kind, tmp_path):
    """transformers.get_scheduler makes torch's LambdaLR, which works on ours as on torch's."""
    seen = {}
    for package in PACKAGES:
        net = Classifier()
        opt = optimizer(package, "adamw", net.parameters())
        lrs = transformers.get_scheduler(kind, opt, num_warmup_steps=3, num_training_steps=STEPS)
        seen[package] = []
        for _ in range(STEPS):
            opt.step()
            lrs.step()
            seen[package].append(lrs.get_last_lr())
    assert seen["onepass"] == seen["torch"]
    assert seen["onepass"][0] != seen["onepass"][1]
