"""docs/differences.md: each row is a test of this name here, of both sides; if torch changes, the row goes."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as torchs_schedulers
from torch.utils.checkpoint import checkpoint

import onepass.nn
import onepass.optim
from onepass.nn import functional as ours
from onepass.optim import lr_scheduler

PAGE = Path(__file__).parents[1] / "docs" / "differences.md"
RULES = ("SGD", "Adam", "AdamW")


def test_the_page_names_each_test():
    if not PAGE.is_file():
        pytest.skip("needs the source tree")
    named = re.findall(r"\| `(\w+)` \|$", PAGE.read_text(), re.MULTILINE)
    here = [name.removeprefix("test_") for name in globals() if name.startswith("test_")]
    assert sorted(named) == sorted(set(here) - {"the_page_names_each_test"})


def raises(function, *kinds) -> None:
    """The very kind, not one derived from it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any, to look at its kind
        function()
    assert type(caught.value) in kinds, caught.value


def quiet(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


def parameter(values=(1.0, 2.0), **more) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, **more))


def stepped(optimizer) -> list[torch.Tensor]:
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    for p in owned:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return [p.detach() for p in owned]


# Optimizers


@pytest.mark.parametrize("rule", RULES)
def test_rate_that_is_not_finite(rule):
    getattr(torch.optim, rule)([parameter()], lr=float("inf"))
    raises(lambda: getattr(onepass.optim, rule)([parameter()], lr=float("inf")), ValueError)


@pytest.mark.parametrize("rule", RULES)
def test_rate_that_became_negative(rule):
    for module, fine in ((torch.optim, True), (onepass.optim, False)):
        optimizer = getattr(module, rule)([parameter()], lr=0.1)
        optimizer.param_groups[0]["lr"] = -0.1
        if fine:
            stepped(optimizer)
        else:
            raises(lambda o=optimizer: stepped(o), ValueError)


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_betas_of_two_kinds(rule):
    betas = (torch.tensor(0.9), 0.99)
    raises(lambda: getattr(torch.optim, rule)([parameter()], lr=torch.tensor(0.1), betas=betas), ValueError)
    mine = stepped(getattr(onepass.optim, rule)([parameter()], lr=torch.tensor(0.1), betas=betas))
    theirs = stepped(getattr(torch.optim, rule)([parameter()], lr=0.1, betas=(0.9, 0.99)))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("rule", RULES)
def test_group_without_params(rule):
    raises(lambda: getattr(torch.optim, rule)([{"lr": 0.1}], lr=0.1), KeyError)
    raises(lambda: getattr(onepass.optim, rule)([{"lr": 0.1}], lr=0.1), ValueError)


@pytest.mark.parametrize("rule", RULES)
def test_checkpoint_that_is_none(rule):
    theirs, mine = (getattr(module, rule)([parameter()], lr=0.1) for module in (torch.optim, onepass.optim))
    raises(lambda: theirs.load_state_dict({}), KeyError)
    raises(lambda: mine.load_state_dict({}), ValueError)
    raises(lambda: theirs.load_state_dict(None), AttributeError)
    raises(lambda: mine.load_state_dict(None), TypeError)


def test_wide_states_when_loaded():
    """The parameters are bfloat16, the states float32."""
    for module, dtype in ((torch.optim, torch.bfloat16), (onepass.optim, torch.float32)):
        optimizer = module.Adam([parameter(dtype=torch.bfloat16)], lr=0.1)
        stepped(optimizer)
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].float()
        optimizer.load_state_dict(saved)
        (state,) = optimizer.state.values()
        assert state["exp_avg"].dtype == dtype


def test_parameters_that_share_memory():
    for module, fine in ((torch.optim, True), (onepass.optim, False)):
        whole = torch.ones(4)
        optimizer = module.SGD([nn.Parameter(whole[:3]), nn.Parameter(whole[1:])], lr=0.1)
        if fine:
            stepped(optimizer)
        else:
            raises(lambda o=optimizer: stepped(o), ValueError)
            assert torch.equal(whole, torch.ones(4))


# Clipping


def gradients(dtype=torch.float32) -> list[nn.Parameter]:
    parameters = [parameter(dtype=dtype), parameter((3.0,), dtype=dtype)]
    for p in parameters:
        p.grad = p.detach().clone()
    return parameters


def test_senseless_norms():
    for norm in (-1.0, float("nan")):
        nn.utils.clip_grad_norm_(gradients(), norm)
        raises(lambda n=norm: onepass.optim.clip_grad_norm_(gradients(), n), ValueError)
        nn.utils.clip_grad_value_(gradients(), norm)
        raises(lambda n=norm: onepass.optim.clip_grad_value_(gradients(), n), ValueError)


def test_senseless_orders():
    parameters = gradients()
    nn.utils.clip_grad_norm_(parameters, 1.0, float("nan"))
    assert all(p.grad.isnan().all() for p in parameters)
    raises(lambda: onepass.optim.clip_grad_norm_(gradients(), 1.0, float("nan")), ValueError)


def test_norm_of_half_precision_gradients():
    for module, dtype in ((nn.utils, torch.bfloat16), (onepass.optim, torch.float32)):
        assert module.clip_grad_norm_(gradients(torch.bfloat16), 1.0).dtype == dtype


# Schedulers


def test_senseless_schedules():
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    senseless = (
        ("StepLR", {"step_size": 0}),
        ("CosineAnnealingLR", {"T_max": -1}),
        ("ReduceLROnPlateau", {"patience": -1}),
        ("ReduceLROnPlateau", {"factor": -1.0}),
    )
    for name, options in senseless:
        getattr(torchs_schedulers, name)(optimizer, **options)
        raises(lambda n=name, o=options: getattr(lr_scheduler, n)(optimizer, **o), ValueError)


def test_step_with_an_epoch():
    found = []
    for module in (torchs_schedulers, lr_scheduler):
        optimizer = torch.optim.SGD([parameter()], lr=1.0)
        scheduler = module.StepLR(optimizer, 2)
        optimizer.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scheduler.step(4)
        found.append((optimizer.param_groups[0]["lr"], len(caught)))
    assert found[0] == (pytest.approx(0.01), 1)
    assert found[1] == (pytest.approx(0.01), 0)


def test_groups_added_later():
    rates = []
    for module in (torchs_schedulers, lr_scheduler):
        optimizer = torch.optim.SGD([parameter()], lr=1.0)
        scheduler = module.ExponentialLR(optimizer, 0.5)
        for step in range(3):
            if step == 2:
                optimizer.add_param_group({"params": [parameter()], "lr": 1.0})
            optimizer.step()
            scheduler.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [[0.125, 0.5], [0.125, 0.125]]


# Batch normalisation


def test_recomputed_batches():
    counts = []
    for module in (nn.BatchNorm1d(3), onepass.nn.BatchNorm1d(3)):
        net = nn.Sequential(module, nn.Tanh())
        checkpoint(net, torch.randn(4, 3, requires_grad=True), use_reentrant=False).sum().backward()
        counts.append(int(module.num_batches_tracked))
    assert counts == [2, 1]


def test_refused_batches():
    counts = []
    for module in (nn.BatchNorm1d(3), onepass.nn.BatchNorm1d(3)):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            module(torch.randn(1, 3))
        counts.append(int(module.num_batches_tracked))
    assert counts == [1, 0]


def test_number_of_channels():
    raises(lambda: nn.BatchNorm1d(3)(torch.randn(4, 5)), RuntimeError)
    raises(lambda: onepass.nn.BatchNorm1d(3)(torch.randn(4, 5)), ValueError)


def test_momentum_that_is_not_finite():
    for momentum in (float("nan"), float("inf")):
        theirs = nn.BatchNorm1d(3, momentum=momentum)
        theirs(torch.randn(4, 3))
        assert not theirs.running_mean.isfinite().any()
        raises(lambda m=momentum: onepass.nn.BatchNorm1d(3, momentum=m), ValueError)


def test_dtypes_that_do_not_go_together():
    raises(lambda: nn.BatchNorm1d(3)(torch.randn(4, 3).double()), RuntimeError)
    raises(lambda: onepass.nn.BatchNorm1d(3)(torch.randn(4, 3).double()), TypeError)
    raises(lambda: nn.BatchNorm1d(3)(torch.ones(4, 3).long()), NotImplementedError)
    raises(lambda: onepass.nn.BatchNorm1d(3)(torch.ones(4, 3).long()), TypeError)


def test_no_channels():
    raises(lambda: nn.BatchNorm1d(0)(torch.ones(4, 0)), IndexError)
    assert onepass.nn.BatchNorm1d(0)(torch.ones(4, 0)).shape == (4, 0)


def test_vectors_of_another_shape():
    x, row = torch.randn(4, 3), torch.ones(1, 3)
    raises(lambda: F.batch_norm(x, row, row), RuntimeError)
    assert torch.equal(ours.batch_norm(x, row, row), ours.batch_norm(x, row[0], row[0]))


def test_infinity_in_a_batch():
    x = torch.randn(4, 1)
    x[0] = float("inf")
    theirs, mine = nn.BatchNorm1d(1), onepass.nn.BatchNorm1d(1)
    theirs(x), mine(x)
    assert theirs.running_mean.isinf()
    assert mine.running_mean.isnan()
    assert theirs.running_var.isnan()
    assert mine.running_var.isnan()


def test_versions_of_running_statistics():
    for module, counted in ((nn.BatchNorm1d(3), 0), (onepass.nn.BatchNorm1d(3), 1)):
        before = module.running_mean._version
        module(torch.randn(4, 3))
        assert module.running_mean._version == before + counted


# Dropout


def test_masks():
    masks = []
    for function in (F.dropout, ours.dropout):
        torch.manual_seed(0)
        masks.append(function(torch.ones(64)) != 0)
    assert not torch.equal(*masks)


def test_dropped_elements_that_are_not_finite():
    for value in (float("inf"), float("nan")):
        x = torch.full((64,), value)
        assert (F.dropout(x, 0.5) == 0).sum() == 0
        assert (ours.dropout(x, 0.5) == 0).sum() > 0


def test_alpha_dropout_in_place():
    for kind, written in ((nn.AlphaDropout, False), (onepass.nn.AlphaDropout, True)):
        x = torch.randn(8)
        assert (kind(0.5, inplace=True)(x) is x) == written
        leaf = torch.randn(8, requires_grad=True)
        if written:
            raises(lambda k=kind, v=leaf: k(0.5, inplace=True)(v), RuntimeError)
        else:
            kind(0.5, inplace=True)(leaf)


def test_dimensions_of_channel_dropouts():
    for name, shape in (("Dropout2d", (4, 5)), ("Dropout2d", (2, 3, 4, 5, 6)), ("Dropout3d", (2, 3, 4))):
        quiet(lambda n=name, s=shape: getattr(nn, n)(0.5)(torch.randn(s)))
        raises(lambda n=name, s=shape: getattr(onepass.nn, n)(0.5)(torch.randn(s)), ValueError)


def test_integers_all_dropped():
    assert F.dropout(torch.ones(3).long(), 1.0).sum() == 0
    raises(lambda: ours.dropout(torch.ones(3).long(), 1.0), TypeError)


def test_nested_tensors_in_training():
    nested = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.jagged)
    assert F.dropout(nested, 0.5).is_nested
    raises(lambda: ours.dropout(nested, 0.5), TypeError)


def test_probability_that_is_nan():
    nn.Dropout(float("nan"))
    raises(lambda: onepass.nn.Dropout(float("nan")), ValueError)


def test_sparse_upstream_gradients():
    for function, sparse in ((F.dropout, True), (ours.dropout, False)):
        x = torch.ones(4, 3, requires_grad=True)
        upstream = torch.eye(4)[:, :3].to_sparse()
        (grad,) = torch.autograd.grad(function(x, 0.5), x, upstream)
        assert grad.is_sparse == sparse
    raises(lambda: nn.BatchNorm1d(3)(x).backward(upstream), NotImplementedError)
    assert torch.autograd.grad(onepass.nn.BatchNorm1d(3)(x), x, upstream)[0].layout == torch.strided


# The loss

LOGITS, LABELS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 4, 2])


def test_losses_of_half_precision():
    for dtype in (torch.bfloat16, torch.float16):
        assert F.cross_entropy(LOGITS.to(dtype), LABELS).dtype == dtype
        assert ours.cross_entropy(LOGITS.to(dtype), LABELS).dtype == torch.float32


def test_labels_of_other_integers():
    raises(lambda: F.cross_entropy(LOGITS, LABELS.int()), RuntimeError)
    assert torch.equal(ours.cross_entropy(LOGITS, LABELS.int()), ours.cross_entropy(LOGITS, LABELS))


def test_negative_label_smoothing():
    assert torch.equal(F.cross_entropy(LOGITS, LABELS, label_smoothing=-0.1), F.cross_entropy(LOGITS, LABELS))
    raises(lambda: ours.cross_entropy(LOGITS, LABELS, label_smoothing=-0.1), ValueError)


def test_logits_without_classes():
    nothing, ignored = torch.zeros(4, 0), torch.full((4,), -100)
    assert F.cross_entropy(nothing, ignored).isnan()
    raises(lambda: F.cross_entropy(nothing, LABELS), IndexError)
    for labels in (ignored, LABELS):
        raises(lambda y=labels: ours.cross_entropy(nothing, y), ValueError)


def test_ignored_rows_that_are_nan():
    labels = torch.tensor([-100, 1, 4, 2])
    for function, finite in ((F.cross_entropy, False), (ours.cross_entropy, True)):
        x = LOGITS.clone()
        x[0] = float("nan")
        function(x.requires_grad_(), labels).backward()
        assert bool(x.grad.isfinite().all()) == finite
