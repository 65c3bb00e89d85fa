#!/usr/bin/env bash
# ignite's LRScheduler handler wraps a scheduler of torch and is attached to ITERATION_STARTED, as its documentation shows. With torch 2.13 the
# chainable ones (ExponentialLR, CosineAnnealingLR) then run a step ahead: the first iteration already trains with the second
# rate. The closed-form ones (StepLR before its first decay, LambdaLR) do not, so that two schedules that agree in torch differ here.
#
# Seen with pytorch-ignite 0.5.5 and torch 2.13.0: ExponentialLR(gamma=0.8) from 0.1 trains with 0.08, 0.064, ... and LambdaLR of the same
# function with 0.1, 0.08, ...
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy pytorch-ignite==0.5.5
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import ignite
import torch
from ignite.engine import Engine, Events
from ignite.handlers import LRScheduler
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR


def rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    handler, found = LRScheduler(make(optimizer)), []

    def update(engine, batch):
        found.append(round(optimizer.param_groups[0]["lr"], 6))
        optimizer.step()

    trainer = Engine(update)
    trainer.add_event_handler(Events.ITERATION_STARTED, handler)
    trainer.run(range(3))
    return found


chained = rates(lambda optimizer: ExponentialLR(optimizer, 0.8))
closed = rates(lambda optimizer: LambdaLR(optimizer, lambda step: 0.8**step))
print(f"ignite {ignite.__version__}, torch {torch.__version__}: ExponentialLR {chained}, LambdaLR {closed}")
assert ignite.__version__ == "0.5.5"
assert closed == [0.1, 0.08, 0.064]
assert chained == [0.08, 0.064, 0.0512]
PYTHON
