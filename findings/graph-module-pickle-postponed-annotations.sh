#!/usr/bin/env bash
# A torch.fx.GraphModule of a model whose file begins with "from __future__ import annotations" cannot be pickled or saved if forward has an
# annotated argument: the graph keeps the annotation as text, and the pickled code asks the text for its __name__. The same model
# without that import can. symbolic_trace itself says nothing.
#
# Seen with torch 2.13.0: AttributeError: 'str' object has no attribute '__name__'. Expected: the same as without the import.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/plain.py" <<'PYTHON'
import torch


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x.relu()
PYTHON
{ echo "from __future__ import annotations"; cat "$folder/plain.py"; } > "$folder/postponed.py"
cd "$folder"
venv/bin/python - <<'PYTHON'
import pickle

import plain
import postponed
import torch

outcomes = []
for file in (plain, postponed):
    traced = torch.fx.symbolic_trace(file.Model())
    try:
        pickle.loads(pickle.dumps(traced))
        outcomes.append("pickled")
    except AttributeError as error:
        outcomes.append(str(error))
print(f"torch {torch.__version__}: {outcomes}")
assert torch.__version__.startswith("2.13.0")
assert outcomes == ["pickled", "'str' object has no attribute '__name__'"]
PYTHON
