import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from leukoscope.training.kinds import stain


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(4, 3, 32, 32, generator=generator(1)) * 0.9 + 0.05


def test_density_and_back_is_the_identity(images):
    torch.testing.assert_close(stain.from_density(stain.to_density(images)), images)


def test_strength_zero_leaves_the_stain_alone(images):
    density = stain.to_density(images)
    torch.testing.assert_close(stain.restain(density, generator(), 0.0), density)


def test_a_restained_image_stays_an_image_and_differs_between_cells(images):
    same = images[:1].expand(4, -1, -1, -1)
    changed = stain.from_density(stain.restain(stain.to_density(same), generator(), 1.0))
    assert changed.min() >= 0.0
    assert changed.max() <= 1.0
    assert not torch.allclose(changed[0], changed[1], atol=0.01)


def test_a_seed_gives_the_same_stain(images):
    density = stain.to_density(images)
    torch.testing.assert_close(stain.restain(density, generator(5)), stain.restain(density, generator(5)))


def test_matching_gives_nuclei_the_wanted_density_and_leaves_clear_glass_clear():
    density = torch.zeros(1, 3, 8, 8)
    density[..., 4:] = torch.tensor([0.5, 1.0, 0.4]).view(1, 3, 1, 1)
    wanted = torch.tensor([[0.6, 0.8, 0.5]])
    matched = stain.match_density(density, density[:, :, 0, 7], wanted, torch.ones(1))
    torch.testing.assert_close(matched[:, :, 0, 7], wanted)
    assert matched[..., :4].abs().max() == 0.0
    torch.testing.assert_close(
        stain.match_density(density, density[:, :, 0, 7], wanted, torch.zeros(1)), density
    )


def test_refocus_keeps_at_zero_blurs_above_and_sharpens_below(images):
    kept, blurred, sharpened = (
        stain.refocus(images * 0.5 + 0.25, torch.full((4,), amount)) for amount in (0.0, 1.0, -0.3)
    )
    torch.testing.assert_close(kept, images * 0.5 + 0.25)
    assert blurred.std() < 0.5 * kept.std()
    assert sharpened.std() > kept.std()


def test_coding_rounds_the_cosine_transform_of_scipy(images):
    coarseness = 9.0
    coded = stain.compress(images, torch.full((4,), coarseness)).numpy()
    block = images[2, 1, 8:16, 16:24].numpy().astype(np.float64)
    order = np.arange(8)
    step = coarseness / 255 * 8 / 3 * (1 + 5 * (order[:, None] + order[None, :]) / 14)
    expected = idctn(np.round(dctn(block, norm="ortho") / step) * step, norm="ortho")
    np.testing.assert_allclose(coded[2, 1, 8:16, 16:24], expected.clip(0, 1), atol=1e-5)
    torch.testing.assert_close(stain.compress(images, torch.zeros(4)), images, atol=1e-5, rtol=0)
