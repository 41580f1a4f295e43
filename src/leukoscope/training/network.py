"""The network: uint8 cells in; logit, embedding and exact Grad-CAM out of one forward pass.

The classifier stands behind global average pooling, so the logit depends on the last feature map F (C, h, w) only
through its channel averages p, and d logit / d F[c, y, x] = (d logit / d p[c]) / (h w) everywhere. Grad-CAM (Selvaraju
et al. 2017, doi 10.1109/ICCV.2017.74) averages that gradient over the map and therefore has the weights J[c] / (h w),
with J the Jacobian of the head, which is written down here in closed form: no autograd, and the map is exact.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from leukoscope.errors import ConfigError
from leukoscope.training.backbone import BackboneChain
from leukoscope.training.descriptor_graph import DESCRIPTORS, describe_pixels
from leukoscope.training.settings import NetworkSettings

PAPER_HIDDEN = 128
KERAS_BATCH_NORM_EPSILON = 1e-3
KERAS_BATCH_NORM_MOMENTUM = 0.01  # Keras writes 0.99: the share of the old statistics


class Outputs(NamedTuple):
    """What the network says about a batch of N cells."""

    logits: Tensor
    """(N, 1), blast; log-odds before calibration."""
    embedding: Tensor
    """(N, D), the pooled features of all chosen stages."""
    activation_map: Tensor
    """(N, 1, h, w), Grad-CAM after ReLU, not normalised."""


class LinearHead(nn.Module):
    """Dropout, Dense(1)."""

    def __init__(self, width: int, drop_rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.dense = nn.Linear(width, 1)
        nn.init.normal_(self.dense.weight, std=0.01)
        nn.init.zeros_(self.dense.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (N, 1) of the features (N, D)."""
        logits: Tensor = self.dense(self.dropout(features))
        return logits

    def jacobian(self, features: Tensor) -> Tensor:
        """Return d logit / d feature in evaluation mode, (N, 1, D): the weights, the same for every cell."""
        weight: Tensor = self.dense.weight
        return weight.expand(features.shape[0], 1, -1)


class PaperHead(nn.Module):
    """Dense(128, ReLU), BatchNorm, Dropout, Dense(1), initialised and normalised as in Keras."""

    def __init__(self, width: int, drop_rate: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, PAPER_HIDDEN)
        self.norm = nn.BatchNorm1d(
            PAPER_HIDDEN, eps=KERAS_BATCH_NORM_EPSILON, momentum=KERAS_BATCH_NORM_MOMENTUM
        )
        self.dropout = nn.Dropout(drop_rate)
        self.dense = nn.Linear(PAPER_HIDDEN, 1)
        for layer in (self.hidden, self.dense):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (N, 1) of the features (N, D)."""
        logits: Tensor = self.dense(self.dropout(self.norm(functional.relu(self.hidden(features)))))
        return logits

    def jacobian(self, features: Tensor) -> Tensor:
        """Return d logit / d feature in evaluation mode, (N, 1, D).

        logit = w . (g relu(V p + b) + c) with g = gamma / sqrt(variance + epsilon), so the Jacobian is
        (w g 1[V p + b > 0]) V.
        """
        norm = self.norm
        assert norm.running_var is not None  # noqa: S101  (BatchNorm1d keeps statistics unless told not to)
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        active = (self.hidden(features) > 0).to(features.dtype)
        jacobian: Tensor = (self.dense.weight[0] * gain * active) @ self.hidden.weight
        return jacobian.unsqueeze(1)


class CellNetwork(nn.Module):
    """Backbone, global average pooling of one or several stages, head.

    Parameters
    ----------
    settings
        Which backbone and head. Weights are random here; ``weights.load_weights`` fills them.

    Attributes
    ----------
    backbone
        The timm model as a chain of units.
    embedding_width
        D, the joined width of the pooled stages.

    Notes
    -----
    Everything between the uint8 pixels and the logit is in here (scaling to 0..1, the backbone's own normalisation, the
    statistics that standardise features and descriptors), as buffers that travel with the weights.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor
    feature_mean: Tensor
    feature_std: Tensor
    descriptor_mean: Tensor
    descriptor_std: Tensor

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = BackboneChain(settings.arch, settings.drop_path_rate)
        self.pooled_stages = tuple(self._stage_index(stage) for stage in settings.pooled_stages)
        widths = [self.backbone.stages[stage].channels for stage in self.pooled_stages]
        self.embedding_width = sum(widths)
        last = self.pooled_stages.index(len(self.backbone.stages) - 1)
        self._last_slice = (sum(widths[:last]), sum(widths[: last + 1]))
        head_class = PaperHead if settings.head == "paper" else LinearHead
        self.head: LinearHead | PaperHead = head_class(self.embedding_width, settings.drop_rate)
        self.descriptor_head: nn.Linear | None = None
        if settings.descriptor_head:
            count = len(DESCRIPTORS)
            width = count + count * (count + 1) // 2 if settings.descriptor_products else count
            self.descriptor_head = nn.Linear(width, 1, bias=False)
            nn.init.zeros_(self.descriptor_head.weight)
        configuration: Any = self.backbone.model.pretrained_cfg
        mean = torch.tensor(configuration["mean"]).view(1, 3, 1, 1)
        std = torch.tensor(configuration["std"]).view(1, 3, 1, 1)
        self.register_buffer("pixel_scale", 1.0 / (255.0 * std))
        self.register_buffer("pixel_shift", -mean / std)
        self.register_buffer("feature_mean", torch.zeros(self.embedding_width))
        self.register_buffer("feature_std", torch.ones(self.embedding_width))
        self.register_buffer("descriptor_mean", torch.zeros(len(DESCRIPTORS)))
        self.register_buffer("descriptor_std", torch.ones(len(DESCRIPTORS)))

    def forward(self, cells: Tensor) -> Outputs:
        """Judge a batch; the graph that is exported.

        Parameters
        ----------
        cells
            (N, S, S, 3) uint8, RGB, from ``prepare_cell``.
        """
        pixels = cells.permute(0, 3, 1, 2).float()
        maps = self.backbone.stage_maps(self.normalise(pixels), self.pooled_stages)
        embedding = self.pool(maps)
        descriptors = self.describe(pixels)
        features = self.standardise(embedding)
        last_map = maps[self.pooled_stages.index(len(self.backbone.stages) - 1)]
        start, stop = self._last_slice
        jacobian = self.head.jacobian(features)[:, :, start:stop] / self.feature_std[start:stop]
        weights = jacobian / (last_map.shape[2] * last_map.shape[3])
        activation_map = functional.relu(torch.einsum("nkc,nchw->nkhw", weights, last_map))
        return Outputs(self.classify(features, descriptors), embedding, activation_map)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Bring pixels (N, 3, S, S), 0..255, to the scale the backbone expects."""
        return pixels * self.pixel_scale + self.pixel_shift

    def pool(self, maps: list[Tensor]) -> Tensor:
        """Return the global averages of the maps, joined: the embedding (N, D)."""
        return torch.cat([stage_map.mean(dim=(2, 3)) for stage_map in maps], dim=1)

    def describe(self, pixels: Tensor) -> Tensor | None:
        """Return the nine scalars (N, 9) of the pixels, or None where the network has no descriptor head."""
        return describe_pixels(pixels) if self.descriptor_head is not None else None

    def standardise(self, embedding: Tensor) -> Tensor:
        """Apply the training cells' feature statistics (identity unless ``standardise_features`` is set)."""
        return (embedding - self.feature_mean) / self.feature_std

    def classify(self, features: Tensor, descriptors: Tensor | None = None) -> Tensor:
        """Return the logits (N, 1) from standardised features and, for a descriptor head, raw descriptors."""
        logits: Tensor = self.head(features)
        if self.descriptor_head is not None:
            if descriptors is None:
                raise ValueError("this network has a descriptor head: descriptors are needed")
            standardised = (descriptors - self.descriptor_mean) / self.descriptor_std
            logits = logits + self.descriptor_head(self._expand(standardised))
        return logits

    def _expand(self, standardised: Tensor) -> Tensor:
        """Join the products of each two descriptors, squares included, where the settings ask for them."""
        if not self.settings.descriptor_products:
            return standardised
        products = standardised.unsqueeze(2) * standardised.unsqueeze(1)
        rows, columns = torch.triu_indices(len(DESCRIPTORS), len(DESCRIPTORS)).unbind()
        return torch.cat([standardised, products[:, rows, columns]], dim=1)

    def embed(self, activations: Tensor, start: int = 0) -> Tensor:
        """Return the embedding (N, D) from the input of backbone unit ``start``.

        Normalised pixels for 0; behind the last unit it is the embedding itself.
        """
        if start == len(self.backbone):
            return activations
        return self.pool(self.backbone.stage_maps(activations, self.pooled_stages, start))

    def _stage_index(self, stage: int) -> int:
        count = len(self.backbone.stages)
        if not -count <= stage < count:
            raise ConfigError(
                f"network.pooled_stages: {stage} is outside the {count} stages of {self.settings.arch}"
            )
        return stage % count
