#!/usr/bin/env bash
# torch.onnx.export(..., dynamo=True) of nn.CrossEntropyLoss(label_smoothing=0.5) writes a model without the smoothing: no error, no
# warning that names it, and onnxruntime computes the plain loss. Who exports a loss for on-device training trains with another one.
#
# Seen with torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0 on the CPU: the exported loss equals the loss with
# label_smoothing=0 to rounding, the loss in torch is another number. Expected: the smoothed loss, or an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import onnxruntime
import torch

torch.manual_seed(0)
logits, labels = torch.randn(8, 5) * 3, torch.randint(0, 5, (8,))
smoothed = torch.nn.CrossEntropyLoss(label_smoothing=0.5)
torch.onnx.export(smoothed, (logits, labels), "loss.onnx", dynamo=True, verbose=False)
session = onnxruntime.InferenceSession("loss.onnx")
names = [entry.name for entry in session.get_inputs()]
exported = float(session.run(None, dict(zip(names, (logits.numpy(), labels.numpy()), strict=True)))[0])
eager = smoothed(logits, labels).item()
plain = torch.nn.functional.cross_entropy(logits, labels).item()
print(f"torch {torch.__version__}: smoothed {eager:.4f}, exported {exported:.4f}, without smoothing {plain:.4f}")
assert torch.__version__.startswith("2.13.0")
assert abs(exported - plain) < 1e-5
assert abs(exported - eager) > 0.1
PYTHON
