#!/usr/bin/env bash
# torch's optimizers with fused=True on the CPU write parameters without counting the write. Autograd compares those counts to notice that
# a tensor which a backward pass needs was changed meanwhile: after the plain loop's step it raises, after the fused step it computes
# gradients of a mixture of old graph and new values, without a word.
#
# Seen with torch 2.13.0 (2.14.1 and 2.15.0 do the same). Expected: the error that the plain loop gives.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch


def gradient(kind, **options):
    param = torch.nn.Parameter(torch.ones(24))
    optimizer = kind([param], lr=0.25, **options)
    loss = param.square().sum()
    param.grad = torch.ones(24)
    optimizer.step()
    param.grad = None
    try:
        loss.backward()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return round(param.grad[0].item(), 3)


print("torch", torch.__version__)
seen = {}
for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
    for fused in (False, True):
        seen[kind.__name__, fused] = gradient(kind, fused=fused, foreach=False)
        print(kind.__name__, "fused" if fused else "loop", seen[kind.__name__, fused])
assert torch.__version__.startswith("2.13.0")
for (_, fused), found in seen.items():
    # 2 is the gradient of the loss that was computed; 1.5 is that of values that it never had.
    assert found < 2 if fused else "needed for gradient computation" in found, found
    assert isinstance(found, float) == fused
PYTHON
