"""Changes of stain, light, focus and compression, on batches of tensors, on CPU or GPU.

Light that passes through a stained cell falls off exponentially with the stain (Beer and Lambert), so stains, light
sources and camera filters act linearly on the optical density -log(I): a 3x3 matrix near one mixes the channels, a
factor a channel is the strength of the stain, an added term the light. Each function draws from the generator it is
given and leaves the images as they are at strength 0.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

_DARKEST = 1.0 / 255.0


def to_density(images: Tensor) -> Tensor:
    """Return the optical density of (N, 3, H, W) intensities in 0..1; 0 counts as 1/255."""
    return -images.clamp(_DARKEST, 1.0).log()


def from_density(density: Tensor) -> Tensor:
    """Return intensities in 0..1 of optical densities."""
    return torch.exp(-density).clamp(0.0, 1.0)


def uniform(count: int, low: float, high: float, generator: torch.Generator, *shape: int) -> Tensor:
    """Draw (count, *shape) numbers from ``low`` to ``high`` on the generator's device."""
    drawn = torch.rand((count, *shape), generator=generator, device=generator.device)
    return low + (high - low) * drawn


def restain(density: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Mix channels by a matrix near one, scale each by 0.65 to 1.45 and tilt the light over the field.

    Parameters
    ----------
    density
        (N, 3, H, W) optical density.
    generator
        Where the random numbers come from.
    strength
        0 leaves the density unchanged, 1 is the range above.
    """
    count, _, height, width = density.shape
    eye = torch.eye(3, device=density.device)
    matrix = eye + strength * uniform(count, -0.12, 0.12, generator, 3, 3)
    common = strength * uniform(count, math.log(0.7), math.log(1.35), generator, 1, 1)
    gains = torch.exp(common + strength * uniform(count, -0.2, 0.2, generator, 3, 1)).clamp(
        0.65 if strength else 1.0, 1.45 if strength else 1.0
    )
    mixed = torch.einsum("nij,njhw->nihw", matrix * gains, density)
    light = strength * uniform(count, -0.12, 0.25, generator, 3, 1, 1)
    slope = (
        strength
        * uniform(count, -0.12, 0.12, generator, 1, 2)
        * (uniform(count, 0, 1, generator, 1, 1) < 0.4)
    )
    rows = torch.linspace(-1, 1, height, device=density.device).view(1, 1, height, 1)
    columns = torch.linspace(-1, 1, width, device=density.device).view(1, 1, 1, width)
    tilt = slope[..., 0, None, None] * rows + slope[..., 1, None, None] * columns
    return (mixed + light + tilt).clamp_min(0.0)


def match_density(density: Tensor, own: Tensor, wanted: Tensor, share: Tensor) -> Tensor:
    """Scale each channel of the optical density so that the nucleus absorbs as in another laboratory.

    A factor a channel leaves clear glass clear; shifting the density as well would tint it.

    Parameters
    ----------
    density
        (N, 3, H, W).
    own, wanted
        (N, 3) optical density of the nuclei, before and after.
    share
        (N,) 0 leaves as is, 1 matches fully; between them the logarithm of the factor is scaled.
    """
    ratio = (wanted / own.clamp_min(1e-3)).clamp(0.4, 1.8)
    return density * (ratio.log() * share[:, None]).exp()[..., None, None]


def refocus(images: Tensor, amount: Tensor) -> Tensor:
    """Blur (amount 0..1, to a Gaussian of 1.5 px) or sharpen (amount -0.5..0) each image; ``amount`` is (N,)."""
    offsets = torch.arange(-4, 5, device=images.device, dtype=images.dtype)
    row = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    row = row / row.sum()
    padded = functional.pad(images, (4, 4, 4, 4), mode="replicate")
    kernel = row.expand(3, 1, 1, 9)
    blurred = functional.conv2d(functional.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return torch.lerp(images, blurred, amount[:, None, None, None]).clamp(0.0, 1.0)


def compress(images: Tensor, coarseness: Tensor) -> Tensor:
    """Round the cosine transform of blocks of 8x8 px, as JPEG does.

    Parameters
    ----------
    images
        (N, 3, H, W) in 0..1, H and W multiples of 8.
    coarseness
        (N,) step of the lowest frequency in gray levels of 255; the highest has six times as large a step. 0 is off.
    """
    count, _, height, width = images.shape
    basis = _cosines(images.device)
    blocks = images.reshape(count, 3, height // 8, 8, width // 8, 8)
    spectrum = torch.einsum("ua,ncyaxb,vb->ncyuxv", basis, blocks, basis)
    order = torch.arange(8, device=images.device, dtype=images.dtype)
    steps = (1.0 + 5.0 * (order[:, None] + order[None, :]) / 14.0).view(1, 1, 1, 8, 1, 8)
    step = coarseness.view(-1, 1, 1, 1, 1, 1) * steps / 255.0 * 8.0 / 3.0
    rounded = torch.where(step > 0, (spectrum / step.clamp_min(1e-6)).round() * step, spectrum)
    result = torch.einsum("ua,ncyuxv,vb->ncyaxb", basis, rounded, basis)
    return result.reshape(images.shape).clamp(0.0, 1.0)


def _cosines(device: torch.device) -> Tensor:
    """Return the orthonormal cosine basis (8, 8): frequency by position."""
    position = torch.arange(8, device=device, dtype=torch.float32)
    basis = torch.cos(math.pi * (2 * position[None, :] + 1) * position[:, None] / 16) * 0.5
    basis[0] = math.sqrt(1 / 8)
    return basis
