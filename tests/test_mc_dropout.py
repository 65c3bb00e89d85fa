"""Monte-Carlo dropout: thinned networks, and what they predict together."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import onepass.nn
from onepass.nn import mc_dropout, mc_predict
from onepass.nn.mc_dropout import _Running
from tolerance import FAR_VARIANCE_RTOL, SAMPLE_DIFFERENCES, SAMPLE_MEANS, SAMPLED


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        onepass.nn.BatchNorm2d(4, activation="relu", dropout=0.2),
        onepass.nn.Dropout2d(0.3),
        nn.Flatten(),
        nn.Linear(4 * 36, 16),
        nn.BatchNorm1d(16),
        onepass.nn.Dropout(0.5),
        nn.Linear(16, 3),
    )


X = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_each_call_is_one_thinned_network():
    """Masks differ from call to call, repeat with set_draw, and are one for all examples of a batch."""
    model = nn.Sequential(onepass.nn.Dropout(0.5), onepass.nn.Dropout(0.5), onepass.nn.Dropout2d(0.5))
    x = torch.ones(7, 20, 6, 6)
    with mc_dropout(model, seed=3) as draws:
        first, second = model(x), model(x)
        assert not torch.equal(first, second)
        assert (first == first[:1]).all()
        draws.set_draw(0)
        assert torch.equal(model(x), first)
        assert torch.equal(model(x[:2]), second[:2])
        with pytest.raises(ValueError, match="set_draw: draw must be at least 0, got -1"):
            draws.set_draw(-1)
    single = nn.Sequential(onepass.nn.Dropout(0.5))
    with mc_dropout(single, seed=3):
        layers = [single(x) for _ in range(30)]
    share = torch.stack(layers)[:, 0].ne(0).float().mean()
    assert abs(share - 0.5) < 0.02


def test_layers_and_calls_of_a_shared_layer_have_masks_of_their_own():
    drop = onepass.nn.Dropout(0.5)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.other = drop, onepass.nn.Dropout(0.5)

        def forward(self, x):
            return torch.stack([self.drop(x), self.drop(x), self.other(x)])

    model = Twice()
    with mc_dropout(model, seed=1) as draws:
        y = model(torch.ones(2, 200))
        assert len({tuple(one.flatten().tolist()) for one in y}) == 3
        draws.set_draw(0)
        assert torch.equal(model(torch.ones(2, 200)), y)


def test_predictions_do_not_depend_on_the_batch():
    """An example alone, among others, in parts: the same networks, the same numbers but for matrix products."""
    model = network().eval()
    whole = mc_predict(model, X, 12, seed=5, probabilities=True)
    parts = mc_predict(model, X, 12, seed=5, probabilities=True, batch_size=2)
    alone = mc_predict(model, X[4:5], 12, seed=5, probabilities=True)
    for field, value in whole._asdict().items():
        torch.testing.assert_close(getattr(parts, field), value, **SAMPLED)
        torch.testing.assert_close(getattr(alone, field), value[4:5], **SAMPLED)


def test_everything_else_evaluates_and_flags_come_back():
    model = network()
    model[6].eval()
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with mc_dropout(model, seed=1):
        assert not any(module.training for module in model.modules())
        first = model(X)
        with pytest.raises(RuntimeError, match="mc_dropout: model must not be within another mc_dropout block"):
            mc_dropout(model).__enter__()
    assert [module.training for module in model.modules()] == flags
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert first.requires_grad
    # The fused batch norm's own dropout took part.
    model[2].p = model[6].p = 0.0
    with mc_dropout(model, seed=1):
        assert not torch.equal(model(X), model(X))
    assert "_thinned" not in vars(model[1])
    assert torch.equal(model.eval()(X), model(X))


def test_flags_come_back_after_an_error():
    model = network()
    with pytest.raises(RuntimeError), mc_dropout(model):
        model(torch.ones(2, 3))
    assert model.training
    assert model[6]._thinned is None
    assert not model._forward_pre_hooks


def test_against_the_samples_themselves():
    """Welford's mean and variance, predictive entropy and mutual information."""
    model, samples = network(), 15
    with mc_dropout(model, seed=4), torch.no_grad():
        logits = torch.stack([model(X) for _ in range(samples)]).double()
    found = mc_predict(model, X, samples, seed=4)
    torch.testing.assert_close(found.mean.double(), logits.mean(0), **SAMPLE_MEANS)
    torch.testing.assert_close(found.variance.double(), logits.var(0), **SAMPLED)
    assert found.entropy is None
    assert found.mutual_information is None
    found = mc_predict(model, X, samples, seed=4, probabilities=True)
    p = logits.softmax(2)
    entropy = -(p.mean(0) * p.mean(0).log()).sum(1)
    information = entropy + (p * p.log()).sum(2).mean(0)
    torch.testing.assert_close(found.mean.double(), p.mean(0), **SAMPLE_MEANS)
    torch.testing.assert_close(found.entropy.double(), entropy, **SAMPLE_MEANS)
    torch.testing.assert_close(found.mutual_information.double(), information, **SAMPLE_DIFFERENCES)


def test_welford_is_accurate_far_from_zero():
    values = torch.randn(100, 50, dtype=torch.float64) + 1e4
    running = _Running(values[0].float(), None)
    for value in values.float():
        running.add(value)
    np.testing.assert_allclose(running.result().variance, values.float().double().var(0), rtol=FAR_VARIANCE_RTOL)


def test_inputs_outputs_and_options():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = onepass.nn.Dropout(0.5)

        def forward(self, a, b, factor):
            return {"logits": self.drop(a + b).bfloat16() * factor}

    model, a = Two(), torch.ones(5, 40)
    found = mc_predict(model, (a, a, 2), 3, seed=1, output=lambda out: out["logits"], batch_size=2)
    assert found.mean.shape == (5, 40)
    assert found.mean.dtype == torch.float32
    other = mc_predict(
        model, (a, a, 2), 3, generator=torch.Generator().manual_seed(1), output=lambda o: o["logits"]
    )
    assert not torch.equal(found.mean, other.mean)
    torch.manual_seed(1)
    drawn = mc_predict(model, (a, a, 2), 3, output=lambda out: out["logits"])
    torch.manual_seed(1)
    assert torch.equal(mc_predict(model, (a, a, 2), 3, output=lambda out: out["logits"]).mean, drawn.mean)
    with pytest.raises(TypeError, match="the model's output must be a floating point tensor, got dict"):
        mc_predict(model, (a, a, 2), 3)
    with pytest.raises(TypeError, match=r"the model's output must be a floating point tensor, got torch\.int32"):
        mc_predict(model, (a, a, 2), 3, output=lambda out: out["logits"].int())
    with pytest.raises(ValueError, match=r"the inputs must have one batch size, got \[4, 5\]"):
        mc_predict(model, (a, a[:4], 2), 3, batch_size=2)


def test_progress_bar(capsys):
    mc_predict(nn.Sequential(onepass.nn.Dropout(0.5)), torch.ones(2, 3), 3, progress=True)
    assert "networks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "mc_dropout: model must have a dropout with p > 0, got none"),
        (nn.Sequential(onepass.nn.Dropout(0.0)), "mc_dropout: model must have a dropout with p > 0, got none"),
        (
            nn.Sequential(onepass.nn.Dropout(), nn.Dropout(), nn.Dropout(0.0), nn.Dropout2d()),
            r"other dropouts than onepass's, got 1 \(Dropout\), 3 \(Dropout2d\); onepass.nn.convert\(model\)",
        ),
        (
            nn.Sequential(
                onepass.nn.Dropout(), nn.MultiheadAttention(4, 2, dropout=0.1), nn.LSTM(2, 2, 2, dropout=0.5)
            ),
            r"got 1 \(MultiheadAttention\), 2 \(LSTM\)",
        ),
    ],
    ids=["none", "p-0", "torchs", "inside"],
)
def test_models_that_are_refused(model, message):
    with pytest.raises(ValueError, match=message), mc_dropout(model):
        pass
    assert model.training


def test_options_that_are_refused():
    model = nn.Sequential(onepass.nn.Dropout())
    for options, message in (
        (
            {"seed": 1, "generator": torch.Generator()},
            "mc_dropout: one of generator and seed must be None, got both",
        ),
        ({"seed": -1}, r"mc_dropout: seed must be at least 0 and below 2\*\*64, got -1"),
    ):
        with pytest.raises(ValueError, match=message), mc_dropout(model, **options):
            pass
    with pytest.raises(ValueError, match="mc_predict: samples must be at least 2, got 1"):
        mc_predict(model, X, 1)
    with pytest.raises(ValueError, match="mc_predict: batch_size must be at least 1, got 0"):
        mc_predict(model, X, 2, batch_size=0)


def test_a_converted_model():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    onepass.nn.convert(model)
    found = mc_predict(model, torch.randn(3, 4), 5, seed=1)
    assert (found.variance > 0).all()


def test_in_place_spares_the_input():
    model = nn.Sequential(onepass.nn.Dropout(0.5, inplace=True), onepass.nn.AlphaDropout(0.5, inplace=True))
    x = torch.ones(4, 50)
    found = mc_predict(model, x, 5, seed=1)
    assert (x == 1).all()
    assert torch.equal(found.mean, mc_predict(model, x, 5, seed=1).mean)


@pytest.mark.parametrize("wrong", [True, 1.5, torch.tensor(1), "1"], ids=repr)
def test_seeds_and_draws_are_ints(wrong):
    model = nn.Sequential(onepass.nn.Dropout())
    with pytest.raises(TypeError, match="mc_dropout: seed must be an int, got"), mc_dropout(model, seed=wrong):
        pass
    with mc_dropout(model) as draws, pytest.raises(TypeError, match="set_draw: draw must be an int, got"):
        draws.set_draw(wrong)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_out_of_the_block(copied):
    model = network()
    with mc_dropout(model, seed=1) as draws:
        other = copied(model)
        assert torch.equal(other(X), other(X))
        assert draws._next == 0
        with mc_dropout(other):
            pass
    assert torch.equal(other(X), copied(model).eval()(X))


def test_empty_batches_and_scalars():
    model = nn.Sequential(onepass.nn.Dropout(), nn.Linear(3, 2))
    assert mc_predict(model, torch.ones(0, 3), 2, batch_size=4).mean.shape == (0, 2)
    with pytest.raises(ValueError, match="mc_predict: batch_size must be None with an input without a batch"):
        mc_predict(model, torch.tensor(1.0), 2, batch_size=4)
