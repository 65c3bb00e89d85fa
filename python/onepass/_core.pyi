"""Types of the native module (csrc/bind). Tensors: torch.Tensor or numpy.ndarray."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from onepass.optim._lists.records import ListGroup, StateGroup

def build_info() -> dict[str, Any]:
    """What the module was built with and what it uses: see `onepass info`."""

class Plan:
    """What an optimizer remembers of its tensors from the step before; not part of its state."""

def use_data_pointer(address: int, samples: Sequence[torch.Tensor]) -> bool:
    """Offers a C function from tensor object to data pointer; True if it was right about all samples."""

class TailMemory(Protocol):
    """The tensors of a tail: TailMemory of optim/_lists/tail.py."""

    @property
    def control(self) -> torch.Tensor: ...
    @property
    def statistics(self) -> torch.Tensor | None: ...
    def workspace(self, elements: int) -> torch.Tensor: ...

class Tail(Protocol):
    """What a step does besides the update: Tail of optim/_lists/tail.py, which uses this module."""

    @property
    def max_grad_norm(self) -> float | None: ...
    @property
    def skip_nonfinite(self) -> bool: ...
    @property
    def zero_grad(self) -> bool: ...
    @property
    def ema_decay(self) -> float | None: ...
    @property
    def grad_scale(self) -> float | torch.Tensor | None: ...
    @property
    def found_inf(self) -> float | torch.Tensor | None: ...
    @property
    def memory(self) -> TailMemory | None: ...

class Rule(Protocol):
    """The two ways into a step of one optimizer. Both check every tensor before they write any."""

    def step(
        self,
        plan: Plan,
        state: dict[torch.Tensor, dict[str, Any]],
        groups: list[StateGroup],
        written: Callable[[list[torch.Tensor]], None],
        tail: Tail | None,
        threads: int,
    ) -> bool:
        """Takes a step whose states are in an optimizer's state dict.

        written: called with the tensors that are written, apart from the states.

        Returns False, and has changed nothing, if something is irregular: `step_lists` then says what is wrong.
        """

    def step_lists(self, function: str, groups: list[ListGroup], tail: Tail | None, threads: int) -> None:
        """Takes a step over explicit lists; function: what errors call it."""

sgd: Rule
adam: Rule
lion: Rule

control_size: int
"""Elements of the float64 tensor that grad_norm fills."""

statistics_size: int
"""Elements of a float64 row of the statistics of one param group."""

def grad_norm(
    function: str,
    grads: list[torch.Tensor],
    norm_type: float,
    max_norm: float,
    written: Callable[[list[torch.Tensor]], None] | None,
    control: torch.Tensor,
    workspace: Callable[[int], torch.Tensor],
    threads: int,
) -> bool:
    """Writes the norm, and the factor that clips it, to control.

    written: gradients are multiplied by the factor, and it is called with them if they are written. workspace:
    makes a float64 tensor of that many elements on their device.

    Returns whether one of the gradients is float64.
    """

def grad_scale(function: str, grads: list[torch.Tensor], control: torch.Tensor, threads: int) -> None:
    """Multiplies gradients by the factor in control."""

def grad_clamp(function: str, grads: list[torch.Tensor], limit: float, threads: int) -> None:
    """Clamps gradients to [-limit, limit]."""

# The functions of layers take their arguments by name alone (csrc/bind/core/named.h); this order is the fastest. A
# seed that is a function is called when all checks are done. Returned is the seed's tensor, or None for a number.
Seed = int | torch.Tensor | Callable[[], torch.Tensor]

def batch_norm_forward(
    *,
    x: torch.Tensor,
    threads: int,
    y: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    momentum: float | None,
    batches: torch.Tensor | None,
    eps: float,
    activation: str | None,
    dropout: float,
    mask: torch.Tensor | None,
    workspace: torch.Tensor | None,
    seed: Seed,
) -> torch.Tensor | None:
    """Writes y, mean, invstd and mask, and updates the running statistics by momentum, or by 1 / batches."""

def batch_norm_inference(
    *,
    x: torch.Tensor,
    threads: int,
    y: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    eps: float,
    activation: str | None,
    dropout: float,
    mask: torch.Tensor | None,
    seed: Seed,
) -> torch.Tensor | None:
    """Writes y and mask with the running statistics."""

def batch_norm_backward(
    *,
    x: torch.Tensor,
    threads: int,
    dy: torch.Tensor,
    dx: torch.Tensor | None,
    dresidual: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    dweight: torch.Tensor | None,
    dbias: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    training: bool,
    activation: str | None,
    dropout: float,
    mask: torch.Tensor | None,
    workspace: torch.Tensor | None,
    seed: int | torch.Tensor,
) -> None:
    """Writes those gradients that are not None. training: mean and invstd are those of the batch."""

def batch_norm_workspace(*, x: torch.Tensor) -> int:
    """Returns how many elements the float64 tensor has in which forward and backward work."""

def dropout(
    *,
    x: torch.Tensor,
    threads: int,
    planes: bool,
    shared: bool,
    y: torch.Tensor,
    residual: torch.Tensor | None,
    p: float,
    scaling: str,
    gradient: bool,
    table: torch.Tensor | None,
    seed: Seed,
) -> torch.Tensor | None:
    """Writes y, which may be x. table: a byte for each draw, where several elements share one."""

cross_entropy_totals: int
"""Elements of the float64 tensor of totals that the loss fills."""

cross_entropy_places: dict[str, int]
"""Where the totals hold statistics: rows, correct, entropy, largest_logit; bins, three numbers each from there."""

def cross_entropy_forward(
    *,
    x: torch.Tensor,
    threads: int,
    target: torch.Tensor | None,
    target2: torch.Tensor | None,
    lam: float | torch.Tensor,
    probabilities: torch.Tensor | None,
    weight: torch.Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    statistics: bool,
    loss: torch.Tensor,
    saved: torch.Tensor,
    totals: torch.Tensor,
    workspace: torch.Tensor | None,
) -> None:
    """Writes loss, totals, and saved: two numbers for each row of logits, with probabilities three."""

def cross_entropy_backward(
    *,
    x: torch.Tensor,
    threads: int,
    dx: torch.Tensor,
    target: torch.Tensor | None,
    target2: torch.Tensor | None,
    lam: float | torch.Tensor,
    probabilities: torch.Tensor | None,
    weight: torch.Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    grad: torch.Tensor,
    saved: torch.Tensor,
    totals: torch.Tensor,
    workspace: torch.Tensor | None,
) -> None:
    """Writes dx, which may be x."""

def cross_entropy_workspace(*, x: torch.Tensor, threads: int, statistics: bool) -> int:
    """Returns how many elements the float64 tensor has in which forward and backward work."""

def exponential(x: torch.Tensor, y: torch.Tensor, threads: int) -> None:
    """Y = e^x for x up to 40, float32 or float64: what the loss is made of, for tests."""

def augment(
    *,
    images: Any,
    layout: str,
    output: Any,
    samples: Any,
    passes: Any,
    ops: Any,
    values: Any,
    threads: int,
    allocate: Callable[[bytearray, int], tuple[Any, Any]] = ...,
) -> None:
    """Carries out the records of augment/_records.py on a batch, or a list of images (h, w, c) or (c, h, w).

    output: (n, c, h, w), contiguous or channels_last; it must not share memory with the images. values: float64.
    Records and values are on the host. On a GPU allocate(table, n) is called once: it copies the table to the
    images' device, on the current stream, and returns it and n bytes of memory there, which hold images that are
    not finished.
    """

def augment_masks(
    *,
    masks: Any,
    output: Any,
    passes: Any,
    ops: Any,
    values: Any,
    threads: int,
    allocate: Callable[[bytearray, int], tuple[Any, Any]] = ...,
) -> None:
    """Moves the elements of masks, (n, h, w) or a list of (h, w), to output (n, h, w).

    There is one pass each: a gather with interpolation nearest or floor, and blends that are not soft. allocate is
    that of augment; n is 0.
    """

def write_scaled(
    groups: list[dict[str, Any]],
    field: str,
    ends: list[float],
    factor: float,
    starts: list[float] | None,
    lasts: list[Any] | None = None,
) -> bool:
    """Sets groups[i][field] = starts[i] + (ends[i] - starts[i]) factor, or ends[i] factor.

    With lasts only if each group holds lasts[i], which become the new values; else False, and nothing is written.
    """

def probe(reads: Sequence[Any], writes: Sequence[Any], threads: int) -> None:
    """A plain loop that reads one float32 array and updates one to four: the bandwidth of benchmarks."""

def probe_copy(source: Any, target: Any, threads: int) -> None:
    """A plain loop that copies one float32 array to another, past the caches: the bandwidth of a copy."""

def probe_widen(source: Any, target: Any, threads: int) -> None:
    """A plain loop that reads uint8 and writes float32, past the caches: the bandwidth of normalising images."""

def probe_taps(source: Any, target: Any, side: int, threads: int) -> None:
    """A plain loop that reads the taps of turned uint8 images and writes as many bytes as their values have."""
