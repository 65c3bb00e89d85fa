"""Every public path of the package, and every path that a pickle names: what programs wrote keeps working."""

from __future__ import annotations

import importlib
import pickle
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

import onepass

# Public modules and their names, separated by spaces. A name that goes away breaks somebody's program.
PUBLIC = {
    "onepass": "KeptMemory __version__ augment keep_freed_memory monitor nn optim",
    "onepass.augment": (
        "Boxes CenterCrop ColorJitter Compose CutMix Keypoints MixUp Normalize Pad Parameters RandAugment "
        "RandomAffine RandomApply RandomChoice RandomCrop RandomErasing RandomGrayscale RandomHorizontalFlip "
        "RandomInvert RandomPerspective RandomPosterize RandomResizedCrop RandomRotation RandomSolarize "
        "RandomVerticalFlip Resize ToDtype TrivialAugmentWide"
    ),
    "onepass.bench": ("Case Entrant Entry OPS OURS Prepared Result STREAM Times difference measure"),
    "onepass.bench.batch_norm": "WORKS Work cases",
    "onepass.bench.case": "Case OURS Prepared STREAM choose",
    "onepass.bench.compare": "Change changes differences read table",
    "onepass.bench.cross_entropy": "WORKS Work cases kept_beyond_logits",
    "onepass.bench.dropout": "WORKS Work cases",
    "onepass.bench.entrants": "Entrant Entry TOLERANCE difference entrants_of",
    "onepass.bench.faults": "Fault RAISED WRONG place_of raised",
    "onepass.bench.files": "CasesError cases_of is_file",
    "onepass.bench.harness": (
        "Case OURS Prepared Result STREAM Step Timer Times choose interleave measure median_ratio quantile "
        "timer_of"
    ),
    "onepass.bench.layers": "Competitors OVERHEAD Work case_of overhead_case",
    "onepass.bench.machine": "commit cpu_model environment gpus machine record versions",
    "onepass.bench.memory": "kept_bytes touch_heap",
    "onepass.bench.optim": "LARGE OVERHEAD RULES Rule SHAPES Shape TORCHS cases",
    "onepass.bench.probe": "Step copy_probe probe taps_probe widen_probe",
    "onepass.bench.report": "faults heading plot table",
    "onepass.bench.schedule": "cases",
    "onepass.bench.tail": "cases",
    "onepass.bench.train": "KEPT PROFILED cases",
    "onepass.cli": "check_picture check_place device_of finite lacks_cuda one_of torch_threads writing",
    "onepass.cli.app": "app main",
    "onepass.cli.bench": "bench",
    "onepass.cli.demo": "demo images",
    "onepass.cli.implementation": "Judged judged",
    "onepass.cli.info": "collect info",
    "onepass.cli.lr_range": "lr_range",
    "onepass.cli.parity": "parity",
    "onepass.cli.progress": "Bar",
    "onepass.cli.schedule": "schedule",
    "onepass.demo": "",
    "onepass.demo.data": "Data mnist",
    "onepass.demo.model": "Score evaluate narrowed network",
    "onepass.demo.report": "figures plot summary table",
    "onepass.demo.train": "LAYERS MakeOptimizer OPTIMIZERS PRECISIONS Plan Run contenders steps_per_epoch train",
    "onepass.monitor": "Curve LRRangeResult Snapshot Suggestion lr_range_test",
    "onepass.monitor.lr_range": "lr_range_test",
    "onepass.nn": (
        "AlphaDropout BatchNorm1d BatchNorm2d BatchNorm3d Conversion CrossEntropyLoss Dropout Dropout1d Dropout2d "
        "Dropout3d FeatureAlphaDropout LossStatistics Prediction Sequential convert fold functional mc_dropout "
        "mc_predict revert"
    ),
    "onepass.nn.batch_norm": "BatchNorm1d BatchNorm2d BatchNorm3d FusedBatchNorm OURS",
    "onepass.nn.convert": "Conversion Entry convert",
    "onepass.nn.dropout": (
        "AlphaDropout Dropout Dropout1d Dropout2d Dropout3d DropoutModule FeatureAlphaDropout OURS"
    ),
    "onepass.nn.fold": "fold",
    "onepass.nn.functional": (
        "alpha_dropout batch_norm cross_entropy dropout dropout1d dropout2d dropout3d feature_alpha_dropout"
    ),
    "onepass.nn.loss": "CrossEntropyLoss LossStatistics",
    "onepass.nn.mc_dropout": "Draws Prediction mc_dropout mc_predict",
    "onepass.nn.revert": "is_ours revert revert_modules",
    "onepass.nn.sequential": "Sequential neighbours_of pairs_of runs_in_turn sequential_class",
    "onepass.optim": (
        "Adam AdamW Lion SGD clip_grad_norm_ clip_grad_value_ functional lr_scheduler no_decay_groups schedules "
        "to_apex"
    ),
    "onepass.optim.adam": "Adam",
    "onepass.optim.adamw": "AdamW",
    "onepass.optim.apex": "to_apex",
    "onepass.optim.clip_grad": "clip_grad_norm_ clip_grad_value_",
    "onepass.optim.functional": "adam adamw lion sgd",
    "onepass.optim.lion": "Lion lion",
    "onepass.optim.lr_scheduler": (
        "ChainedScheduler ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR "
        "FunctionLR LRScheduler LambdaLR LinearLR MultiStepLR MultiplicativeLR OneCycleLR PolynomialLR "
        "ReduceLROnPlateau ScheduleLR SequentialLR StepLR WarmupCosineLR WarmupStableDecayLR"
    ),
    "onepass.optim.no_decay": "NoDecay no_decay_groups",
    "onepass.optim.schedules": (
        "Schedule clamp constant cosine cyclic exponential inverse_sqrt linear multistep one_cycle parse "
        "polynomial product sequence sqrt_decay step take warm_restarts warmup wsd"
    ),
    "onepass.optim.sgd": "SGD",
    "onepass.parity": ("Case Finding OPS check_batch_norm check_cross_entropy check_dropout check_optimizer"),
    "onepass.parity.any_layer": "DTYPES Measurement measure measurements rows",
    "onepass.parity.any_optim": "DTYPES measure option_sets options_text rows",
    "onepass.parity.batch_norm": "DTYPES RULES Rule rows",
    "onepass.parity.case": "AS_TORCH Case Finding Inapplicable REFUSES RIGHT Refused WRONG Wrong asked",
    "onepass.parity.check": "check_batch_norm check_cross_entropy check_dropout check_optimizer trap_cases",
    "onepass.parity.compare": "Change changes",
    "onepass.parity.contest": "Contest draws gradients",
    "onepass.parity.cross_entropy": "DTYPES RULES Rule rows",
    "onepass.parity.dropout": "DTYPES rows",
    "onepass.parity.harness": "Refusal Row Tally",
    "onepass.parity.layer": "BatchNormCall Layer compare leaf narrower normal three",
    "onepass.parity.optim": "DTYPES RULES SHAPES follow judge make params_of rows",
    "onepass.parity.rule": "FACTOR Verdict error ulp within",
    "onepass.parity.report": "changes_table findings_table is_fault plot rows_table",
    "onepass.parity.subject": "Subject accepts has_option reference_class",
    "onepass.parity.tail": "DTYPES rows",
    "onepass.parity.traps": "LAYER_TRAPS OPTIMIZER_TRAPS Trap",
}

# Where pickles of version 0.1 look for our modules, what belongs to them, and optimizers.
PICKLED = {
    "onepass.nn.batch_norm": "BatchNorm1d BatchNorm2d BatchNorm3d",
    "onepass.nn.convert": "Conversion Entry",
    "onepass.nn.dropout": "AlphaDropout Dropout Dropout1d Dropout2d Dropout3d FeatureAlphaDropout",
    "onepass.nn.loss": "CrossEntropyLoss",
    "onepass.nn.mc_dropout": "Prediction _Hook",
    "onepass.nn.sequential": "Sequential _empty",
    "onepass.optim.adam": "Adam",
    "onepass.optim.adamw": "AdamW",
    "onepass.optim.sgd": "SGD",
}
# Paths at which the classes of these modules stand instead.
MOVED = {
    "onepass.nn.batch_norm.modules": "onepass.nn.batch_norm",
    "onepass.nn.cross_entropy.modules": "onepass.nn.loss",
    "onepass.nn.dropout.modules": "onepass.nn.dropout",
    "onepass.nn.surgery.convert": "onepass.nn.convert",
}


def module_of(path: str) -> ModuleType:
    """The module itself, also where its package has a function of its name."""
    importlib.import_module(path)
    return sys.modules[path]


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_path_offers_its_names(path):
    module = module_of(path)
    names = PUBLIC[path].split()
    assert [name for name in names if not hasattr(module, name)] == []
    assert set(names) <= set(getattr(module, "__all__", names))


@pytest.mark.parametrize("path", PUBLIC)
def test_a_name_is_one_object_by_all_its_paths(path):
    parent = path.rpartition(".")[0]
    for name in set(PUBLIC[path].split()) & set(PUBLIC.get(parent, "").split()):
        assert getattr(module_of(path), name) is getattr(module_of(parent), name)


def test_no_package_has_the_name_of_a_function():
    """Otherwise what ``onepass.nn.dropout`` is would depend on who was imported last."""
    for name in onepass.nn.__all__:
        assert not hasattr(sys.modules.get(f"onepass.nn.{name}"), "__path__"), name
    for name in ("batch_norm", "dropout", "cross_entropy"):
        assert isinstance(getattr(onepass.nn, name), ModuleType)


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in PICKLED.items() for name in names.split()]
)
def test_a_pickle_finds_what_it_names(path, name):
    found = pickle.loads(f"c{path}\n{name}\n.".encode())
    assert found.__name__ == name
    if not name.startswith("_") and path.count("._") == 0:
        assert found is getattr(module_of(path), name)


def as_written_by_version_0_1(value: object) -> bytes:
    """Its pickle, with the paths of version 0.1 in the place of the present ones."""
    written = pickle.dumps(value, protocol=2)
    for now, before in MOVED.items():
        written = written.replace(f"c{now}\n".encode(), f"c{before}\n".encode())
        assert now.encode() not in written
    return written


def test_a_pickled_model_loads():
    torch.manual_seed(0)
    model = nn.Sequential(
        onepass.nn.Sequential(onepass.nn.BatchNorm2d(3), nn.ReLU()),
        onepass.nn.BatchNorm2d(3, activation="relu", dropout=0.5),
        onepass.nn.Dropout2d(0.25, scaling="test_time"),
        nn.Flatten(),
        nn.BatchNorm1d(48),
        nn.AlphaDropout(0.1),
        onepass.nn.CrossEntropyLoss(label_smoothing=0.1, z_loss=0.5),
    )
    conversion = onepass.nn.convert(model)
    model[:-1](torch.randn(5, 3, 4, 4))
    loaded, table = pickle.loads(as_written_by_version_0_1((model, conversion.table)))
    assert [type(one) for one in loaded.modules()] == [type(one) for one in model.modules()]
    assert str(loaded) == str(model)
    assert table == conversion.table
    model.eval(), loaded.eval()
    x = torch.randn(5, 3, 4, 4)
    assert torch.equal(loaded[:-1](x), model[:-1](x))
    target = torch.tensor([0, 5, 7, 1, 47])
    logits = torch.randn(5, 48)
    assert torch.equal(loaded[-1](logits, target), model[-1](logits, target))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_pickled_optimizer_goes_on(name):
    torch.manual_seed(0)
    param = nn.Parameter(torch.randn(7))
    optimizer = getattr(onepass.optim, name)([param], lr=0.1, weight_decay=0.01)
    param.grad = torch.randn(7)
    optimizer.step()
    written = as_written_by_version_0_1((param, optimizer))
    assert f"conepass.optim.{name.lower()}\n{name}\n".encode() in written
    loaded, its = pickle.loads(written)
    for one, whose in ((param, optimizer), (loaded, its)):
        one.grad = torch.full((7,), 0.5)
        whose.step()
    assert torch.equal(loaded, param)
