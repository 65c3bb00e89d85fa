#!/usr/bin/env bash
# torch.compile goes on with a module's old forward after the class has got another one, as libraries that patch models do. Nothing is
# compiled again, with the option that guards modules, too. What an instance is given (model.forward = ...) is seen.
#
# Seen with torch 2.13.0 on the CPU, backend "eager". Expected: the new forward, as without torch.compile.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch


class Scaled(torch.nn.Module):
    def forward(self, x):
        return x + 1


class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Scaled()

    def forward(self, x):
        return self.part(x)


print("torch", torch.__version__, "guard_nn_modules", torch._dynamo.config.guard_nn_modules)
x, found = torch.ones(2), {}
for guarded in (False, True):
    with torch._dynamo.config.patch(guard_nn_modules=guarded):
        torch._dynamo.reset()
        model = Whole()
        compiled = torch.compile(model, backend="eager")
        first = Scaled.forward
        before = compiled(x)[0].item()
        Scaled.forward = lambda self, x: x * 7
        found[guarded] = before, compiled(x)[0].item(), model(x)[0].item()
        Scaled.forward = first
        print(f"guard_nn_modules={guarded}: before, compiled after, plain after: {found[guarded]}")
model = Whole()
torch._dynamo.reset()
compiled = torch.compile(model, backend="eager")
compiled(x)
model.part.forward = lambda x: x * 7
print("given to the instance: compiled", compiled(x)[0].item())
assert torch.__version__.startswith("2.13.0")
assert all(one == (2.0, 2.0, 7.0) for one in found.values()), found
assert compiled(x)[0].item() == 7.0
PYTHON
echo "The compiled model runs the forward that its class no longer has."
