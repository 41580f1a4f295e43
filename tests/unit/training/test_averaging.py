import timm
import torch

from leukoscope.training.averaging import average_over_places
from leukoscope.training.backbone import create_backbone


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
