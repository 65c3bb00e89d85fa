"""The base of our schedulers: the learning rate of a step is a function of the step, and of nothing before it."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from onepass._arguments import told
from onepass.optim.lr_scheduler._arguments import check_optimizer, check_rates, check_state, plain
from onepass.optim.lr_scheduler._memory import Memory
from onepass.optim.lr_scheduler._neighbours import join, resumed
from onepass.optim.lr_scheduler._restore import adopt, is_untouched, restore, written
from onepass.optim.lr_scheduler._track import Track, factors_at, held_rates, initial_rates
from onepass.optim.lr_scheduler._undo import undone_on_error
from onepass.optim.lr_scheduler._updates import Updates
from onepass.optim.lr_scheduler._wrapped import check_seen, stepping

FOLLOWS = ("calls", "optimizer")


class FunctionLR(LRScheduler):
    """Sets the learning rates as functions of the step: value = start + (end - start) f(last_epoch).

    It is the base class of our schedulers, and made by its subclasses only. They keep their arguments as
    `Setting`s, which `_settings` names, and return from `_make_tracks` what they write.

    Schedulers chain, as torch's do. If a group holds another value than the scheduler wrote, another scheduler or
    a hand has changed it, and the scheduler scales that value by f(new step) / f(last step). `LambdaLR`,
    `CosineAnnealingWarmRestarts`, `CyclicLR` and `OneCycleLR` overwrite it, as torch's classes do.

    If several groups hold the same tensor as their learning rate, each but the first gets a copy of its own.

    Args:
        optimizer: The optimizer, of any class; also one that wraps another.
        last_epoch: The step before the next one; -1 at the beginning of training. With another value the groups
            must have ``initial_lr``, which the state_dict of an optimizer contains.
        follow: What counts as a step. "calls": each call of `step`, as in torch. "optimizer": each update that the
            optimizer took, so that a step that GradScaler or skip_nonfinite dropped moves nothing. Replays of a
            CUDA graph are not seen. On a GPU `step` waits for the device if the last steps may have been dropped.

    Raises:
        TypeError: The optimizer is not one, or a factor is not a number.
        ValueError: follow is "optimizer", and neither the optimizer nor one that it wraps calls step hooks.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import FunctionLR, StepLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
        >>> isinstance(scheduler, FunctionLR)
        True
        >>> scheduler.load_state_dict({"last_epoch": 3})  # one integer is the whole state
        >>> optimizer.param_groups[0]["lr"]
        0.125

    Differs from torch: the rate of a step follows from the step, where torch multiplies the last rate; see
    `onepass.optim.lr_scheduler`. `follow`.
    """

    _settings: ClassVar[tuple[str, ...]] = ()
    # torch's base class and other code look at these two, and step must not pay for setting them.
    _get_lr_called_within_step = False
    _is_initial = False
    _updates: Updates | None = None
    # Counts the optimizer's steps until the first call of step, to warn of the wrong order.
    _order: Updates | None = None
    _tracks: list[Track] | None = None
    # Whether what others have changed is scaled, or else overwritten.
    _chains: ClassVar[bool] = True
    # Whether what others have changed is forgotten after a factor of 0.
    _begins_again: ClassVar[bool] = False
    _memories: dict[str, Memory]
    follow: str
    base_lrs: list[float]  # type: ignore[assignment]  # torch's may be tensors

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1, *, follow: str = "calls") -> None:
        with self._attached(optimizer, last_epoch, follow):
            self._begin(last_epoch)

    @contextmanager
    def _attached(self, optimizer: Optimizer, last_epoch: int, follow: str) -> Iterator[None]:
        """Checks the arguments of all schedulers and notes the initial rates; undoes that if the body fails."""
        name = type(self).__name__
        check_optimizer(name, optimizer)
        check_rates(name, optimizer)
        if follow not in FOLLOWS:
            raise ValueError(f"{name}: follow must be one of {', '.join(FOLLOWS)}, got {told(follow)}")
        if not isinstance(last_epoch, Integral) or last_epoch < -1:
            raise ValueError(f"{name}: last_epoch must be an integer and at least -1, got {told(last_epoch)}")
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch != -1 and "initial_lr" not in group:
                raise KeyError(
                    f"{name}: param_groups[{i}] must have initial_lr when last_epoch is {last_epoch}, got none; "
                    "load the optimizer's state_dict first"
                )
        if follow == "optimizer":
            check_seen(name, optimizer)
        self.optimizer = optimizer
        self.follow = follow
        self._memories = {}
        with undone_on_error(optimizer, ()):
            self.base_lrs = initial_rates(optimizer.param_groups)
            yield
        join(self)

    def _begin(self, last_epoch: int) -> None:
        last_epoch = int(last_epoch)
        if self.follow == "optimizer":
            self._updates = Updates(type(self).__name__, self.optimizer, last_epoch + 1)
        elif stepping(self.optimizer) is not None:
            self._order = Updates(type(self).__name__, self.optimizer, 0)
        self._step_count = 1
        self.last_epoch = last_epoch + 1
        self._first_write()
        self._first_lrs = self.get_last_lr()

    def _initial_step(self) -> None:
        """Takes the first step again: torch's SequentialLR calls it after it has set last_epoch back by 1."""
        self._step_count = 1
        self.last_epoch += 1
        self._first_write()

    def _first_write(self) -> None:
        """Writes the first values.

        Those of step 0 scale what the groups hold. Those of a later step, which is resumed, overwrite it, unless
        another scheduler was resumed at the same step just before: then they scale what that one has written.
        """
        others, again = resumed(self, self._settings) if self.last_epoch else (True, False)
        if not others:
            self._restart(self.last_epoch)
        elif again:
            adopt(self)
        else:
            self._memories, self._tracks = {}, None
            self._write(self.last_epoch)

    def _make_tracks(self) -> list[Track]:
        """Returns what is written; the first track is the learning rate."""
        raise NotImplementedError

    def _all_tracks(self) -> list[Track]:
        if self._tracks is None:
            self._tracks = self._make_tracks()
            if self._chains:
                for track in self._tracks:
                    self._attach(track)
        return self._tracks

    def _attach(self, track: Track) -> None:
        memory = self._memories.get(track.field)
        if memory is None:
            memory = self._memories[track.field] = Memory(track.ends, self._begins_again)
        elif len(memory.lasts) < len(track.ends):
            memory.grow(track.ends)
        track.memory, track.owner = memory, weakref.ref(self)

    def _write(self, step: int) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            self._take_new_groups()
        tracks = self._tracks or self._all_tracks()
        if len(tracks) == 1:
            track = tracks[0]
            track.write(groups, track.at(step))
            return
        for track, found in zip(tracks, factors_at(tracks, step)):  # noqa: B905  # as many; saying so costs time
            track.write(groups, found)

    def _restart(self, step: int) -> None:
        """Writes the values of a step whatever the groups hold, and forgets what others have changed."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            self._take_new_groups()
        tracks = self._all_tracks()
        for track, found in zip(tracks, factors_at(tracks, step), strict=True):
            track.restart(groups, found)

    def _write_others(self, step: int, restart: bool) -> None:
        """Writes all fields but the rate."""
        tracks = self._all_tracks()[1:]
        if not tracks:
            return
        for track, found in zip(tracks, factors_at(tracks, step), strict=True):
            (track.restart if restart else track.write)(self.optimizer.param_groups, found)

    def _take_new_groups(self) -> None:
        """Begins with groups that were added to the optimizer: the rate that they have is their initial one."""
        groups, known = self.optimizer.param_groups, len(self.base_lrs)
        name = type(self).__name__
        if len(groups) < known:
            raise ValueError(f"{name}: the optimizer must have at least {known} param_groups, got {len(groups)}")
        self.base_lrs = self.base_lrs + initial_rates(groups, known)
        self._tracks = None

    def lr_at(self, step: int) -> list[float]:
        """Returns the learning rates of all groups at a step, as this scheduler alone sets them; changes nothing.

        Args:
            step: The number of steps before it, at least 0.

        Raises:
            ValueError: The step is negative.
        """
        return self._all_tracks()[0].values(step)  # type: ignore[return-value]  # no scheduler leaves the rate alone

    def preview(self, steps: int) -> list[list[float]]:
        """Returns `lr_at` for the steps 0 to steps - 1; changes nothing."""
        return [self.lr_at(step) for step in range(steps)]

    def get_lr(self) -> list[float | Tensor]:
        """Returns the learning rates at `last_epoch`, as this scheduler alone sets them."""
        return list(self.lr_at(self.last_epoch))

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        return self.get_lr()

    def get_last_lr(self) -> list[float | Tensor]:
        """Returns the learning rates that the groups hold; tensors are copied.

        Differs from torch: they include what another scheduler has made of them since.
        """
        return held_rates(self.optimizer.param_groups)

    @property
    def _last_lr(self) -> list[float | Tensor]:  # type: ignore[override]  # torch's is an attribute
        return self.get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        """Sets the values of the next step.

        Args:
            epoch: Go to this step instead, in either direction; it need not be an integer. The values are those of
                this scheduler alone: what others have changed is overwritten, as by torch's class.

        Raises:
            ValueError: An epoch is given although the optimizer's updates are counted, or it is negative or not
                finite.
            TypeError: The epoch is not a number.

        Differs from torch: `epoch` is not deprecated, because every value has a closed form.
        """
        if epoch is not None:
            if self._updates is not None:
                raise ValueError(
                    f"{type(self).__name__}: epoch must be None with follow='optimizer', which counts updates, "
                    f"got {epoch}"
                )
            self._update_lr(epoch)
        elif self._updates is not None:
            self._follow(self._updates.total())
        else:
            if self._order is not None:
                self._check_order()
            self._write(self.last_epoch + 1)
            self.last_epoch += 1
        self._step_count += 1

    def _follow(self, total: int) -> None:
        # Without an update nothing is written: what others have changed stays in any case.
        if total == self.last_epoch and self._tracks and len(self.optimizer.param_groups) == len(self.base_lrs):
            return
        if self._chains:  # a step on the way may end what others changed: a milestone, the minimum of a cosine
            for step in range(self.last_epoch + 1, total):
                self._write(step)
                self.last_epoch = step
        self._write(total)
        self.last_epoch = total

    def _update_lr(self, epoch: int) -> None:  # type: ignore[override]  # torch's sequence calls it, with 0
        try:
            floor = math.floor(epoch)  # before anything is written
        except (TypeError, ValueError, OverflowError) as error:
            name = type(self).__name__
            raise type(error)(f"{name}: epoch must be a finite number, got {told(epoch)} ({error})") from None
        self._restart(epoch)
        self.last_epoch = floor

    def _check_order(self) -> None:
        assert self._order is not None
        if self._step_count == 1 and self._order.calls == 0:
            warnings.warn(
                f"{type(self).__name__}.step() was called before the optimizer's step(): the first value of the "
                "schedule is skipped. Call optimizer.step() first; if GradScaler dropped the step, use "
                "follow='optimizer', which counts updates.",
                UserWarning,
                stacklevel=3,
            )
        self._stop_order()

    def _stop_order(self) -> None:
        if self._order is not None:
            self._order.close()
            self._order = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the state, which torch's class of the same name loads, too.

        Returns:
            `last_epoch`, from which everything follows, and what else torch keeps: the arguments and `base_lrs`.
            ``_written`` holds what others have changed.
        """
        return {
            **{name: getattr(self, name) for name in self._settings},
            "base_lrs": list(self.base_lrs),
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "_get_lr_called_within_step": False,
            "_is_initial": False,
            "_last_lr": plain(self.get_last_lr()),
            "_written": written(self),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state of this class or of torch's class of the same name, and sets the rates.

        Args:
            state_dict: What `state_dict` returned; ``{"last_epoch": n}`` is enough.

        Raises:
            ValueError: last_epoch is missing, or base_lrs has another length than the groups; nothing has been
                changed.
            TypeError: The state is not a dict; nothing has been changed.

        Differs from torch: the values of the groups are set, too, so the optimizer's state may be loaded before,
        after or not at all. Only states of torch's classes, several on one optimizer, need it loaded before.
        """
        check_state(type(self).__name__, state_dict)
        self._check_state(state_dict)
        with undone_on_error(self.optimizer, (self,)):
            untouched = self._is_untouched()
            self._take_state(state_dict)
            self._restore(state_dict, untouched)
        if self._updates is not None:
            self._updates.reset(self.last_epoch)

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        name = type(self).__name__
        if not isinstance(state_dict.get("last_epoch"), int):
            raise ValueError(
                f"{name}: state_dict must have an integer last_epoch, got {told(state_dict.get('last_epoch'))}"
            )
        groups, base_lrs = len(self.optimizer.param_groups), state_dict.get("base_lrs", self.base_lrs)
        if len(base_lrs) != groups:
            raise ValueError(
                f"{name}: base_lrs of the state_dict must be as many as param_groups, got {len(base_lrs)} for "
                f"{groups}"
            )

    def _take_state(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state, without the values of the groups."""
        for setting in self._settings:
            if setting in state_dict:
                setattr(self, setting, state_dict[setting])
        self.base_lrs = [float(lr) for lr in state_dict.get("base_lrs", self.base_lrs)]
        self._memories, self._tracks = {}, None
        self._step_count = state_dict.get("_step_count", state_dict["last_epoch"] + 1)
        self.last_epoch = state_dict["last_epoch"]

    def _is_untouched(self) -> bool:
        return is_untouched(self)

    def _restore(self, state_dict: dict[str, Any], untouched: bool) -> None:
        restore(self, state_dict, untouched)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_tracks", "_updates", "_order")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begins to count the copied optimizer's updates, because copies of an optimizer have no hooks."""
        self.__dict__.update(state)
        if self.follow == "optimizer":
            self._updates = Updates(type(self).__name__, self.optimizer, self.last_epoch)
