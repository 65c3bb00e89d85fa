#!/usr/bin/env bash
# torchao's move_exported_model_to_eval and move_exported_model_to_train, documented as what to call in place of eval() and train() on an
# exported model, put other numbers into it: each batch norm that is moved gets eps=1e-5, each dropout p=0.5, whatever it had.
#
# Seen with torchao 0.18.0 and torch 2.13.0 on the CPU, with BatchNorm1d(4, eps=1e-1) and Dropout(0.25), exported in training and moved to
# evaluation and back: the outputs in evaluation are off by a factor, the share of dropped elements is a half. Expected: the numbers
# of the model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy torchao==0.18.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy

import torch
import torchao
from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train

torch.manual_seed(0)
norm = torch.nn.Sequential(torch.nn.BatchNorm1d(4, eps=1e-1))
inputs = torch.randn(64, 4) * 0.3
exported = torch.export.export(copy.deepcopy(norm).train(), (inputs,)).module()
move_exported_model_to_eval(exported)
wanted = norm.eval()(inputs)
ratio = (exported(inputs) / wanted).mean().item()

dropout = torch.nn.Sequential(torch.nn.Dropout(0.25))
ones = torch.ones(100_000)
exported = torch.export.export(dropout.train(), (ones,)).module()
before = (exported(ones) == 0).float().mean().item()
move_exported_model_to_eval(exported)
move_exported_model_to_train(exported)
after = (exported(ones) == 0).float().mean().item()
print(f"torchao {torchao.__version__}: outputs times {ratio:.4f} in evaluation, dropped {before:.3f}, later {after:.3f}")
assert torchao.__version__ == "0.18.0"
assert abs(ratio - 1.1**0.5) < 1e-3
assert abs(before - 0.25) < 0.01
assert abs(after - 0.5) < 0.01
PYTHON
