"""Looks at the layers in some steps: dead channels and units, batch norm's two statistics, gradients and updates.

Plain steps pay nothing: hooks are there only in the steps that are looked at. What is computed there is kept as
tensors and read later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from onepass.monitor._batch_norm import BatchNormProbe
from onepass.monitor._sample import Owned, Sample
from onepass.nn.batch_norm import FusedBatchNorm
from onepass.nn.sequential import pairs_of

__all__ = ["LayerProbe"]

# Elements of a parameter whose update is measured: all of a small one, evenly spaced ones of a large one.
_MOST = 65_536
_RELUS = (nn.ReLU, nn.ReLU6)


class LayerProbe:
    """Looks at the layers of a model, in the steps between `arm` and `take`.

    Args:
        model: The model.
        optimizer: Its optimizer, or None if its steps cannot be seen.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        modules = dict(model.named_modules())
        self._types = {name: type(module).__name__ for name, module in modules.items()}
        self._owned = list(_owned(modules, optimizer))
        self._groups = 0 if optimizer is None else len(optimizer.param_groups)
        self._norms = BatchNormProbe(
            {name: one for name, one in modules.items() if isinstance(one, _BatchNorm) and one.track_running_stats}
        )
        self._relus = [] if _is_compiled(modules) else list(_relus(modules))
        # (N, C, L) of convolutions and (N, L, C) of sequences look alike.
        has_1d = any(isinstance(module, (nn.Conv1d, nn.BatchNorm1d)) for module in modules.values())
        self._axis_of_three = 1 if has_1d else -1
        self._handles: list[Any] = []
        self._clear()

    def _clear(self) -> None:
        self._units: list[tuple[str, Tensor]] = []
        self._before: list[Tensor] = []
        self._grad_norms: list[Tensor | None] | None = None
        self._sizes: list[tuple[Tensor, Tensor, float]] = []

    def arm(self) -> None:
        """Begins to look: at what the next forward passes and the next step do."""
        self._clear()
        self._norms.arm()
        for name, module, reads_input in self._relus:
            hook = _Look(self, name, reads_input)
            register: Any = module.register_forward_pre_hook if reads_input else module.register_forward_hook
            self._handles.append(register(hook))

    def disarm(self) -> None:
        """Stops looking."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def look(self, name: str, output: Any) -> None:
        """Counts the units of a ReLU that are 0 for the whole batch."""
        if not isinstance(output, Tensor) or output.dim() < 2 or not output.numel() or not torch.is_grad_enabled():
            return
        with torch.no_grad():
            axis = self._axis_of_three % 3 if output.dim() == 3 else 1
            others = [dim for dim in range(output.dim()) if dim != axis]
            # A ReLU gives nothing below 0. torch's amax takes 30 times as long where channels are last.
            sums = output.detach().sum(others, dtype=torch.promote_types(output.dtype, torch.float32))
            self._units.append((name, (sums == 0).double().mean()))

    def before_step(self, has_closure: bool, scale: Any) -> None:
        """Keeps what the step will change.

        Args:
            has_closure: Whether the gradients are yet to be made, in the step.
            scale: What they are to be divided by, or None.
        """
        with torch.no_grad():
            self._before = [_some(owned.param).clone() for owned in self._owned]
            self._grad_norms = None if has_closure else self._norms_of_grads(scale)

    def after_step(self, has_grads: bool) -> None:
        """Measures what the step has changed; `has_grads`: the gradients are there still."""
        if len(self._before) != len(self._owned):
            return
        with torch.no_grad():
            if self._grad_norms is None and has_grads:
                self._grad_norms = self._norms_of_grads(None)
            after = [_wide(_some(owned.param)) for owned in self._owned]
            changes = torch._foreach_sub(after, [_wide(before) for before in self._before]) if after else []
            norms = _norms_of(changes), _norms_of(after)
            self._sizes = [
                (change, size, (owned.param.numel() / max(some.numel(), 1)) ** 0.5)
                for owned, some, change, size in zip(self._owned, after, *norms, strict=True)
            ]
        self._before = []

    def _norms_of_grads(self, scale: Any) -> list[Tensor | None]:
        grads = [owned.param.grad for owned in self._owned]
        dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in grads if grad is not None]
        norms = iter(_norms_of([_wide(grad) for grad in dense]))
        found = [None if grad is None else next(norms) for grad in grads]
        return found if scale is None else [None if norm is None else norm / scale for norm in found]

    def take(self) -> Sample:
        """Ends looking; returns what was seen."""
        self.disarm()
        norms = self._norms.take()
        sample = Sample(
            self._types, self._owned, self._groups, self._units, self._grad_norms or [], self._sizes, norms
        )
        self._clear()
        return sample


class _Look:
    """A hook that reads a ReLU's output; a copy or a pickle of the module gets one that does nothing."""

    def __init__(self, probe: LayerProbe, name: str, reads_input: bool) -> None:
        self._probe, self._name, self._reads_input = probe, name, reads_input

    def __call__(self, module: nn.Module, inputs: Any, output: Any = None) -> None:
        try:
            if module.training and not torch.compiler.is_compiling() and not _is_tracing():
                self._probe.look(self._name, inputs[0] if self._reads_input and inputs else output)
        except Exception:  # an output that cannot be looked at is left out; the forward pass goes on
            return

    def __reduce__(self) -> Any:
        return _nothing, ()


def _is_tracing() -> bool:
    return torch._C._get_tracing_state() is not None


class _Nothing:
    """Does nothing, as a hook."""

    def __call__(self, *args: Any) -> None:
        return


def _nothing() -> _Nothing:
    return _Nothing()


def _owned(modules: dict[str, nn.Module], optimizer: Optimizer | None) -> Iterator[Owned]:
    """The parameters of the optimizer by the layer that holds them itself; each once."""
    groups = [] if optimizer is None else optimizer.param_groups
    group_of = {id(param): number for number, group in enumerate(groups) for param in group["params"]}
    for name, module in modules.items():
        for param in module.parameters(recurse=False):
            number = group_of.pop(id(param), None)
            if number is not None:
                yield Owned(name, param, number)


def _relus(modules: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module, bool]]:
    """The ReLUs: their name, where to look at their output, and whether it is the input there.

    A ReLU behind a batch norm of ours runs in its pass unless one of them has a hook. So the hook goes to what
    stands behind the two, or to their container.
    """
    fused: dict[int, tuple[nn.Module, bool] | None] = {}
    for module in modules.values():
        if isinstance(module, nn.Sequential):
            pairs = pairs_of(module)
            order = list(module._modules)
            for _, relu in pairs:
                behind = order[order.index(relu) + 1 :]
                place: tuple[nn.Module, bool] | None = (module, False)
                if behind:
                    follower = module._modules[behind[0]]
                    in_pair = follower is None or any(behind[0] == first for first, _ in pairs)
                    place = None if in_pair else (follower, True)
                fused[id(module._modules[relu])] = place
    for name, module in modules.items():
        if isinstance(module, FusedBatchNorm) and module.activation is not None:
            yield name, module, False
        elif isinstance(module, _RELUS):
            found = fused.get(id(module), (module, False))
            if found is not None:
                yield name, *found


def _is_compiled(modules: dict[str, nn.Module]) -> bool:
    """Whether a part of the model is compiled: a hook would be overlooked, or compile it again."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in modules.values()
    )


def _some(param: Tensor) -> Tensor:
    """Some of the parameter's elements, evenly spaced; all of a small one. A view where memory allows."""
    flat = param.detach().reshape(-1) if param.is_contiguous() else param.detach().flatten()
    return flat[:: -(-flat.numel() // _MOST)] if flat.numel() > _MOST else flat


def _norms_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(list(tensors))) if tensors else []


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
