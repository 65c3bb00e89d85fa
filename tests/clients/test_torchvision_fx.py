"""torchvision's feature extraction has a tracer of its own: our layers are leaves in it, as torch's are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import onepass.nn
from tolerance import DEEP_FEATURES, NETWORK_SHARE

extraction = pytest.importorskip("torchvision.models.feature_extraction")
models = pytest.importorskip("torchvision.models")
NODES = {
    "resnet18": ["layer1.0.bn1", "layer2.1.relu_1", "layer4.1.bn2", "flatten"],
    "mobilenet_v2": ["features.3.conv.3", "features.18", "classifier.0"],
    "densenet121": ["features.denseblock1.denselayer2.norm1", "features.norm5"],
}


def pair(name: str, fuse_relu: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    theirs = getattr(models, name)(weights=None)
    for module in theirs.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    mine = getattr(models, name)(weights=None)
    mine.load_state_dict(theirs.state_dict())
    onepass.nn.convert(mine, fuse_relu=fuse_relu)
    assert any(isinstance(module, onepass.nn.BatchNorm2d) for module in mine.modules())
    return mine, theirs


@pytest.mark.parametrize("name", NODES)
def test_nodes_are_named_as_torchs(name):
    mine, theirs = pair(name, False)
    assert extraction.get_graph_node_names(mine) == extraction.get_graph_node_names(theirs)


@pytest.mark.parametrize("name", NODES)
def test_features_are_torchs_in_both_modes(name):
    mine, theirs = pair(name, False)
    x = torch.randn(4, 3, 64, 64)
    found, wanted = (extraction.create_feature_extractor(one, NODES[name]) for one in (mine, theirs))
    for training in (False, True):
        with torch.no_grad():
            features, expected = (one.train(training)(x) for one in (found, wanted))
        for node in NODES[name]:
            if training and node.startswith("classifier"):
                continue  # dropped: torch's masks differ
            scale = expected[node].abs().max().item()
            torch.testing.assert_close(
                features[node], expected[node], rtol=DEEP_FEATURES["rtol"], atol=NETWORK_SHARE * scale
            )


def test_features_behind_a_fused_relu():
    """The ReLU that runs with the batch norm in front of it keeps its name in the graph."""
    mine, theirs = pair("densenet121", True)
    assert "(norm0) and (relu0) in one pass" in repr(mine.features)
    nodes, x = ["features.relu0", "features.transition1.relu", "features.norm5"], torch.randn(4, 3, 64, 64)
    found, wanted = (extraction.create_feature_extractor(one.eval(), nodes)(x) for one in (mine, theirs))
    for node in nodes:
        torch.testing.assert_close(found[node], wanted[node], **DEEP_FEATURES)
