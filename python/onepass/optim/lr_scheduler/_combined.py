"""What the sequence and the chain share: their parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as theirs
from torch.optim.lr_scheduler import LRScheduler

from onepass._arguments import told
from onepass.optim.lr_scheduler._arguments import check_state, is_list
from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._neighbours import leave
from onepass.optim.lr_scheduler._track import Track, put_all
from onepass.optim.lr_scheduler._undo import undone_on_error


class Combined(FunctionLR):
    """A scheduler that is made of schedulers, and whose state holds theirs."""

    _schedulers: Sequence[Any]
    # The number of the first part without a closed form. If there is one, the parts are called one after the
    # other, as torch's classes call them.
    _without_formula: int | None = None

    def _check_parts(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
        name = type(self).__name__
        if not is_list(schedulers):
            raise TypeError(f"{name}: schedulers must be a list of schedulers, got {type(schedulers).__name__}")
        if len(schedulers) < 1:
            raise ValueError(f"{name}: schedulers must be at least one, got none")
        for i, part in enumerate(schedulers):
            if isinstance(part, theirs.ReduceLROnPlateau):
                raise ValueError(
                    f"{name}: schedulers[{i}] must be a function of the step, got ReduceLROnPlateau; its argument "
                    "warmup puts a warm-up in front of it"
                )
            if not isinstance(part, LRScheduler):
                raise TypeError(
                    f"{name}: schedulers[{i}] must be a torch.optim.lr_scheduler.LRScheduler, got {_kind(part)}"
                )
            if part.optimizer is not (optimizer or schedulers[0].optimizer):
                raise ValueError(f"{name}: schedulers[{i}] must belong to the same optimizer, got another's")
            if isinstance(part, FunctionLR) and part.follow != "calls":
                raise ValueError(
                    f"{name}: schedulers[{i}] must have follow='calls', because {name} counts, got "
                    f"{told(part.follow)}"
                )
        open_ones = (i for i, part in enumerate(schedulers) if not _has_closed_form(part))
        self._without_formula = next(open_ones, None)

    def _need_closed_forms(self, what: str) -> None:
        if self._without_formula is not None:
            part = self._schedulers[self._without_formula]
            raise TypeError(
                f"{type(self).__name__}: {what} needs schedulers of onepass.optim.lr_scheduler, which have closed "
                f"forms, got {_kind(part)} at {self._without_formula}"
            )

    def _take_parts(self, schedulers: Sequence[LRScheduler]) -> None:
        self._schedulers = schedulers
        for part in self._schedulers:
            if isinstance(part, FunctionLR):
                part._stop_order()
                leave(part)
        self._take_rates()

    def _take_rates(self) -> None:
        if self._without_formula is None:
            self.base_lrs = list(self._schedulers[0].base_lrs)

    def _take_new_groups(self) -> None:
        if self._without_formula is not None:
            super()._take_new_groups()
            return
        for part in self._schedulers:
            part._take_new_groups()
        self._take_rates()
        self._tracks = None

    def _family(self) -> list[Any]:
        """This scheduler, its parts and theirs."""
        below = [part._family() if isinstance(part, Combined) else [part] for part in self._schedulers]
        return [self, *(member for members in below for member in members)]

    def _own_step(self, part: int, step: int) -> int:
        """The part's own step at a step of the whole."""
        raise NotImplementedError

    def _initial_step(self) -> None:
        # torch's SequentialLR has set the steps of the parts back, but not the step of the whole.
        self._step_count = 1
        self.last_epoch = 0
        if self._without_formula is None:
            self._restart(0)
        else:
            self._begin_parts()

    def _begin_parts(self) -> None:
        """Lets parts take their first steps again, as torch's class does."""
        raise NotImplementedError

    def _write(self, step: int) -> None:
        if self._without_formula is not None:
            for each in range(self.last_epoch + 1, step + 1):
                self._step_parts(each)
        elif len(self.optimizer.param_groups) != len(self.base_lrs):
            self._take_new_groups()

    def _step_parts(self, step: int) -> None:
        """Calls the parts as torch's class does."""
        raise NotImplementedError

    def _restart(self, step: int) -> None:
        self._need_closed_forms("a step that is not the next one")
        super()._restart(step)

    def lr_at(self, step: int) -> list[float]:
        """Returns the learning rates of all groups at a step, as `FunctionLR` does; changes nothing.

        Args:
            step: The number of steps before it, at least 0.

        Raises:
            TypeError: A part has no closed form.
        """
        self._need_closed_forms("lr_at")
        return self._lr_at(step)

    def _lr_at(self, step: int) -> list[float]:
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        """Returns the learning rates at `last_epoch`; if a part has no closed form, those that the groups hold."""
        return self.get_last_lr() if self._without_formula is not None else super().get_lr()

    def _all_tracks(self) -> list[Track]:
        return [] if self._without_formula is not None else super()._all_tracks()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as `FunctionLR` does, with the states of the parts, as torch's class has them."""
        if self._without_formula is None:
            for i, part in enumerate(self._schedulers):
                part.last_epoch = self._own_step(i, self.last_epoch)
        return {**super().state_dict(), "_schedulers": [part.state_dict() for part in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state as `FunctionLR` does, with the arguments of the parts.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: As for `FunctionLR`, or the number of parts differs; nothing has been changed.
            TypeError: The state is not a dict; nothing has been changed.
        """
        check_state(type(self).__name__, state_dict)
        states = state_dict.get("_schedulers", [])
        if "last_epoch" not in state_dict and states:  # torch's chain keeps none of its own
            state_dict = {**state_dict, "last_epoch": states[0].get("last_epoch")}
        with undone_on_error(self.optimizer, self._family()):
            super().load_state_dict(state_dict)

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        states = state_dict.get("_schedulers", [])
        if "_schedulers" in state_dict and len(states) != len(self._schedulers):
            raise ValueError(
                f"{type(self).__name__}: state_dict must have the states of {len(self._schedulers)} schedulers, "
                f"got {len(states)}"
            )
        if self._without_formula is not None and not states:
            raise ValueError(f"{type(self).__name__}: state_dict must have the states of the schedulers, got none")
        super()._check_state(state_dict)
        for part, state in zip(self._schedulers, states, strict=False):
            if self._without_formula is None:
                part._check_state(_begun(state))

    def _take_state(self, state_dict: dict[str, Any]) -> None:
        states = state_dict.get("_schedulers", [])
        before = self.get_last_lr()
        for part, state in zip(self._schedulers, states, strict=False):
            if self._without_formula is None:
                part._take_state(_begun(state))
            else:
                part.load_state_dict(state)
        super()._take_state(state_dict)
        if self._without_formula is not None:
            # A state of torch's class does not contain what others have written since; the optimizer's state does.
            ours = state_dict.get("_written", {}).get("last_epoch") == self.last_epoch
            lrs = state_dict.get("_last_lr", before) if ours else before
            put_all(self.optimizer.param_groups, "lr", lrs)

    def _restore(self, state_dict: dict[str, Any], untouched: bool) -> None:
        if self._without_formula is None:
            super()._restore(state_dict, untouched)

    def _is_untouched(self) -> bool:
        return self._without_formula is None and super()._is_untouched()


def _has_closed_form(part: LRScheduler) -> bool:
    return isinstance(part, FunctionLR) and not (isinstance(part, Combined) and part._without_formula is not None)


def _begun(state: dict[str, Any]) -> dict[str, Any]:
    """A part's state at step 0 or later: torch's class notes -1 for a part whose turn has not come."""
    return {**state, "last_epoch": max(0, state.get("last_epoch", 0))}


def _kind(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
