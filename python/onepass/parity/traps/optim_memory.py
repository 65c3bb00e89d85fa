"""Traps of memory: layouts, sizes and addresses of parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onepass.parity.case import Refused, Wrong, asked
from onepass.parity.contest import Contest, draws, gradients
from onepass.parity.subject import Subject, accepts
from onepass.parity.traps.trap import Trap, trap

__all__ = ["TRAPS"]

TRAPS: list[Trap] = []
_IMAGE = (3, 4, 5, 6)
# Around the widths of vectors and of the blocks in which kernels walk.
_SIZES = (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 1023, 1025, 4097)


def _ordinary(subject: Subject, shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> Contest:
    """Makes parameters that are each contiguous in memory of their own."""
    return Contest(subject, [subject.param(value) for value in draws(shapes, 1, dtype)])


def _channels_last(value: Tensor) -> Tensor:
    return value.to(memory_format=torch.channels_last)


def _layouts(subject: Subject, of_param: Callable[[Tensor], Tensor], of_grad: Callable[[Tensor], Tensor]) -> None:
    start = of_param(draws([_IMAGE], 1)[0])
    odd, plain = Contest(subject, [subject.param(start)]), _ordinary(subject, [_IMAGE])
    for step in range(3):
        grad = gradients([_IMAGE], 10 + step)[0]
        odd.step([of_grad(grad)])
        plain.step([grad])
    odd.judge(like=plain)


@trap(TRAPS, "torch's fused CPU step (pytorch#106951), apex, optimi's Triton kernels: the wrong elements")
def channels_last_parameter(subject: Subject) -> None:
    """Gives each element its own gradient where a channels_last parameter meets a contiguous gradient."""
    _layouts(subject, _channels_last, torch.Tensor.contiguous)


@trap(TRAPS, "torch's fused CPU step (pytorch#106951), apex, optimi's Triton kernels: the wrong elements")
def channels_last_gradient(subject: Subject) -> None:
    """Gives each element its own gradient where a contiguous parameter meets a channels_last gradient."""
    _layouts(subject, torch.Tensor.contiguous, _channels_last)


@trap(TRAPS, "bitsandbytes replaces such a parameter's memory by a contiguous copy")
def parameter_stays_where_it_is(subject: Subject) -> None:
    """Leaves a channels_last parameter its memory and strides, which views and buckets of it share."""
    contest = Contest(subject, [subject.param(_channels_last(draws([_IMAGE], 1)[0]))])
    (param,) = contest.params
    before = param.data_ptr(), param.stride()
    contest.run(2)
    if (param.data_ptr(), param.stride()) != before:
        raise Wrong(f"the parameter has moved, or its strides {before[1]} have become {param.stride()}")


@trap(TRAPS, "kernels that take every parameter for a dense one")
def transposed_parameter(subject: Subject) -> None:
    """Gives each element of a transposed matrix its own gradient."""
    odd, plain = Contest(subject, [subject.param(draws([(9, 5)], 1)[0].t())]), _ordinary(subject, [(5, 9)])
    odd.params[0].data = odd.params[0].data.t().contiguous().t()
    odd.run(3).judge(like=plain.run(3))


@trap(TRAPS, "torch's fused CPU step writes outside the view; DeepSpeed updates a copy and drops it")
def strided_view(subject: Subject) -> None:
    """Writes the update into a parameter that is every second element of a buffer, and nothing between them."""
    buffer = torch.full((80,), 5.0, device=subject.device)
    odd = Contest(subject, [torch.nn.Parameter(buffer[::2])])
    plain = Contest(subject, [subject.param(torch.full((40,), 5.0))])
    odd.run(3)
    plain.run(3)
    if not torch.equal(buffer[1::2], torch.full_like(buffer[1::2], 5.0)):
        raise Wrong("memory next to the view's elements has changed")
    odd.judge(like=plain)


@trap(TRAPS, "vector loads at addresses that are no multiple of their width")
def parameter_inside_a_buffer(subject: Subject) -> None:
    """Updates parameters that begin at any element of a shared buffer, and nothing between them."""
    buffer = torch.full((400,), 5.0, device=subject.device)
    places = [(1, 40), (43, 71), (117, 7), (130, 129), (261, 130)]
    odd = Contest(subject, [torch.nn.Parameter(buffer[begin : begin + size]) for begin, size in places])
    plain = Contest(subject, [subject.param(torch.full((size,), 5.0)) for _, size in places])
    odd.run(2)
    plain.run(2)
    between = torch.ones_like(buffer, dtype=torch.bool)
    for begin, size in places:
        between[begin : begin + size] = False
    if not (buffer[between] == 5).all():
        raise Wrong("memory between the parameters has changed")
    odd.judge(like=plain)


def _every_size(subject: Subject, dtype: torch.dtype) -> None:
    has_momentum = subject.rule == "sgd" and accepts(subject.implementation, "momentum")
    for options in ({"momentum": 0.0}, {}) if has_momentum else ({},):
        params = [subject.param(value) for value in draws([(size,) for size in _SIZES], 1, dtype)]
        contest = Contest(subject, params, options)
        before = [param.detach().clone() for param in params]
        # Gradients near 0 could leave an element of few bits as it is.
        grads = [torch.where(value < 0, -1.0, 1.0).to(dtype) for value in draws([p.shape for p in params], 5)]
        contest.step(grads)
        for param, old, exact in zip(params, before, contest.exact_params, strict=True):
            still = (param == old).cpu() & (exact.detach().to(dtype) != old.cpu())
            if still.any():
                raise Wrong(f"{int(still.sum())} of {param.numel()} elements have not been updated")
        few = Contest(subject, [subject.param(draws([(7,)], 1, dtype)[0])], options)
        few.step([torch.ones(7, dtype=dtype)])
        contest.judge(like=few)


@trap(TRAPS, "torch's fused CPU SGD leaves full SIMD blocks as they were (pytorch#191763)")
def every_element_of_bfloat16(subject: Subject) -> None:
    """Updates every element of bfloat16 parameters of many sizes."""
    _every_size(subject, torch.bfloat16)


@trap(TRAPS, "torch's fused CPU SGD leaves full SIMD blocks as they were (pytorch#191763)")
def every_element_of_float16(subject: Subject) -> None:
    """Updates every element of float16 parameters of many sizes."""
    # In float16 torch's loop divides by 0 where a gradient's square is 0. The gradients here are 1 and -1.
    _every_size(subject, torch.float16)


@trap(TRAPS, "tails of vectors and blocks")
def every_element_of_float32(subject: Subject) -> None:
    """Updates every element of float32 parameters of many sizes."""
    _every_size(subject, torch.float32)


@trap(TRAPS, "copies of multi_tensor_apply never launch what is pending (TransformerEngine#3207)")
def empty_tensor_at_the_end(subject: Subject) -> None:
    """Updates the others where empty tensors are in the list, also as the last."""
    for sizes in ([40, 0], [0, 40], [40, 0, 0], [40, 0, 7, 0]):
        shapes: list[tuple[int, ...]] = [(size,) for size in sizes]
        filled = [shape for shape in shapes if shape != (0,)]
        _ordinary(subject, shapes).run(2).judge(
            f"in a list of {sizes} elements parameters", _ordinary(subject, filled).run(2)
        )


@trap(TRAPS, "shapes without a dimension")
def scalar_parameter(subject: Subject) -> None:
    """Updates a parameter without dimensions next to one of (1, 1)."""
    _ordinary(subject, [(), (1, 1), (3,)]).run(3).judge(like=_ordinary(subject, [(1,), (1,), (3,)]).run(3))


@trap(TRAPS, "kernels whose arguments hold a bounded number of tensors")
def many_parameters(subject: Subject) -> None:
    """Updates each of 400 parameters."""
    shapes: list[tuple[int, ...]] = [(1 + 37 * i % 50,) for i in range(400)]
    _ordinary(subject, shapes).run(2).judge(like=_ordinary(subject, shapes[:10]).run(2))


@trap(TRAPS, "tables of kept pointers write to freed memory (microsoft/dion#63); FSDP")
def memory_that_moved(subject: Subject) -> None:
    """Updates the memory that a parameter has at this step, where `param.data =` and states have moved."""
    odd, plain = _ordinary(subject, [(24,)]), _ordinary(subject, [(24,)])
    kept: list[tuple[Tensor, Tensor]] = []
    for step in range(4):
        (param,) = odd.params
        old, states = param.data, odd.optimizer.state.get(param, {})
        param.data = old.clone()
        kept.append((old.fill_(1.5), old.clone()))
        for name, value in list(states.items()):
            if isinstance(value, Tensor) and value.shape == param.shape and value.is_floating_point():
                with asked():
                    states[name] = value.clone()
        grad = gradients([(24,)], 10 + step)[0]
        odd.step([grad])
        plain.step([grad])
    if not all(torch.equal(old, was) for old, was in kept):
        raise Wrong("memory that the parameter has left was written")
    odd.judge(like=plain)


@trap(TRAPS, "float32 copies of half precision weights that are stale")
def weights_written_between_steps(subject: Subject) -> None:
    """Goes on from weights that were written between steps, as loading a model does."""
    for dtype in (torch.float32, torch.bfloat16):
        odd, plain = _ordinary(subject, [(24,)], dtype), _ordinary(subject, [(24,)], dtype)
        odd.run(2)
        plain.run(2)
        for side in (odd.params, odd.loop_params, odd.exact_params):
            with torch.no_grad():
                side[0].copy_(draws([(24,)], 50, dtype)[0])
        grad = gradients([(24,)], 60, dtype)
        odd.step(grad)
        plain.step(grad)
        odd.judge(like=plain)


@trap(TRAPS, "docs/traps.md: updated twice, or read after it was written")
def parameters_that_share_memory(subject: Subject) -> None:
    """Adds both updates where two parameters overlap, or refuses them."""
    buffer = torch.zeros(60, device=subject.device)
    with asked():
        optimizer = subject.make([torch.nn.Parameter(buffer[:40]), torch.nn.Parameter(buffer[20:])], {})
    params = optimizer.param_groups[0]["params"]
    plain = Contest(subject, [subject.param(torch.zeros(60)), subject.param(torch.zeros(60))])
    grads = gradients([(40,)] * 2, 3)
    wide = [torch.zeros(60) for _ in grads]
    wide[0][:40], wide[1][20:] = grads[0], grads[1]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.to(param.device)
    with asked():
        optimizer.step()
    plain.step(wide)
    total = plain.exact_params[0].detach() + plain.exact_params[1].detach()
    off = (buffer.cpu().double() - total).abs().max().item()
    if off > 1e-5 + 4 * plain.worst():
        raise Wrong(f"the buffer is off by {off:.2g} from the sum of both updates")


@trap(TRAPS, "kernels that write through a pointer: a saved graph runs backward with other values")
def autograd_notices_the_step(subject: Subject) -> None:
    """Lets autograd know of the write: a graph that saved the parameter raises."""
    contest = _ordinary(subject, [(24,)]).run(1)
    (param,) = contest.params
    saved = param.square().sum()
    param.grad = torch.ones_like(param)
    with asked():
        contest.optimizer.step()
    try:
        with asked():
            torch.autograd.backward(saved)
    except Refused:
        return
    raise Wrong("a graph from before the step ran backward with the parameter of after it")
