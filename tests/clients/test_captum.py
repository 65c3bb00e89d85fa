"""captum: attributions of a converted model against the unconverted one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import onepass
from clients.programs import client, image_model, images
from tolerance import NETWORK_SHARE, VISIBLE_SHARE

attr = client("captum.attr")


def trained(fuse=None):
    """Makes a model in evaluation, with statistics that are not 0 and 1; converts it unless fuse is None."""
    net = image_model()
    net.train()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
        net(images())
    net.eval()
    if fuse is not None:
        onepass.nn.convert(net, fuse_relu=fuse)
    return net


METHODS = {
    "saliency": lambda net, x: attr.Saliency(net).attribute(x, target=1),
    "input-x-gradient": lambda net, x: attr.InputXGradient(net).attribute(x, target=1),
    "integrated-gradients": lambda net, x: attr.IntegratedGradients(net).attribute(x, target=1, n_steps=8),
    "deep-lift": lambda net, x: attr.DeepLift(net).attribute(x, torch.zeros_like(x), target=1),
    "deep-lift-shap": lambda net, x: attr.DeepLiftShap(net).attribute(x, torch.zeros_like(x), target=1),
    "guided-backprop": lambda net, x: attr.GuidedBackprop(net).attribute(x, target=1),
    "deconvolution": lambda net, x: attr.Deconvolution(net).attribute(x, target=1),
    "occlusion": lambda net, x: attr.Occlusion(net).attribute(x, (3, 4, 4), target=1, strides=(3, 4, 4)),
    "grad-cam": lambda net, x: attr.LayerGradCam(net, net[3]).attribute(x, target=1),
    "guided-grad-cam": lambda net, x: attr.GuidedGradCam(net, net[3]).attribute(x, target=1),
    "layer-activation": lambda net, x: attr.LayerActivation(net, net[5]).attribute(x),
    "layer-conductance": lambda net, x: attr.LayerConductance(net, net[3]).attribute(x, target=1, n_steps=8),
    "internal-influence": lambda net, x: attr.InternalInfluence(net, net[0]).attribute(x, target=1, n_steps=8),
    "lrp": lambda net, x: attr.LRP(net).attribute(x, target=1),
}


@pytest.mark.parametrize("fuse", [False, True], ids=["converted", "fused"])
@pytest.mark.parametrize("method", list(METHODS))
def test_attributions(method, fuse):
    """Attributions are the same, or both raise the method's error; with a fused ReLU it may also name revert()."""
    run = METHODS[method]
    try:
        expected = run(trained(), images().requires_grad_())
    except (AttributeError, RuntimeError, TypeError) as error:
        with pytest.raises(type(error)):
            run(trained(fuse), images().requires_grad_())
        return
    assert float(expected.abs().max()) > 0
    try:
        found = run(trained(fuse), images().requires_grad_())
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        assert fuse  # right or loud, where the ReLU that the method looks for is fused
        assert "revert" in str(error)  # noqa: PT017
        return
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=NETWORK_SHARE * scale)


def test_the_methods_differ_without_the_relu():
    """The comparison must notice guided back-propagation through a ReLU that the method does not see."""
    net = trained()
    expected = METHODS["guided-backprop"](net, images().requires_grad_())
    plain = METHODS["saliency"](net, images().requires_grad_())
    assert not torch.allclose(
        expected.abs(), plain, rtol=VISIBLE_SHARE, atol=VISIBLE_SHARE * float(expected.abs().max())
    )
