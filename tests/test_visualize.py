"""onepass.visualize.trajectories: surfaces, paths, rates, noise, schedules, and what is refused."""

from __future__ import annotations

import copy
import json
import math
from functools import partial

import numpy as np
import pytest
import torch

from onepass import optim
from onepass.optim.lr_scheduler import ReduceLROnPlateau
from onepass.optim.schedules import cosine
from onepass.visualize import SURFACES, surface, trajectories
from onepass.visualize._normals import NOISE, normals, words
from onepass.visualize._rates import RATES, score
from reference.dropout import philox

POINT = (0.3, -0.7)
# A central difference over a millionth: it leaves some ten of the digits that the surface's values have.
DIFFERENCE = {"rel": 1e-5, "abs": 1e-7}
quiet = partial(trajectories, progress=False)


def bowl(point):
    return (point**2).sum()


def difference(f, point, i, h=1e-6):
    """The central difference of a surface along one axis."""
    ends = [torch.tensor(point, dtype=torch.float64) for _ in range(2)]
    ends[0][i] += h
    ends[1][i] -= h
    return float(f(ends[0]) - f(ends[1])) / (2 * h)


@pytest.mark.parametrize("name", SURFACES)
def test_a_surface_has_its_gradient_and_its_minima(name):
    one = surface(name)
    point = torch.tensor(POINT, dtype=torch.float64, requires_grad=True)
    one(point).backward()
    assert point.grad.tolist() == pytest.approx([difference(one, POINT, i) for i in range(2)], **DIFFERENCE)
    (left, right), (bottom, top) = one.window
    grid = torch.cartesian_prod(
        torch.linspace(left, right, 61, dtype=torch.float64), torch.linspace(bottom, top, 61, dtype=torch.float64)
    )
    lowest = [float(one(torch.tensor(minimum, dtype=torch.float64))) for minimum in one.minima]
    assert max(lowest) - min(lowest) < 1e-9
    assert float(one(grid).min()) >= max(lowest) - 1e-9
    assert left < one.start[0] < right
    assert bottom < one.start[1] < top


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"name must be one of rosenbrock, beale, .*rastrigin, got 'x'"):
        surface("x")
    with pytest.raises(ValueError, match="surface: name must be one of rosenbrock"):
        trajectories("x")
    with pytest.raises(
        ValueError, match="optimizers must be of sgd, momentum, nesterov, adam, adamw, lion, got x"
    ):
        trajectories("ravine", "sgd,x")


def test_a_path_is_the_optimizers():
    (path,) = quiet("rosenbrock", {"ours": lambda params: optim.AdamW(params, lr=0.05)}, steps=20).paths
    point = torch.nn.Parameter(torch.tensor(surface("rosenbrock").start, dtype=torch.float64))
    optimizer = torch.optim.AdamW([point], lr=0.05)
    for i in range(20):
        assert path.points[i] == pytest.approx(point.tolist())
        optimizer.zero_grad()
        loss = surface("rosenbrock")(point)
        loss.backward()
        assert path.losses[i] == pytest.approx(float(loss.detach()))
        assert path.grad_norms[i] == pytest.approx(float(point.grad.norm()))
        optimizer.step()
    assert path.points[20] == pytest.approx(point.tolist())
    assert path.step_sizes == pytest.approx(np.linalg.norm(path.points[1:] - path.points[:-1], axis=1))
    assert (path.rates == 0.05).all()
    assert (len(path.losses), len(path.rates), path.ended) == (21, 20, "")


def test_a_function_an_optimizer_and_a_schedule_of_the_users():
    given = torch.nn.Parameter(torch.zeros(2))
    mine = optim.SGD([given], lr=0.25, momentum=0.5)
    before = copy.deepcopy(mine.state_dict())
    runs = quiet(bowl, {"mine": mine, "closure": torch.optim.LBFGS}, start=(1.0, 2.0), steps=4, schedule=cosine(4))
    first, second = runs.paths
    assert first.rates == pytest.approx([0.25 * cosine(4)(i) for i in range(4)])
    assert second.losses[-1] < 1e-12
    assert mine.state_dict() == before
    assert given.tolist() == [0.0, 0.0]
    assert runs.title == "bowl"
    (left, right), (bottom, top) = runs.window
    assert left < min(first.points[:, 0]) < max(first.points[:, 0]) < right
    assert bottom < min(first.points[:, 1]) < max(first.points[:, 1]) < top


@pytest.mark.parametrize("schedule", [lambda o: ReduceLROnPlateau(o, patience=0, factor=0.5), "linear(8)"])
def test_schedulers_change_rates(schedule):
    (path,) = quiet("ravine", "sgd", steps=8, lr=0.03, schedule=schedule).paths
    assert path.rates[0] == 0.03
    assert path.rates[-1] < 0.03


def test_rates_by_label():
    runs = quiet("ravine", {"a": "sgd", "b": partial(optim.SGD, lr=0.5)}, steps=3, lr={"a": 0.01})
    assert [path.lr for path in runs.paths] == [0.01, 0.5]
    runs = quiet("ravine", {"a": "sgd", "b": partial(optim.SGD, lr=0.5)}, steps=3, lr=0.001)
    assert [path.lr for path in runs.paths] == [0.001, 0.001]


def test_the_automatic_rate_is_the_best_of_all():
    (path,) = quiet("ravine", "sgd", steps=40, lr="auto").paths
    assert [rate for rate, _ in path.tried] == list(RATES)
    scores = dict(path.tried)
    assert scores[path.lr] == min(scores.values()) == score(path.losses)
    # The curvatures are 1 and 100: SGD diverges from 0.02 on, and then leaves the window.
    assert all(math.isinf(value) == (rate > 0.02) for rate, value in scores.items())
    assert 0.01 <= path.lr <= 0.02


def test_the_score_is_no_lucky_step():
    losses = np.ones(100)
    losses[-1] = 0.0
    assert score(losses) == 1.0


def test_noise_is_the_same_for_all_and_of_the_seed():
    runs = quiet("noisy_quadratic", {"a": "sgd", "b": "sgd"}, steps=30, lr=0.02)
    again, other = (quiet("noisy_quadratic", "sgd", steps=30, lr=0.02, seed=seed).paths[0] for seed in (0, 1))
    assert (runs.paths[0].points == runs.paths[1].points).all()
    assert (runs.paths[0].points == again.points).all()
    assert not (again.points == other.points).any(1)[1:].any()
    still = quiet("noisy_quadratic", "sgd", steps=30, lr=0.02, noise=0).paths[0]
    shift = (still.points[1] - again.points[1]) / 0.02
    assert shift == pytest.approx(2.0 * normals(0, NOISE, 0, 2).numpy())
    assert again.losses[0] == still.losses[0]


def test_a_path_that_is_not_finite_ends():
    runs = quiet("rosenbrock", "sgd,momentum", steps=100, lr=1.0)
    for path in runs.paths:
        assert path.ended == "not finite"
        assert len(path.losses) == len(path.points) == len(path.rates) + 1 < 100
    assert None in runs.to_json()["paths"][0]["losses"]
    json.dumps(runs.to_json(), allow_nan=False)


def test_normals_are_philox():
    found = words(tuple(torch.arange(8) * k for k in (1, 3, 5, 7)), 0x123456789ABCDEF0)
    counters = np.stack([np.arange(8, dtype=np.uint64) * np.uint64(k) for k in (1, 3, 5, 7)], axis=1)
    wanted = philox(counters, 0x123456789ABCDEF0)
    assert np.array_equal(torch.stack(found).numpy().T.astype(np.uint32), wanted)
    drawn = normals(5, 0, 3, 40_000)
    # Mean and variance are within five standard errors.
    assert abs(float(drawn.mean())) < 5 / 200
    assert abs(float(drawn.var()) - 1) < 5 * math.sqrt(2) / 200
    assert torch.equal(normals(5, 0, 3, 7), drawn[:7])
    for other in (normals(5, 1, 3, 7), normals(5, 0, 4, 7), normals(6, 0, 3, 7)):
        assert not (other == drawn[:7]).any()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"f": 3}, TypeError, "f must be a surface, its name or a function, got 3"),
        ({"f": bowl}, ValueError, "start must be given for a function of yours, got None"),
        ({"f": lambda p: p, "start": (0, 0)}, TypeError, "f must return a tensor of one element"),
        ({"f": lambda p: torch.ones(()), "start": (0, 0)}, TypeError, "f must return a tensor with a gradient"),
        (
            {"f": lambda p: p.sum() / 0, "start": (1, 0)},
            ValueError,
            r"f must be finite at start, got inf at \(1.0",
        ),
        ({"start": (1, 2, 3)}, TypeError, r"start must be two numbers, got \(1, 2, 3\)"),
        ({"start": (1, math.nan)}, ValueError, "start must be finite"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer, got 1.5"),
        ({"lr": "x"}, ValueError, "lr must be a number or auto, got 'x'"),
        ({"lr": -1}, ValueError, "lr must be finite and above 0, got -1"),
        ({"lr": {"x": 1}}, ValueError, "lr must name optimizers of sgd, got x"),
        ({"schedule": "x"}, ValueError, "trajectories: schedule: "),
        ({"schedule": 3}, TypeError, "schedule must be a schedule, its text or a function, got 3"),
        ({"schedule": lambda o: 3}, TypeError, "schedule must make a scheduler of an optimizer, got 3"),
        ({"noise": -1}, ValueError, "noise must be finite and above 0, got -1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": 2**64}, ValueError, r"seed must be below 2\*\*64"),
        ({"window": 3}, TypeError, "window must be two pairs of numbers, got 3"),
        ({"window": ((1, 0), (0, 1))}, ValueError, r"window\[0\] must be a smaller and a larger number"),
        ({"optimizers": []}, ValueError, "optimizers must be at least one, got none"),
        ({"optimizers": [3]}, TypeError, "optimizers must be names, or a dict from labels to optimizers, got 3"),
        ({"optimizers": {"a": 3}}, TypeError, r"optimizers\['a'\] must be a name, an optimizer, or a function"),
        ({"optimizers": {"a": lambda p: 3}}, TypeError, r"optimizers\['a'\] must make an optimizer, got 3"),
    ],
)
def test_wrong_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        quiet(**{"f": "ravine", "optimizers": "sgd", "steps": 2, "lr": 0.01, **arguments})


def test_an_optimizer_of_something_else_is_refused():
    other = optim.SGD(torch.nn.Linear(3, 2).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="must have one parameter of two elements, got 2 with 8"):
        quiet("ravine", {"a": other}, steps=2)


def test_no_rate_at_all_is_an_error():
    with pytest.raises(RuntimeError, match=r"lr must be given for sgd, because no rate from 0\.0001 to 10 stays"):
        quiet(lambda p: 1e9 * bowl(p), "sgd", start=(1.0, 1.0), steps=200, lr="auto", window=((-2, 2), (-2, 2)))


def test_pictures(tmp_path):
    runs = quiet("himmelblau", "adam,lion", steps=10, lr=0.1)
    figure = runs.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    left, right = figure.axes
    assert left.get_xlim() == runs.window[0]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["adam, 0.1", "lion, 0.1"]
    assert runs.table().row_count == 2
    mine = quiet(bowl, {"sgd": "sgd"}, start=(1.0, 1.0), steps=3, lr=0.1)
    assert mine.grid[2].shape == (121, 121)
    mine.plot(tmp_path / "b.png")
