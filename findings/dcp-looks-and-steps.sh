#!/usr/bin/env bash
# torch.distributed.checkpoint's get_optimizer_state_dict, called to read the state of an optimizer that has not stepped yet, takes a
# step with rate 0. The rate hides it from the weights, but Adam's step count is 1 afterwards: every later bias correction is
# that of the next step, and the training that follows ends elsewhere.
#
# Seen with torch 2.13.0 (CPU, one process, no process group): after 3 steps the count is 4 instead of 3, and the weights differ by
# 0.046 at a rate of 0.1. Expected: reading a state does not change what is trained.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict


def train(look):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    if look:
        get_optimizer_state_dict(model, optimizer)
    inputs = torch.randn(8, 4)
    for _ in range(3):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return model.weight.detach(), int(optimizer.state_dict()["state"][0]["step"])


plain, looked = train(False), train(True)
difference = (plain[0] - looked[0]).abs().max().item()
print(f"torch {torch.__version__}: steps {plain[1]} and {looked[1]}, weights differ by {difference:.4f}")
assert torch.__version__.startswith("2.13.0")
assert (plain[1], looked[1]) == (3, 4)
assert difference > 0.01
PYTHON
