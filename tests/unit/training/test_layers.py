import pytest
import timm
import torch
from torch import nn

from leukoscope.training.networks.backbone import create_backbone
from leukoscope.training.networks.layers import DepthwiseConvolution, average_over_places


def test_the_average_is_the_mean_and_so_is_its_gradient():
    values = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(3, 5, 1, 1, generator=torch.Generator().manual_seed(1))
    gradients = []
    for average in (average_over_places, lambda stage_map: stage_map.mean(dim=(2, 3), keepdim=True)):
        leaf = values.clone().requires_grad_()
        result = average(leaf)
        torch.testing.assert_close(result, values.mean(dim=(2, 3), keepdim=True))
        (result * weights).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_the_gradient_has_the_layout_of_the_map():
    found = []
    stage_map = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_() * 1.0
    stage_map.register_hook(lambda gradient: found.append(gradient.stride()))
    average_over_places(stage_map).square().sum().backward()
    assert found == [stage_map.stride()]


def test_a_backbone_computes_what_timm_computes_with_the_same_names():
    ours = create_backbone("efficientnet_b0")
    theirs = timm.create_model("efficientnet_b0", num_classes=0)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in (ours, theirs):
        model.eval()
        model(images).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def make_depthwise(kernel, stride):
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, kernel, stride=stride, padding=kernel // 2, groups=8, bias=False)


def gradients_of(convolution, images, *, mixed):
    leaf = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        result = convolution(leaf)
    (result.float() * torch.linspace(-1.0, 1.0, result.numel()).view(result.shape)).sum().backward()
    found = leaf.grad, convolution.weight.grad.clone()
    convolution.weight.grad = None
    return result, *found


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2), (5, 2)])
def test_a_depthwise_convolution_has_torchs_output_and_better_gradients(kernel, stride):
    plain = make_depthwise(kernel, stride)
    ours = DepthwiseConvolution(plain)
    assert ours.weight is plain.weight
    images = torch.randn(4, 8, 15, 15, generator=torch.Generator().manual_seed(1))
    exact = gradients_of(plain, images, mixed=False)
    mixed = gradients_of(plain, images, mixed=True)
    found = gradients_of(ours, images, mixed=True)
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], mixed[0])
    for place in (1, 2):
        error, usual = ((gradients[place] - exact[place]).norm() for gradients in (found, mixed))
        assert found[place].dtype == torch.float32
        assert error <= usual
        assert error < 0.01 * exact[place].norm()
    assert all(
        torch.equal(*pair) for pair in zip(gradients_of(ours, images, mixed=False), exact, strict=True)
    )


def test_a_frozen_depthwise_convolution_passes_gradients_on():
    ours = DepthwiseConvolution(make_depthwise(5, 1)).requires_grad_(False)
    leaf = torch.randn(2, 8, 9, 9).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours(leaf).float().sum().backward()
    assert leaf.grad is not None
    assert ours.weight.grad is None


def test_a_step_in_bfloat16_moves_a_backbone_as_timms_own_layers_do():
    ours = create_backbone("efficientnet_b0")
    theirs = timm.create_model("efficientnet_b0", num_classes=0)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in (ours, theirs):
        model.eval()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(images).square().mean()
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert any(isinstance(module, DepthwiseConvolution) for module in ours.modules())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
