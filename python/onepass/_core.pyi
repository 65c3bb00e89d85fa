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

def batch_norm_moments(
    *, x: torch.Tensor, threads: int, own: torch.Tensor, tag: float, workspace: torch.Tensor | None
) -> None:
    """Writes what this rank sends: channels, tag, count, then the mean and the m2 of each channel, float64."""

def batch_norm_merge_moments(
    *,
    x: torch.Tensor,
    threads: int,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    total: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float | None,
    batches: torch.Tensor | None,
    eps: float,
    tag: float,
    layer: str,
    rank: int,
) -> None:
    """Writes mean, invstd and the total count from x, a row of each rank, and updates the running statistics."""

def batch_norm_merge_gradients(
    *, x: torch.Tensor, threads: int, invstd: torch.Tensor, total: torch.Tensor, terms: torch.Tensor
) -> None:
    """Writes the two terms of a channel that `batch_norm_backward_elements` reads, from x, a row of each rank."""

def batch_norm_apply(
    *,
    x: torch.Tensor,
    threads: int,
    y: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    activation: str | None,
    dropout: float,
    mask: torch.Tensor | None,
    seed: Seed,
) -> torch.Tensor | None:
    """Writes y and mask with statistics that are there already."""

def batch_norm_backward_sums(
    *,
    x: torch.Tensor,
    threads: int,
    dy: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    dweight: torch.Tensor | None,
    dbias: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    own: torch.Tensor,
    activation: str | None,
    dropout: float,
    mask: torch.Tensor | None,
    workspace: torch.Tensor | None,
    seed: int | torch.Tensor,
) -> None:
    """Writes this rank's two sums of each channel to own, and its dweight and dbias."""

def batch_norm_backward_elements(
    *,
    x: torch.Tensor,
    threads: int,
    dy: torch.Tensor,
    dx: torch.Tensor | None,
    dresidual: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    terms: torch.Tensor,
    activation: str | None,
    dropout: float,
    mask: torch.Tensor | None,
    workspace: torch.Tensor | None,
    seed: int | torch.Tensor,
) -> None:
    """Writes dx and dresidual, those that are not None, with the terms of all ranks' sums."""

def batch_norm_workspace(*, x: torch.Tensor) -> int:
    """Returns how many elements the float64 tensor has in which forward and backward work."""

def layer_norm_forward(
    *,
    x: torch.Tensor,
    threads: int,
    width: int,
    y: torch.Tensor,
    residual: torch.Tensor | None,
    h: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    eps: float,
    dropout: float,
    workspace: torch.Tensor | None,
    seed: Seed,
) -> torch.Tensor | None:
    """Writes y, mean and invstd, and h = residual + dropout(x) where there is a residual."""

def rms_norm_forward(
    *,
    x: torch.Tensor,
    threads: int,
    width: int,
    y: torch.Tensor,
    residual: torch.Tensor | None,
    h: torch.Tensor | None,
    weight: torch.Tensor | None,
    invstd: torch.Tensor,
    eps: float,
    dropout: float,
    workspace: torch.Tensor | None,
    seed: Seed,
) -> torch.Tensor | None:
    """Writes y and invstd, and h where there is a residual."""

def layer_norm_backward(
    *,
    x: torch.Tensor,
    threads: int,
    width: int,
    dy: torch.Tensor,
    dh: torch.Tensor | None,
    dx: torch.Tensor | None,
    dresidual: torch.Tensor | None,
    weight: torch.Tensor | None,
    dweight: torch.Tensor | None,
    dbias: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    dropout: float,
    workspace: torch.Tensor | None,
    seed: int | torch.Tensor,
) -> None:
    """Writes those gradients that are not None. x: what was normalised; without dropout dx is dresidual, too."""

def rms_norm_backward(
    *,
    x: torch.Tensor,
    threads: int,
    width: int,
    dy: torch.Tensor,
    dh: torch.Tensor | None,
    dx: torch.Tensor | None,
    dresidual: torch.Tensor | None,
    weight: torch.Tensor | None,
    dweight: torch.Tensor | None,
    invstd: torch.Tensor,
    dropout: float,
    workspace: torch.Tensor | None,
    seed: int | torch.Tensor,
) -> None:
    """Writes those gradients that are not None."""

def row_norm_workspace(*, x: torch.Tensor, threads: int, width: int, columns: bool) -> int:
    """Returns the elements of the float64 tensor for a call. columns: for backward with dweight or dbias."""

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
    part: Sequence[int] | None = None,
) -> torch.Tensor | None:
    """Writes y, which may be x. table: a byte for each draw, where several elements share one.

    part: where the draws are among those of a whole tensor: the first one, then sizes, then strides.
    """

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

class AugmentPlan:
    """The plan of a batch: transforms call it, in the order of the chain. Numbers: one for all samples, or (n,).

    on: which samples, bools (n,); None for all. heights, widths: of the images. unit: what 1.0 is called in fills.
    masks: nearest pixels, one map, and no operations but fills.
    """

    def __init__(
        self, n: int, heights: Any, widths: Any, channels: int, unit: float = ..., masks: bool = ...
    ) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def masks(self) -> bool: ...
    @property
    def height(self) -> Any:
        """Of each sample as it is now, (n,)."""
    @property
    def width(self) -> Any: ...
    @property
    def least(self) -> tuple[float, float]:
        """The least height and the least width."""
    @property
    def common(self) -> tuple[int, int] | None:
        """(height, width), if all samples have one size."""
    @property
    def shares(self) -> Any:
        """The share that each sample has of its mix, (n,)."""
    @property
    def fills(self) -> tuple[float, ...]:
        """The list of values."""
    unit: float

    def crop(self, top: Any, left: Any, height: Any, width: Any, on: Any = ...) -> None:
        """Takes a part of the image, which lies within it."""
    def flip(self, axis: int, on: Any) -> None:
        """Mirrors: axis 0 from left to right, axis 1 upside down."""
    def turn(self, quarters: Any, on: Any) -> None:
        """Turns by multiples of 90 degrees, against the clock; odd ones exchange height and width."""
    def warp(
        self, matrix: Any, linear: bool, fill: Sequence[float] | None, on: Any = ..., size: Any = ...
    ) -> None:
        """Samples the image at matrix * (x, y, 1), matrix (n, 3, 3) of pixel indices, with a fill outside of it.

        linear: bilinear, or the nearest pixel. fill: one number or one each channel; None blends with 0. size:
        (height, width) of the new image; None for those of the old one.
        """
    def pad(self, sides: Sequence[Any], mode: str, fill: Sequence[float], on: Any = ...) -> None:
        """Adds pixels at the left, top, right and bottom."""
    def resize(self, height: Any, width: Any, interpolation: str, antialias: bool, on: Any = ...) -> None:
        """Scales the image; interpolation is that of torch's interpolate."""
    def op(
        self,
        kind: Any,
        a: Sequence[Any] = ...,
        on: Any = ...,
        level: Any = ...,
        values: Sequence[float] = ...,
    ) -> None:
        """Adds an operation: a number of OPS, parameters, what it is to later maps, what it has each channel."""
    def mix(self, kind: str, on: Any, **fields: Any) -> None:
        """Mixes each sample with the one before it: "mixup" or "cutmix", and fields of a sample's record."""
    def records(self) -> tuple[Any, Any, Any, Any]:
        """Samples (n, 7), passes (n, P, 19), operations (n, P, K, 16), values: float64."""

def augment_ids(ids: Any) -> Any:
    """Widens integers to uint64; None if they have not one dimension."""

def augment_draw(seed: int, ids: Any, epoch: int, blocks: Any) -> Any:
    """Draws numbers in [0, 1), (n, 4 b): Philox with the counter (id, epoch, block)."""

def augment_between(u: Any, low: float, high: float) -> Any:
    """Returns low + (high - low) u."""

def augment_places(u: Any, size: Any, part: float) -> Any:
    """Returns floor(u (size - part + 1))."""

def augment_applied(u: Any, p: float) -> Any:
    """Returns 1.0 where u is below p, else 0.0."""

def augment_chosen(applied: Any, on: Any) -> Any:
    """Which samples have a number other than 0, of those that are on."""

def augment_turns(angle: Any, height: Any, width: Any, resized: bool, on: Any) -> tuple[Any, Any, Any]:
    """Angles against the clock as those with the clock, -360 to 0; which samples turn by quarters, which do not.

    Odd quarters turn square images alone, unless they are resized. If none turns, (angles, None, on).
    """

def augment_inverse_affine(
    angle: Any,
    cos: Any,
    sin: Any,
    tan_x: Any,
    tan_y: Any,
    scale: Any,
    x: Any,
    y: Any,
    move_x: Any,
    move_y: Any,
) -> Any:
    """Inverts T C R(angle) S(scale) SHy SHx C^-1, (n, 3, 3): offsets from the middle, degrees with the clock."""

def augment_from_middles(matrix: Any, height: Any, width: Any, new_height: Any, new_width: Any) -> None:
    """Makes maps between pixel indices of those between offsets from middles, in their place."""

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
