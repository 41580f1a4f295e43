"""Random changes of light, stain, camera and file, in batches on any device."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_BLURS_PX = (0.0, 0.6, 1.0, 1.6)
# Quantization of luminance at quality 50, ITU-T T.81 (JPEG), table K.1.
_JPEG = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


@dataclass(frozen=True)
class ColorSettings:
    """How much is changed; each is a standard deviation of a logarithm, a largest value or a share of the samples.

    Attributes
    ----------
    mix
        Deviation of the 3x3 matrix of optical densities from the identity.
    strength
        Range of the factor on all optical densities.
    channel
        Deviation of the factor on each.
    white_share, white
        Share with another background color, and its deviation by channel.
    uneven_share, uneven
        Share with uneven illumination, and its deviation.
    haze_share, haze
        Share with a veil of one color, and its largest weight.
    gamma
        Deviation of the exponent.
    saturation_share, gray_share
        Share with another saturation, and of gray images.
    halo_share, noise_share, noise, jpeg_share
        Bright and dark rims, noise (largest deviation, levels), compression.
    """

    mix: float = 0.08
    strength: tuple[float, float] = (0.5, 1.7)
    channel: float = 0.14
    white_share: float = 0.65
    white: float = 0.14
    uneven_share: float = 0.5
    uneven: float = 0.22
    haze_share: float = 0.25
    haze: float = 0.4
    gamma: float = 0.2
    saturation_share: float = 0.3
    gray_share: float = 0.03
    halo_share: float = 0.2
    noise_share: float = 0.5
    noise: float = 9.0
    jpeg_share: float = 0.4


class _Dice:
    """Random numbers of one batch."""

    def __init__(self, count: int, rng: torch.Generator, device: torch.device) -> None:
        self.count, self.rng, self.device = count, rng, device

    def chance(self, share: float) -> Tensor:
        return (torch.rand(self.count, generator=self.rng, device=self.device) < share).view(-1, 1, 1, 1)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.count, *shape, generator=self.rng, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.count, *shape, generator=self.rng, device=self.device)


def change_colors(
    pixels: Tensor, background: Tensor, settings: ColorSettings, rng: torch.Generator
) -> Tensor:
    """Change a batch.

    Parameters
    ----------
    pixels
        (B, 3, C, C) float 0..255, C divisible by 8.
    background
        (B, 3), the color against which optical density is taken.
    settings
        How much.
    rng
        On the device of ``pixels``.

    Returns
    -------
    Tensor
        (B, 3, C, C) whole numbers 0..255.
    """
    dice = _Dice(len(pixels), rng, pixels.device)
    x = _restain(pixels, background, settings, dice)
    x = _light(x, settings, dice)
    x = _optics(x, settings, dice)
    return _camera(x, settings, dice)


def _restain(pixels: Tensor, background: Tensor, settings: ColorSettings, dice: _Dice) -> Tensor:
    white = background[:, :, None, None]
    density = -torch.log((pixels + 2) / (white + 2))
    identity = torch.eye(3, device=pixels.device)
    matrix = identity + settings.mix * dice.normal(3, 3)
    low, high = (math.log(value) for value in settings.strength)
    strength = (low + (high - low) * dice.uniform(1, 1)).exp()
    channels = (settings.channel * dice.normal(3, 1)).exp()
    density = torch.einsum("bij,bjhw->bihw", matrix * strength * channels, density)
    brightness = 130 + 120 * dice.uniform(1)
    other = (brightness * (settings.white * dice.normal(3)).exp()).clamp(40, 255)[:, :, None, None]
    white = torch.where(dice.chance(settings.white_share), other, white)
    return ((white + 2) * torch.exp(-density) - 2).clamp(0, 255)


def _light(x: Tensor, settings: ColorSettings, dice: _Dice) -> Tensor:
    side = x.shape[-1]
    field = settings.uneven * (dice.normal(1, 3, 3) + 0.5 * dice.normal(3, 3, 3))
    field = (
        functional.interpolate(field, (side, side), mode="bicubic", align_corners=True).clamp(-0.8, 0.8).exp()
    )
    x = torch.where(dice.chance(settings.uneven_share), x * field, x)
    weight = settings.haze * dice.uniform(1, 1, 1)
    veil = 255 * dice.uniform(3, 1, 1)
    veil = torch.where(dice.chance(0.7), veil.mean(dim=1, keepdim=True).expand_as(veil), veil)
    x = torch.where(dice.chance(settings.haze_share), x * (1 - weight) + veil * weight, x)
    x = (x.clamp(0, 255) / 255 + 1e-4) ** (settings.gamma * dice.normal(1, 1, 1)).exp() * 255
    gray = x.mean(dim=1, keepdim=True)
    factor = 0.4 + 1.2 * dice.uniform(1, 1, 1)
    factor = torch.where(dice.chance(settings.saturation_share), factor, torch.ones_like(factor))
    factor = torch.where(dice.chance(settings.gray_share), torch.zeros_like(factor), factor)
    return (gray + (x - gray) * factor).clamp(0, 255)


def _optics(x: Tensor, settings: ColorSettings, dice: _Dice) -> Tensor:
    choice = torch.randint(0, len(_BLURS_PX), (dice.count,), generator=dice.rng, device=x.device).view(
        -1, 1, 1, 1
    )
    result = x
    for index, spread in enumerate(_BLURS_PX):
        if spread:
            result = torch.where(choice == index, _blur(x, spread), result)
    halo = result + 1.8 * dice.uniform(1, 1, 1) * (result - _blur(result, 1.3))
    return torch.where(dice.chance(settings.halo_share), halo, result)


def _blur(x: Tensor, spread: float) -> Tensor:
    reach = math.ceil(2.5 * spread)
    line = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(line**2) / (2 * spread**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    x = functional.pad(x, (reach,) * 4, mode="replicate")
    x = functional.conv2d(x, kernel[:, :, None], groups=3)
    return functional.conv2d(x, kernel[:, :, :, None], groups=3)


def _camera(x: Tensor, settings: ColorSettings, dice: _Dice) -> Tensor:
    side = x.shape[-1]
    deviation = settings.noise * dice.uniform(1, 1, 1)
    fine, coarse = dice.normal(3, side, side), dice.normal(3, side // 2, side // 2)
    coarse = functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=False) * 1.5
    noise = torch.where(dice.chance(0.5), fine, coarse) * deviation
    x = torch.where(dice.chance(settings.noise_share), x + noise, x).clamp(0, 255)
    quality = 25 + 65 * dice.uniform(1)
    x = torch.where(dice.chance(settings.jpeg_share), _compress(x, quality), x)
    return x.clamp(0, 255).round()


def _compress(x: Tensor, quality: Tensor) -> Tensor:
    """Quantize blocks of 8 by 8 as JPEG does, each channel like luminance."""
    count, _, height, width = x.shape
    line = torch.arange(8, device=x.device, dtype=x.dtype)
    waves = torch.cos((2 * line[None] + 1) * line[:, None] * math.pi / 16) * 0.5
    waves[0] *= math.sqrt(0.5)
    basis = torch.einsum("uy,vx->uvyx", waves, waves).reshape(64, 1, 8, 8)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    table = torch.tensor(_JPEG, device=x.device, dtype=x.dtype) * scale
    steps = table.clamp(min=1)[:, None].expand(-1, 3, -1).reshape(-1, 64)[:, :, None, None]
    blocks = functional.conv2d(x.reshape(-1, 1, height, width) - 128, basis, stride=8)
    blocks = (blocks / steps).round() * steps
    return functional.conv_transpose2d(blocks, basis, stride=8).view(count, 3, height, width) + 128
