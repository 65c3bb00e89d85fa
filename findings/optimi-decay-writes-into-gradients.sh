#!/usr/bin/env bash
# optimi's optimizers with coupled weight decay (SGD, Adam) add the decay to `.grad` itself. The step is right, but whoever looks at the
# gradients after it (a log of norms, gradients that are kept for the next micro-batch) finds the decay in them, once more for each step
# that is taken with the same gradients.
#
# Seen with torch-optimi 0.3.3 on torch 2.13.0. Expected: a step leaves `.grad` as it was; torch's does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy packaging
"$folder/venv/bin/pip" install --quiet --no-deps torch-optimi==0.3.3
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import optimi
import torch


def gradient_after(kind, **options):
    param = torch.nn.Parameter(torch.ones(4))
    param.grad = torch.ones(4)
    kind([param], lr=0.1, weight_decay=0.1, **options).step()
    return round(param.grad[0].item(), 4)


print("torch-optimi", version("torch-optimi"), "torch", torch.__version__)
for name in ("SGD", "Adam", "AdamW"):
    seen = [gradient_after(getattr(torch.optim, name))]
    seen += [gradient_after(getattr(optimi, name), foreach=foreach) for foreach in (False, True)]
    print(name, dict(zip(("torch", "optimi", "optimi foreach"), seen, strict=True)))
    assert seen == ([1.0] * 3 if name == "AdamW" else [1.0, 1.1, 1.1]), seen
PYTHON
