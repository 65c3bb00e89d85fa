"""`onepass parity --impl` on optimizers whose states have torch's names and hold another quantity."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from onepass.parity import any_optim
from onepass.parity.case import Wrong
from onepass.parity.contest import Contest
from onepass.parity.subject import Subject


class Corrected(torch.optim.Optimizer):
    """Adam that keeps its moments with the bias correction in them, as optimi does."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, off=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "off": off})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                step = state["step"] = state.get("step", 0) + 1
                moments = []
                for name, beta, value in zip(
                    ("exp_avg", "exp_avg_sq"), group["betas"], (param.grad, param.grad.square()), strict=True
                ):
                    share = (1 - beta) / (1 - beta**step)
                    state[name] = torch.lerp(state.get(name, torch.zeros_like(param)), value, share)
                    moments.append(state[name])
                change = moments[0] / (moments[1].sqrt() + group["eps"])
                param.sub_((1 + group["off"]) * group["lr"] * change)


def shares(**kwargs) -> dict[str, float]:
    subject = Subject(Corrected, "adam", kwargs)
    rows = any_optim.measure(subject, torch.float32, {}, 10)
    return {row.tensor: row.share_of_limit for row in rows}


def test_such_states_are_not_compared_and_not_followed():
    found = shares()
    assert set(found) == {"param"}
    # Two orders of rounding the same formula: errors add up on both sides, at most to the limit or somewhat above.
    assert found["param"] < 3


def test_a_fault_in_the_update_is_still_found():
    assert shares(off=1e-3)["param"] > 50


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_torchs_own_states_are_compared(kind):
    subject = Subject(kind, kind.__name__.lower(), {"foreach": True})
    rows = any_optim.measure(subject, torch.float32, {}, 3)
    assert {row.tensor for row in rows} == {"param", "exp_avg", "exp_avg_sq"}
    assert all(row.share_of_limit <= 1 for row in rows)


@pytest.mark.parametrize(("dtype", "times", "wrong"), [(torch.float32, 3, False), (torch.float32, 5, True)])
def test_traps_leave_other_rounding_to_the_rows(dtype, times, wrong):
    """A trap is no place to judge the last bits: contracted operations are no silent fault."""
    subject = Subject(torch.optim.AdamW, "adamw", {"foreach": True})
    contest = Contest(subject, [torch.nn.Parameter(torch.linspace(1, 2, 24).to(dtype))]).run(3)
    ((_, torchs, unit),) = contest.errors().values()
    limit = 2 * torchs + 3 * unit
    with torch.no_grad():
        contest.params[0].copy_(contest.exact_params[0] + times * limit)
    with pytest.raises(Wrong, match="off by") if wrong else nullcontext():
        contest.judge()
