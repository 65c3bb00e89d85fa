"""onepass.visualize.landscape: its directions, its grid, its file, and that the model is as it was."""

from __future__ import annotations

import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import onepass.nn
from onepass.visualize import SURFACES, landscape
from onepass.visualize._directions import PrincipalPlane, RandomPlane, parameters_of
from onepass.visualize._refine import heights, refine

# Weights that moved, less what they were: one rounding of the sum and one of the difference, each relative to the
# weights.
MOVED_ATOL = 1e-5
# All of a path in a plane, but for the roundings of its weights in float32.
EXPLAINED_ATOL = 1e-6
# Weights in float32 that are put together again from directions, which are sums of such weights.
PLACES_ATOL = 1e-4
cross_entropy = nn.functional.cross_entropy
quick = partial(landscape, resolution=17, progress=False)


def data_of(count=48):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 6, generator=draw)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def model_of(ours=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        model = nn.Sequential(*layers)
        model(torch.randn(32, 6))
    return onepass.nn.convert(model) and model if ours else model


def loader_of(**options):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data_of()), batch_size=16, **options)


def bits(model):
    """Everything of a model and of random numbers that must not change."""
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    modes = [module.training for module in model.modules()]
    momenta = [getattr(module, "momentum", None) for module in model.modules()]
    numbers = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    return [tensor.detach().clone() for tensor in tensors], (modes, momenta, numbers)


def assert_same(model, before):
    tensors, rest = bits(model)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before[0], strict=True))
    assert rest == before[1]


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("batch_norm", ["running", "recomputed", "batch"])
def test_the_model_is_as_it_was(batch_norm, ours):
    model, loader = model_of(ours), loader_of(shuffle=True, generator=torch.Generator())
    cross_entropy(model(data_of()[0]), data_of()[1]).backward()
    state, before = loader.generator.get_state(), bits(model)
    quick(model, cross_entropy, loader, batch_norm=batch_norm)
    assert_same(model, before)
    assert torch.equal(loader.generator.get_state(), state)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("batch_norm", ["running", "recomputed"])
def test_the_model_is_as_it_was_after_an_interrupt(tmp_path, error, batch_norm):
    model, calls, file = model_of(), [], tmp_path / "points.jsonl"
    before = bits(model)

    def fails(outputs, targets):
        calls.append(torch.rand(()))
        if len(calls) == 20:
            raise error("stop")
        return cross_entropy(outputs, targets)

    options = {"batch_norm": batch_norm, "file": file}
    with pytest.raises(error):
        quick(model, fails, [data_of()], **options)
    assert_same(model, before)
    # It goes on where it was: 19 points are in the file, and the picture is the same.
    scene = quick(model, cross_entropy, [data_of()], **options)
    assert scene.read == 19
    assert (scene.losses == quick(model, cross_entropy, [data_of()], batch_norm=batch_norm).losses).all()
    again = quick(model, lambda *_: pytest.fail("evaluated again"), [data_of()], **options)
    assert again.read == again.evaluations == scene.evaluations
    assert (again.losses == scene.losses).all()


def test_a_file_that_breaks_off_goes_on(tmp_path):
    file = tmp_path / "points.jsonl"
    model = model_of()
    scene = quick(model, cross_entropy, [data_of()], file=file)
    whole = file.read_bytes()
    # The rest of the line is longer than what will be written over it.
    file.write_bytes(whole[: len(whole) // 2 + 3] + b"x" * 100_000)
    again = quick(model, cross_entropy, [data_of()], file=file)
    assert 0 < again.read < scene.evaluations
    assert (again.losses == scene.losses).all()
    assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "points.jsonl"
    model = model_of()
    quick(model, cross_entropy, [data_of()], file=file)
    whole = file.read_bytes()
    with pytest.raises(
        ValueError, match=r"must belong to these arguments, .* differs in batch_norm, directions; del"
    ):
        quick(model, cross_entropy, [data_of()], file=file, seed=1, batch_norm="batch")
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(ValueError, match="differs in weights; delete it"):
        quick(model, cross_entropy, [data_of()], file=file)
    assert file.read_bytes() == whole
    for text in ("{}\n", "hello\n", '{"kind": "run", "format": 1}\n', "half"):
        file.write_text(text)
        with pytest.raises(ValueError, match="file must be one that landscape wrote, got "):
            quick(model, cross_entropy, [data_of()], file=file)
        assert file.read_text() == text


def test_directions_are_normalised_by_filter():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    plane, params = RandomPlane(7), list(model.parameters())
    before = [param.detach().clone() for param in params]
    with torch.no_grad():
        plane.shift(params, 0.5, 0.0)
    for param, old in zip(params, before, strict=True):
        moved = (param.detach() - old).flatten(1) if old.dim() > 1 else (param.detach() - old)[:, None]
        wanted = 0.5 * old.flatten(1).norm(dim=1) if old.dim() > 1 else torch.zeros(len(old))
        assert torch.allclose(moved.norm(dim=1), wanted, atol=MOVED_ATOL)
    first, second = (plane.direction(i, 0, params[0]) for i in range(2))
    assert torch.equal(first, RandomPlane(7).direction(0, 0, params[0]))
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, RandomPlane(8).direction(0, 0, params[0]))


def test_values_are_losses_of_the_moved_model():
    model, (inputs, targets) = model_of().double(), data_of()
    inputs = inputs.double()
    scene = quick(model, cross_entropy, [(inputs[:16], targets[:16]), (inputs[16:], targets[16:])], adaptive=False)
    model.eval()
    plane, params = RandomPlane(0), list(model.parameters())
    before = [param.detach().clone() for param in params]
    with torch.no_grad():
        for row, column in ((8, 8), (0, 16), (5, 3)):
            plane.shift(params, float(scene.x[column]), float(scene.y[row]))
            assert scene.losses[row, column] == pytest.approx(float(cross_entropy(model(inputs), targets)))
            for param, old in zip(params, before, strict=True):
                param.copy_(old)


def test_batch_norm_policies_differ_as_they_say():
    model, loader = model_of(), [data_of()]
    found = {
        name: quick(model, cross_entropy, loader, batch_norm=name) for name in ("running", "recomputed", "batch")
    }
    # With one batch the statistics of the loader are those of the batch, up to Bessel's correction.
    close = np.abs(found["recomputed"].losses - found["batch"].losses).max()
    assert close < 0.1 * np.abs(found["running"].losses - found["batch"].losses).max()


def test_principal_directions():
    model = model_of()
    named = parameters_of(model)
    draw = torch.Generator().manual_seed(3)
    first, second = ({name: torch.randn(p.shape, generator=draw) for name, p in named.items()} for _ in range(2))
    # A path in a plane: every weight is the model's plus a sum of two directions.
    places = [(3.0, 0.5), (2.0, -1.0), (1.0, -0.5), (0.0, 0.0)]
    path = [{name: p + a * first[name] + b * second[name] for name, p in named.items()} for a, b in places]
    plane = PrincipalPlane(path, named)
    assert sum(plane.explained) == pytest.approx(1.0, abs=EXPLAINED_ATOL)
    params = list(model.parameters())
    before = [param.detach().clone() for param in params]
    for place, weights in zip(plane.path.tolist(), path, strict=True):
        with torch.no_grad():
            plane.shift(params, *place)
            for (name, param), old in zip(model.named_parameters(), before, strict=True):
                assert torch.allclose(param, weights[name], atol=PLACES_ATOL)
                param.copy_(old)
    scene = quick(model, cross_entropy, [data_of()], trajectory=path)
    assert (scene.path == plane.path).all()
    assert scene.x[0] < scene.path[:, 0].min()
    assert scene.x[-1] > scene.path[:, 0].max()
    assert scene.to_json()["asked"]["directions"]["explained"] == plane.explained


@pytest.mark.parametrize("name", ["saddle", "ravine", "plateau", "noisy_quadratic"])
def test_a_third_of_the_evaluations_gives_the_picture(name):
    """The adaptive grid differs by at most 2 % of the picture's range, and by 0.1 % on average."""
    (left, right), (bottom, top) = SURFACES[name].window
    x, y = np.meshgrid(np.linspace(left, right, 41), np.linspace(bottom, top, 41))
    full = SURFACES[name](torch.from_numpy(np.stack([x, y], -1))).numpy()
    full = full - full.min() + 0.05
    found = refine(41, lambda row, column: full[row, column], 0.005, 0)
    assert found.evaluated.sum() <= 41 * 41 / 3
    errors = np.abs(heights(found.losses, found.log) - heights(full, found.log)) / np.ptp(heights(full, found.log))
    assert errors.max() < 0.02
    assert errors.mean() < 0.001
    assert (found.losses == full)[found.evaluated].all()
    assert found.checked == round(0.02 * 41 * 41)
    assert found.largest_error <= errors.max() + 0.02


def test_a_third_of_the_evaluations_gives_a_networks_picture():
    model = model_of()
    options = {"resolution": 33, "progress": False}
    full = landscape(model, cross_entropy, [data_of()], adaptive=False, **options)
    found = landscape(model, cross_entropy, [data_of()], **options)
    assert found.evaluations <= full.evaluations / 3
    errors = np.abs(found.heights - heights(full.losses, found.refined.log)) / np.ptp(full.heights)
    assert errors.max() < 0.02
    assert (found.losses == full.losses)[found.refined.evaluated].all()


def test_losses_that_are_not_finite(tmp_path):
    def breaks(outputs, targets):
        loss = cross_entropy(outputs, targets)
        return loss if loss < 1.5 else loss * torch.inf

    scene = quick(model_of(), breaks, [data_of()], span=3.0, file=tmp_path / "points.jsonl")
    assert np.isinf(scene.losses).any()
    assert np.isfinite(scene.heights).all()
    scene.write_json(tmp_path / "scene.json")
    assert any(None in row for row in json.loads((tmp_path / "scene.json").read_text())["loss"])
    scene.plot(tmp_path / "scene.png")
    again = quick(model_of(), breaks, [data_of()], span=3.0, file=tmp_path / "points.jsonl")
    assert again.read == scene.evaluations
    assert np.array_equal(again.losses, scene.losses)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"model": 3}, TypeError, "model must be a torch.nn.Module, got 3"),
        ({"model": nn.ReLU()}, ValueError, "model must have a parameter, got none"),
        ({"loss_fn": 3}, TypeError, "loss_fn must be a function, got 3"),
        ({"loss_fn": lambda o, t: o}, TypeError, "loss_fn must return a tensor of one element"),
        ({"loader": 3}, TypeError, "loader must be iterable again and again, got 3"),
        ({"loader": iter([])}, TypeError, "loader must be iterable again and again"),
        ({"loader": []}, ValueError, "loader must have at least one batch, got none"),
        ({"loader": [3]}, TypeError, r"loader must give pairs \(input, target\), got int"),
        ({"resolution": 20}, ValueError, "resolution must be a multiple of 8 plus 1, got 20"),
        ({"resolution": 9}, ValueError, "resolution must be at least 17, got 9"),
        ({"tolerance": 0}, ValueError, "tolerance must be finite and above 0, got 0"),
        ({"span": -1}, ValueError, "span must be finite and above 0, got -1"),
        ({"batch_norm": "x"}, ValueError, "batch_norm must be one of running, recomputed, batch, got 'x'"),
        ({"batches": 0}, ValueError, "batches must be at least 1, got 0"),
        ({"seed": "x"}, TypeError, "seed must be an integer, got 'x'"),
        ({"trajectory": 3}, TypeError, "trajectory must be an iterable of dicts of weights, got 3"),
        ({"trajectory": [{}]}, ValueError, "trajectory must be at least two dicts of weights, got 1"),
        ({"trajectory": [3, 3]}, TypeError, r"trajectory\[0\] must be a dict of weights, got 3"),
        ({"trajectory": [{}, {}]}, ValueError, r"trajectory\[0\] must have 0.weight of shape \(8, 6\), got none"),
    ],
)
def test_wrong_arguments(arguments, error, text):
    model = model_of()
    before = bits(model)
    with pytest.raises(error, match=text):
        quick(**{"model": model, "loss_fn": cross_entropy, "loader": [data_of()], **arguments})
    assert_same(model, before)


def test_a_trajectory_on_a_line_is_refused():
    model = model_of()
    same = {name: param.clone() for name, param in model.state_dict().items()}
    with pytest.raises(ValueError, match="trajectory must leave a line, got weights along one direction or none"):
        quick(model, cross_entropy, [data_of()], trajectory=[same, same, same])
