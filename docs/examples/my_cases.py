"""Times root mean square norm, written out and torch's own: `onepass bench my_cases.py`."""

import torch
import torch.nn.functional as F

from onepass.bench import Case, Entry, difference


def written_out(x, shape):
    """Divides each row by the root of its mean square."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps)


def rms_norm_case(rows, width, device):
    """Makes the case of one shape."""

    def setup():
        # Called when the case's turn comes, so that only its own tensors exist.
        x = torch.randn(rows, width, device=device)
        return {"ours": lambda: written_out(x, (width,)), "torch": lambda: F.rms_norm(x, (width,))}

    def join(entrant):
        # An implementation named by --impl: how it is called, and how it is compared with torch's result.
        x = torch.randn(rows, width, device=device)

        def compare():
            return "output", difference(entrant(x, (width,)), F.rms_norm(x, (width,)))

        return Entry(make=lambda: lambda: entrant(x, (width,)), compare=compare)

    return Case(
        name=f"rms_norm-{rows}x{width}",
        bytes_moved=2 * 4 * rows * width,  # reads and writes each float32 once
        rounds=15,
        setup=setup,
        stands_for="rms_norm",
        join=join,
    )


def cases(device):
    """Lists the cases; `onepass bench` calls this."""
    return [rms_norm_case(rows, width, device) for rows, width in ((256, 512), (4096, 1024))]
