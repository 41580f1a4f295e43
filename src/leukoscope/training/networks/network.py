"""The network: logits, embedding and exact Grad-CAM of uint8 cells in one forward pass.

The classifier follows a global average over a feature map F (C, h, w) (``networks.pooling``), so the logit
depends on F only through its channel averages p, and d logit / d F[c, y, x] = (d logit / d p[c]) / (h w) everywhere.
Grad-CAM (Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74) averages that gradient over the map and therefore has the
weights J[c] / (h w), with J the Jacobian of the head, which is written down here in closed form: no autograd, and the
map is exact.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from leukoscope.core.classes import ClassSchema
from leukoscope.core.errors import ConfigError
from leukoscope.imaging.descriptors import NINE_SCALARS
from leukoscope.training.networks.backbone import MISFITS, BackboneChain, describe_misfit
from leukoscope.training.networks.descriptor_graph import describe_pixels, mask_foreground
from leukoscope.training.networks.pooling import AveragePooling, MomentPooling, Pooled
from leukoscope.training.pixel_statistics import why_not_of_timm
from leukoscope.training.settings import NetworkSettings

PAPER_HIDDEN = 128
KERAS_BATCH_NORM_EPSILON = 1e-3
KERAS_BATCH_NORM_MOMENTUM = 0.01  # Keras writes 0.99: the share of the old statistics


class Outputs(NamedTuple):
    """Outputs of the network for a batch of N cells."""

    logits: Tensor
    """(N, K), one per class; of two classes (N, 1), the log-odds of the second before calibration."""
    embedding: Tensor
    """(N, D), the pooled features of all chosen stages."""
    activation_map: Tensor
    """(N, K, h, w) or (N, 1, h, w), Grad-CAM of each logit after ReLU, not normalized."""


class LinearHead(nn.Module):
    """Dropout, Dense(K)."""

    def __init__(self, width: int, drop_rate: float, outputs: int = 1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.dense = nn.Linear(width, outputs)
        nn.init.normal_(self.dense.weight, std=0.01)
        nn.init.zeros_(self.dense.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (N, K) of the features (N, D)."""
        logits: Tensor = self.dense(self.dropout(features))
        return logits

    def jacobian(self, features: Tensor) -> Tensor:
        """Return d logit / d feature in evaluation mode, (N, K, D): the weights, the same for every cell."""
        weight: Tensor = self.dense.weight
        return weight.expand(features.shape[0], -1, -1)


class PaperHead(nn.Module):
    """Dense(128, ReLU), BatchNorm, Dropout, Dense(K), initialized and normalized as in Keras."""

    def __init__(self, width: int, drop_rate: float, outputs: int = 1) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, PAPER_HIDDEN)
        self.norm = nn.BatchNorm1d(
            PAPER_HIDDEN, eps=KERAS_BATCH_NORM_EPSILON, momentum=KERAS_BATCH_NORM_MOMENTUM
        )
        self.dropout = nn.Dropout(drop_rate)
        self.dense = nn.Linear(PAPER_HIDDEN, outputs)
        for layer in (self.hidden, self.dense):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (N, K) of the features (N, D)."""
        logits: Tensor = self.dense(self.dropout(self.norm(functional.relu(self.hidden(features)))))
        return logits

    def jacobian(self, features: Tensor) -> Tensor:
        """Return d logit / d feature in evaluation mode, (N, K, D).

        logit = w . (g relu(V p + b) + c) with g = gamma / sqrt(variance + epsilon), so the Jacobian is
        (w g 1[V p + b > 0]) V.
        """
        norm = self.norm
        assert norm.running_var is not None  # noqa: S101  (BatchNorm1d keeps statistics by default)
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        active = (self.hidden(features) > 0).to(features.dtype)
        jacobian: Tensor = (self.dense.weight * (gain * active).unsqueeze(1)) @ self.hidden.weight
        return jacobian


def outputs_of(classes: ClassSchema) -> int:
    """Return how many logits a network of these classes has: 1 for two classes, else one per class."""
    return 1 if classes.size == 2 else classes.size


def check_architecture(settings: NetworkSettings, outputs: int = 1) -> None:
    """Run one black cell through a network, so that misfits are reported before the work.

    Raises
    ------
    ConfigError
        timm does not know the architecture, it has no feature maps, or it cannot take cells of ``input_px``.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = CellNetwork(settings, outputs).eval()
        try:
            network(torch.zeros(1, settings.input_px, settings.input_px, 3, dtype=torch.uint8))
        except MISFITS as error:
            raise ConfigError(describe_misfit(settings.arch, settings.input_px, error)) from None


class CellNetwork(nn.Module):
    """Backbone, pooling of one or several stages, head.

    Parameters
    ----------
    settings
        Which backbone and head. Weights are random here; ``weights.load_weights`` fills them.
    outputs
        Logits: 1 for two classes (the log-odds of the second), else one per class.

    Attributes
    ----------
    backbone
        The timm model as a chain of units.
    embedding_width
        D, the width of the pooled features.

    Notes
    -----
    All steps from the uint8 pixels to the logit are in the network (scaling to 0..1, normalization of the backbone, the
    statistics that standardize features and descriptors), as buffers that are stored with the weights.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor
    feature_mean: Tensor
    feature_std: Tensor
    descriptor_mean: Tensor
    descriptor_std: Tensor

    def __init__(self, settings: NetworkSettings, outputs: int = 1) -> None:
        super().__init__()
        self.settings = settings
        self.outputs = outputs
        self.backbone = BackboneChain(settings.arch, settings.drop_path_rate, settings.input_px)
        self.pooled_stages = tuple(self._stage_index(stage) for stage in settings.pooled_stages)
        channels = tuple(self.backbone.stages[stage].channels for stage in self.pooled_stages)
        deepest = max(self.pooled_stages)
        self.backbone.cut_behind(deepest)
        self.pooling: AveragePooling | MomentPooling = (
            MomentPooling(channels, deviations=settings.pooling == "statistics")
            if settings.pools_cell
            else AveragePooling(channels, self.pooled_stages.index(deepest))
        )
        self.embedding_width = self.pooling.width
        head_class = PaperHead if settings.head == "paper" else LinearHead
        self.head: LinearHead | PaperHead = head_class(self.embedding_width, settings.drop_rate, outputs)
        self.descriptor_head: nn.Linear | None = None
        if settings.descriptor_head:
            count = len(NINE_SCALARS)
            width = count + count * (count + 1) // 2 if settings.descriptor_products else count
            self.descriptor_head = nn.Linear(width, outputs, bias=False)
            nn.init.zeros_(self.descriptor_head.weight)
        configuration: Any = self.backbone.model.pretrained_cfg
        if not settings.pixel_mean and (
            reason := why_not_of_timm(configuration["mean"], configuration["std"])
        ):
            raise ConfigError(
                f"network.arch = {settings.arch!r}: timm gives mean {configuration['mean']} and std "
                f"{configuration['std']}: {reason} (pixel_mean and pixel_std replace them)"
            )
        mean = settings.pixel_mean or tuple(255.0 * value for value in configuration["mean"])
        std = settings.pixel_std or tuple(255.0 * value for value in configuration["std"])
        scale = 1.0 / torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("pixel_scale", scale)
        self.register_buffer("pixel_shift", -torch.tensor(mean).view(1, 3, 1, 1) * scale)
        self.register_buffer("feature_mean", torch.zeros(self.embedding_width))
        self.register_buffer("feature_std", torch.ones(self.embedding_width))
        self.register_buffer("descriptor_mean", torch.zeros(len(NINE_SCALARS)))
        self.register_buffer("descriptor_std", torch.ones(len(NINE_SCALARS)))

    def forward(self, cells: Tensor) -> Outputs:
        """Classify a batch; the graph that is exported.

        Parameters
        ----------
        cells
            (N, S, S, 3) uint8, RGB, from ``prepare_cell``.
        """
        pixels = cells.permute(0, 3, 1, 2).float()
        pooled = self.pool(self.normalize(pixels))
        descriptors = self.describe(pixels)
        features = self.standardize(pooled.embedding)
        explained_map = self.center_map(pooled)
        weights = self.head.jacobian(features) / self.feature_std
        weights = self.pooling.gradient(weights, pooled.embedding)
        weights = weights / (explained_map.shape[2] * explained_map.shape[3])
        activation_map = functional.relu(torch.einsum("nkc,nchw->nkhw", weights, explained_map))
        return Outputs(self.classify(features, descriptors), pooled.embedding, activation_map)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Scale pixels (N, 3, S, S), 0..255, to the input range of the backbone.

        With statistics of cells (``pixel_mean``) the background becomes 0, which no cell's pixel is.
        """
        images = pixels * self.pixel_scale + self.pixel_shift
        if self.settings.pixel_mean:
            images = images * mask_foreground(pixels)
        return images

    def pool(self, images: Tensor, start: int = 0) -> Pooled:
        """Return embedding and explained map from the input of backbone unit ``start``."""
        pooled: Pooled = self.pooling(self.backbone.stage_maps(images, self.pooled_stages, start), images)
        return pooled

    def describe(self, pixels: Tensor) -> Tensor | None:
        """Return the nine scalars (N, 9) of the pixels, or None where the network has no descriptor head."""
        return describe_pixels(pixels) if self.descriptor_head is not None else None

    def standardize(self, embedding: Tensor) -> Tensor:
        """Apply the training cells' feature statistics (identity unless ``standardize_features`` is set)."""
        return (embedding - self.feature_mean) / self.feature_std

    def center_map(self, pooled: Pooled) -> Tensor:
        """Return the explained map (N, C, h, w).

        Moments over the cell are taken as distances from the average training cell, at each position weighted by its
        mask, so that Grad-CAM shows why a cell differs from the average.
        """
        if pooled.weight is None:
            return pooled.explained_map
        return pooled.explained_map - self.pooling.averages(self.feature_mean)[:, None, None] * pooled.weight

    def classify(self, features: Tensor, descriptors: Tensor | None = None) -> Tensor:
        """Return the logits (N, K) from standardized features and, for a descriptor head, raw descriptors."""
        logits: Tensor = self.head(features)
        if self.descriptor_head is not None:
            if descriptors is None:
                raise ValueError("this network has a descriptor head: descriptors are needed")
            logits = logits + self.descriptor_head(self.expand(descriptors))
        return logits

    def expand(self, descriptors: Tensor) -> Tensor:
        """Return the descriptor head's input: standardized, with the products of each two where they are wanted."""
        standardized = (descriptors - self.descriptor_mean) / self.descriptor_std
        if not self.settings.descriptor_products:
            return standardized
        products = standardized.unsqueeze(2) * standardized.unsqueeze(1)
        rows, columns = torch.triu_indices(len(NINE_SCALARS), len(NINE_SCALARS)).unbind()
        return torch.cat([standardized, products[:, rows, columns]], dim=1)

    def embed(self, activations: Tensor, start: int = 0) -> Tensor:
        """Return the embedding (N, D) from the input of backbone unit ``start``.

        Normalized pixels for 0; behind the last unit it is the embedding itself.
        """
        return activations if start == len(self.backbone) else self.pool(activations, start).embedding

    def used_parameters(self) -> int:
        """Return how many parameters the forward pass uses: what timm keeps behind the deepest pooled stage is not."""
        heads = [self.head] if self.descriptor_head is None else [self.head, self.descriptor_head]
        modules = (*self.backbone.units, *heads)
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    def _stage_index(self, stage: int) -> int:
        count = len(self.backbone.stages)
        if not -count <= stage < count:
            raise ConfigError(
                f"network.pooled_stages: {stage} is outside the {count} stages of {self.settings.arch}"
            )
        return stage % count
