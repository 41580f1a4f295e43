"""A timm backbone as a chain of units: the handle for freezing, caching and pooling by stage.

timm's models differ in their attributes but nearly all convolutional ones are a chain: each child takes the output
of the one before it. ``BackboneChain`` finds that chain and proves it on a probe image, so that the same code can stop
at any unit, keep its activations and go on later.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from leukoscope.core.errors import ConfigError
from leukoscope.training.networks.layers import replace_slow_layers

PROBE_PX = 64
MISFITS = (RuntimeError, ValueError, AssertionError, IndexError, TypeError, NotImplementedError)
"""What layers raise when they are given an image of another size than they take."""


def describe_misfit(arch: str, input_px: int, error: Exception) -> str:
    """Return the message of an architecture that cannot take cells of this size."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return (
        f"network.arch = {arch!r} does not fit network.input_px = {input_px}: {reason}; "
        "choose another size or a convolutional architecture such as 'efficientnet_b3'"
    )


@dataclass(frozen=True)
class Stage:
    """A maximal run of units with the same output width and size.

    Parameters
    ----------
    last_unit
        Index of the unit whose output is the stage's output.
    channels
        Width of that output.
    """

    last_unit: int
    channels: int


class BackboneChain(nn.Module):
    """A timm model without classifier, run unit by unit.

    Parameters
    ----------
    arch
        timm's name of the model.
    drop_path_rate
        Stochastic depth in training, 0 to 1.
    input_px
        Side of the images that it will see; the chain is proved on smaller ones if the model takes them.

    Attributes
    ----------
    probe_px
        Side of the image on which it was proved.

    Raises
    ------
    ConfigError
        timm does not know the name, the model does not take images of ``input_px``, or its features are not maps.

    Notes
    -----
    The parameters keep timm's names (under ``model.``), so that a file of timm weights fits. Modules of the model after
    its features (a pooled ``conv_head``, say) are kept for that reason but never trained nor run.
    """

    def __init__(self, arch: str, drop_path_rate: float = 0.0, input_px: int = PROBE_PX) -> None:
        super().__init__()
        self.model = create_backbone(arch, drop_path_rate)
        self.probe_px = _find_probe_px(self.model, arch, input_px)
        units, trailing = _find_chain(self.model, self.probe_px)
        self.unit_names = tuple(name for name, _ in units)
        self._units = tuple(module for _, module in units)  # a tuple, so that parameters are registered once
        for module in trailing:
            module.requires_grad_(False)
        self.channels_last_features = False
        self.stages = self._find_stages(arch)

    def __len__(self) -> int:
        return len(self._units)

    @property
    def units(self) -> tuple[nn.Module, ...]:
        """The units in the order of execution."""
        return self._units

    def cut_behind(self, stage: int) -> None:
        """Run nothing behind a stage (counted from 0); the parameters there stay, so that files of weights fit."""
        for module in self._units[self.stages[stage].last_unit + 1 :]:
            module.requires_grad_(False)
        self._units = self._units[: self.stages[stage].last_unit + 1]
        self.unit_names = self.unit_names[: len(self._units)]
        self.stages = self.stages[: stage + 1]

    def forward(self, images: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run units ``start`` to ``stop`` (exclusive); ``images`` is the input of unit ``start``."""
        for unit in self._units[start:stop]:
            images = unit(images)
        return images

    def stage_maps(self, images: Tensor, stages: tuple[int, ...], start: int = 0) -> list[Tensor]:
        """Return the outputs of ``stages``, each (N, C, h, w), from the input of unit ``start``."""
        wanted = {self.stages[stage].last_unit for stage in stages}
        kept: dict[int, Tensor] = {}
        for index in range(start, len(self._units)):
            images = self._units[index](images)
            if index in wanted:
                kept[index] = images
        return [self.as_map(kept[self.stages[stage].last_unit]) for stage in stages]

    def as_map(self, features: Tensor) -> Tensor:
        """Permute features to (N, C, h, w)."""
        return features.permute(0, 3, 1, 2) if self.channels_last_features else features

    def _find_stages(self, arch: str) -> tuple[Stage, ...]:
        shapes = []
        with _evaluating(self.model):
            images = _probe(self.probe_px)
            for unit in self._units:
                images = unit(images)
                shapes.append(tuple(images.shape))
        last = shapes[-1]
        width = self.model.num_features
        if len(last) != 4 or width not in (last[1], last[3]):
            raise ConfigError(
                f"network.arch = {arch!r}: its features have shape {last}, not a map; "
                "Grad-CAM needs a convolutional backbone"
            )
        self.channels_last_features = last[1] != width
        channel_axis = 3 if self.channels_last_features else 1
        ends = [
            index
            for index, shape in enumerate(shapes)
            if index + 1 == len(shapes) or shape != shapes[index + 1]
        ]
        return tuple(Stage(index, shapes[index][channel_axis]) for index in ends if len(shapes[index]) == 4)


def create_backbone(arch: str, drop_path_rate: float = 0.0) -> nn.Module:
    """Return timm's model ``arch`` without classifier, randomly initialized."""
    options: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    try:
        model: nn.Module = timm.create_model(arch, pretrained=False, num_classes=0, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        near = timm.list_models(f"*{arch[:8]}*")[:5] if arch else []
        hint = f"; similar: {', '.join(near)}" if near else ""
        raise ConfigError(f"network.arch = {arch!r}: timm cannot build it ({error}){hint}") from None
    replace_slow_layers(model)
    return model


def forward_features(model: nn.Module, images: Tensor) -> Tensor:
    """Return what timm calls the features of a model, by its own method."""
    method: Any = model.forward_features
    features: Tensor = method(images)
    return features


class _evaluating:  # noqa: N801
    """Run a block in evaluation mode without gradients and put the modes of all modules back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modes = [(module, module.training) for module in model.modules()]
        self.no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self.no_grad.__enter__()
        self.model.eval()

    def __exit__(self, *details: object) -> None:
        for module, mode in self.modes:
            module.training = mode
        self.no_grad.__exit__(None, None, None)


def _probe(side_px: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, side_px, side_px, generator=generator)


def _find_probe_px(model: nn.Module, arch: str, input_px: int) -> int:
    """Return a side that the model takes: ``PROBE_PX``, which is fast, or else ``input_px``."""
    with _evaluating(model):
        for side_px in (PROBE_PX, input_px):
            try:
                forward_features(model, _probe(side_px))
            except MISFITS as error:
                misfit = describe_misfit(arch, input_px, error)
            else:
                return side_px
    raise ConfigError(misfit)


def _flatten(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if type(child) is nn.Sequential:
            yield from _flatten(child, path)
        else:
            yield path, child


def _find_chain(model: nn.Module, probe_px: int) -> tuple[list[tuple[str, nn.Module]], list[nn.Module]]:
    """Return the units whose composition equals ``forward_features``, and the children after them.

    A model that is no such chain becomes a single unit: it trains and exports, but cannot be cut inside.
    """
    children = list(model.named_children())
    with _evaluating(model):
        expected = forward_features(model, _probe(probe_px))
        if not isinstance(expected, Tensor):
            return [("forward_features", _Features(model))], []
        for count in range(len(children), 0, -1):
            units: list[tuple[str, nn.Module]] = []
            for name, child in children[:count]:
                units += list(_flatten(child, name)) if type(child) is nn.Sequential else [(name, child)]
            if _composes(units, expected, probe_px):
                meaningful = [unit for unit in units if not isinstance(unit[1], nn.Identity)]
                return meaningful, [child for _, child in children[count:]]
    return [("forward_features", _Features(model))], []


def _composes(units: list[tuple[str, nn.Module]], expected: Tensor, probe_px: int) -> bool:
    images = _probe(probe_px)
    try:
        for _, unit in units:
            images = unit(images)
    except MISFITS:
        return False
    return isinstance(images, Tensor) and images.shape == expected.shape and torch.equal(images, expected)


class _Features(nn.Module):
    """The features of a model that is no chain, as one unit; it owns no parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = (model,)  # hidden from registration: the model is already registered once

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's features."""
        return forward_features(self._model[0], images)
