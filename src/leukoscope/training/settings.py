"""What a training run can be told: frozen dataclasses with the defaults, filled by ``leukoscope.config.build``."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NetworkSettings:
    """The network: backbone, pooled stages, head.

    Parameters
    ----------
    arch
        Any convolutional timm backbone by name: ``efficientnet_b0`` ... ``efficientnet_b7``, ``resnet50``, ...
    input_px
        Side of the square input, 32 to 1,024 px.
    head
        ``linear``: Dropout, Dense(1). ``paper``: Dense(128, ReLU), BatchNorm, Dropout, Dense(1).
    pooled_stages
        Stages whose global averages are joined into the embedding, counted as in a Python list (-1 is the last
        convolutional features, which Grad-CAM needs and which is therefore always among them).
    standardise_features
        Bring every pooled feature to mean 0 and standard deviation 1 over the training cells before the head.
    descriptor_head
        Add a linear term in the nine scalars (area, box, colour moments), measured inside the graph.
    drop_rate
        Dropout before the last dense layer, 0 to 1 (exclusive).
    drop_path_rate
        Stochastic depth of the backbone in training, 0 to 1 (exclusive).
    weights
        ``imagenet`` (timm's hub), ``none`` (random) or the path of a safetensors file.
    """

    arch: str = "efficientnet_b3"
    input_px: int = 300
    head: Literal["linear", "paper"] = "linear"
    pooled_stages: tuple[int, ...] = (-1,)
    standardise_features: bool = False
    descriptor_head: bool = False
    drop_rate: float = 0.3
    drop_path_rate: float = 0.0
    weights: str = "imagenet"

    def __post_init__(self) -> None:
        if not 32 <= self.input_px <= 1024:
            raise ValueError(f"input_px = {self.input_px}: expected 32 to 1024")
        for name in ("drop_rate", "drop_path_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 <= rate < 1")
        if -1 not in self.pooled_stages:
            raise ValueError(
                f"pooled_stages = {list(self.pooled_stages)}: must hold -1, the last stage, for Grad-CAM"
            )
        if len(set(self.pooled_stages)) != len(self.pooled_stages):
            raise ValueError(f"pooled_stages = {list(self.pooled_stages)}: a stage stands there twice")
