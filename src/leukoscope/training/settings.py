"""Settings of a training run: frozen dataclasses with the defaults, filled by ``leukoscope.core.config.build``."""

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from leukoscope.core.limits import LARGEST_COUNT, LARGEST_SEED, LARGEST_WORKERS
from leukoscope.training.pixel_statistics import why_not_of_pixels

STAGE_NAMES = ("stage1", "stage2")
"""Sections of the configuration, in the order in which they are run."""
_ANY = sys.float_info.max


def _check_bounds(settings: Any, **bounds: tuple[float, float]) -> None:
    """Raise ``ValueError`` for a number outside its bounds, both included; one that is no number is outside."""
    for name, (low, high) in bounds.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            expected = f"{low:g} or more" if high == _ANY else f"{_digits(low)} to {_digits(high)}"
            raise ValueError(f"{name} = {value}: expected {expected}")


def _digits(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


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
        ``linear``: Dropout, Dense(K). ``paper``: Dense(128, ReLU), BatchNorm, Dropout, Dense(K). K is 1 for two
        classes, else one per class.
    pixel_mean, pixel_std
        What pixels (0..255; red, green, blue) are normalized by, and the background set to 0: mean over cells, and
        standard deviation within a cell. Empty for the backbone's own, which are those of photographs.
    pooling
        ``average``: the mean of every channel over the whole map. ``moments``: its mean and mean square over the cell,
        without the background; ``statistics``: its mean and the logarithm of its standard deviation over the cell.
        Both need ``pixel_mean`` and an ``input_px`` that is a multiple of 32.
    pooled_stages
        Stages that are pooled into the embedding, counted as in a Python list (-1 is the last convolutional features).
        Stages after the deepest one are not run. Grad-CAM explains the deepest stage (``average``) or all pooled
        stages together.
    standardize_features
        Standardize every pooled feature to mean 0 and standard deviation 1 over the training cells before the head.
    descriptor_head
        Add a linear term in the nine scalars (area, box, color moments), measured inside the graph.
    descriptor_products
        Add their 45 products too (squares included); needs ``descriptor_head``.
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
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    pooling: Literal["average", "moments", "statistics"] = "average"
    pooled_stages: tuple[int, ...] = (-1,)
    standardize_features: bool = False
    descriptor_head: bool = False
    descriptor_products: bool = False
    drop_rate: float = 0.3
    drop_path_rate: float = 0.0
    weights: str = "imagenet"

    def __post_init__(self) -> None:
        _check_bounds(self, input_px=(32, 1024))
        for name in ("drop_rate", "drop_path_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 <= rate < 1")
        if self.descriptor_products and not self.descriptor_head:
            raise ValueError("descriptor_products needs descriptor_head = true")
        if not self.pooled_stages:
            raise ValueError("pooled_stages = []: give one or several stages, for example [-1]")
        if {len(self.pixel_mean), len(self.pixel_std)} not in ({0}, {3}) or min(
            self.pixel_std, default=1.0
        ) <= 0:
            raise ValueError(
                f"pixel_mean = {list(self.pixel_mean)}, pixel_std = {list(self.pixel_std)}: expected three numbers "
                "each, deviations above 0, or none of both"
            )
        if self.pixel_mean and (reason := why_not_of_pixels(self.pixel_mean, self.pixel_std)):
            raise ValueError(
                f"pixel_mean = {list(self.pixel_mean)}, pixel_std = {list(self.pixel_std)}: {reason}"
            )
        if self.pixel_mean and all(value == round(value) for value in self.pixel_mean):
            raise ValueError(
                f"pixel_mean = {list(self.pixel_mean)}: a pixel of just these values would become 0 and pass for "
                "background; give one of them a fraction, for example 69.1"
            )
        if self.pools_cell and (not self.pixel_mean or self.input_px % 32):
            raise ValueError(
                f"pooling = {self.pooling!r} with input_px = {self.input_px} and pixel_mean = {list(self.pixel_mean)}: "
                "expected a multiple of 32, and three numbers"
            )
        if len(set(self.pooled_stages)) != len(self.pooled_stages):
            raise ValueError(f"pooled_stages = {list(self.pooled_stages)}: a stage occurs twice")

    @property
    def pools_cell(self) -> bool:
        """Whether pooling is over the cell alone, without the background."""
        return self.pooling != "average"


@dataclass(frozen=True)
class DataSettings:
    """Which cells are drawn, and how often.

    Parameters
    ----------
    sampling
        ``shuffle``: each training cell once an epoch. ``class``: all classes equally often, with replacement.
        ``subject``: all classes, and within a class every group equally often, with replacement.
    epoch_cells
        Cells of an epoch; 0 for as many as there are training cells.
    inner_folds
        Models of an inner cross-validation over the training side, by group: they predict every training cell out of
        fold, for the decision layer. 0 for none, else from 2.
    """

    sampling: Literal["shuffle", "class", "subject"] = "shuffle"
    epoch_cells: int = 0
    inner_folds: int = 0

    def __post_init__(self) -> None:
        _check_bounds(self, epoch_cells=(0, LARGEST_COUNT))
        if self.inner_folds < 0 or self.inner_folds == 1:
            raise ValueError(f"inner_folds = {self.inner_folds}: expected 0, or 2 and more")


@dataclass(frozen=True)
class AugmentSettings:
    """Random changes of a training cell. The background stays black under all of them.

    Parameters
    ----------
    views
        Pre-drawn views of each cell: epoch e shows view e modulo ``views``. 0 draws new ones every epoch. With
        pre-drawn views the frozen part of the network runs once a view.
    rotation_degrees
        Uniform in plus or minus this, 0 to 180.
    flip_horizontal, flip_vertical
        Mirror half of the cells.
    shift
        Largest shift along each axis, as a share of the side.
    zoom_low, zoom_high
        Uniform factor of magnification.
    brightness, contrast
        Uniform factor within 1 plus or minus this; contrast turns around the foreground's mean.
    stain
        Strength of the perturbation in optical density (factor 1 plus or minus, offset plus or minus); 0.05 is light.
    stain_mix
        Largest share by which a cell takes over the optical-density statistics of a cell of another group, 0 to 1.
    """

    views: int = 0
    rotation_degrees: float = 180.0
    flip_horizontal: bool = True
    flip_vertical: bool = True
    shift: float = 0.04
    zoom_low: float = 0.95
    zoom_high: float = 1.05
    brightness: float = 0.1
    contrast: float = 0.1
    stain: float = 0.05
    stain_mix: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.zoom_low <= self.zoom_high <= _ANY:
            raise ValueError(
                f"zoom_low = {self.zoom_low}, zoom_high = {self.zoom_high}: expected 0 < low <= high"
            )
        _check_bounds(
            self,
            views=(0, LARGEST_COUNT),
            rotation_degrees=(0.0, 180.0),
            shift=(0.0, 0.5),
            brightness=(0.0, 0.9),
            contrast=(0.0, 0.9),
            stain=(0.0, 0.5),
            stain_mix=(0.0, 1.0),
        )

    @property
    def changes_anything(self) -> bool:
        """Whether a view can differ from the plain cell."""
        zoomed = (self.zoom_low, self.zoom_high) != (1.0, 1.0)
        mirrored = self.flip_horizontal or self.flip_vertical
        strengths = (
            self.rotation_degrees,
            self.shift,
            self.brightness,
            self.contrast,
            self.stain,
            self.stain_mix,
        )
        return zoomed or mirrored or any(strengths)


@dataclass(frozen=True)
class HeadFitSettings:
    """An exact fit of the linear head before the first stage: a penalized logistic regression.

    Cells count as ``data.sampling`` draws them; with ``subject`` every subject has the same weight within its class.

    Parameters
    ----------
    penalty
        Weight of the penalty in mean loss + penalty / 2 * (sum of squared weights), on standardized features; 0 leaves
        the fit out. It needs the linear head and ``standardize_features``. With both stages' epochs at 0 it is all
        that is trained.
    penalties
        Several penalties in place of one: that with the lowest log-loss on held-out subjects (every subject of the same
        weight) is used. It needs ``data.inner_folds``, which hold the subjects out, and no epochs.
    views
        Fit not only on the cells as they are, but also on so many of the changed views of ``augment``. It needs
        ``augment.views`` of at least this number.
    """

    penalty: float = 0.0
    penalties: tuple[float, ...] = ()
    views: int = 0

    def __post_init__(self) -> None:
        _check_bounds(self, penalty=(0.0, _ANY), views=(0, LARGEST_COUNT))
        if wrong := [value for value in self.penalties if not 0.0 < value <= _ANY]:
            raise ValueError(f"penalties = {list(self.penalties)}: {wrong[0]}: expected more than 0")
        if self.penalty and self.penalties:
            raise ValueError(
                f"penalty = {self.penalty:g} and penalties are both given: leave one of them out"
            )

    @property
    def asked(self) -> bool:
        """Whether the head is fitted."""
        return bool(self.penalty or self.penalties)


@dataclass(frozen=True)
class StageSettings:
    """One stage of training.

    Parameters
    ----------
    epochs
        At most so many; 0 leaves the stage out.
    learning_rate
        Of the head; the backbone's is smaller by the optimizer's ``layer_decay``.
    unfreeze_layers
        The last so many layers of the backbone are trained: 0 none, -1 all. A layer is a module that has parameters of
        its own or no children (convolution, norm, activation, sigmoid; not Identity), in the order of execution.
    patience
        Epochs without a lower validation loss before the stage ends; 0 never. In every case the weights of the epoch
        with the lowest validation loss are restored.
    """

    epochs: int
    learning_rate: float
    unfreeze_layers: int = 0
    patience: int = 3

    def __post_init__(self) -> None:
        _check_bounds(
            self, epochs=(0, LARGEST_COUNT), patience=(0, LARGEST_COUNT), unfreeze_layers=(-1, LARGEST_COUNT)
        )
        if not 0.0 < self.learning_rate <= _ANY:
            raise ValueError(f"learning_rate = {self.learning_rate}: expected more than 0")


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer.

    Parameters
    ----------
    name
        ``adam``, ``adamw`` or ``sgd`` (momentum 0.9).
    weight_decay
        Weight decay of matrices and kernels; never of biases and norms.
    schedule
        ``constant``, or ``cosine`` down to 0 over the stage.
    warmup_epochs
        Linear rise of the learning rate at the start of a stage.
    layer_decay
        Factor of the learning rate from one backbone stage to the one before it; 1 for none.
    clip_norm
        Largest norm of the gradient; 0 for no limit.
    ema_decay
        Decay a step of the averaged weights that are validated and kept; 0 for no averaging.
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    weight_decay: float = 0.01
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_epochs: float = 0.0
    layer_decay: float = 0.8
    clip_norm: float = 5.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_bounds(self, weight_decay=(0.0, _ANY), warmup_epochs=(0.0, _ANY), clip_norm=(0.0, _ANY))
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay = {self.ema_decay}: expected 0 <= decay < 1")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"layer_decay = {self.layer_decay}: expected 0 < decay <= 1")


@dataclass(frozen=True)
class LossSettings:
    """Cross-entropy and what may be added to it.

    Parameters
    ----------
    label_smoothing
        Share of the target that is spread evenly over the classes, 0 to 0.5.
    class_weights
        Weight all classes equally at any counts; only with ``data.sampling = "shuffle"``, which does not.
    group_robust_rate
        Step of the exponentiated weights over groups (Sagawa et al. 2020, arXiv:1911.08731); 0 for the plain mean.
    """

    label_smoothing: float = 0.0
    class_weights: bool = False
    group_robust_rate: float = 0.0

    def __post_init__(self) -> None:
        _check_bounds(self, label_smoothing=(0.0, 0.5), group_robust_rate=(0.0, _ANY))


@dataclass(frozen=True)
class BatchNormSettings:
    """What batch norms of the backbone do.

    Parameters
    ----------
    unfrozen
        Unfrozen ones ``train`` (batch statistics, as in Keras) or keep ``frozen`` statistics. Frozen ones always keep
        theirs.
    reestimate_cells
        Replace the statistics by those of so many training cells before training; 0 keeps those of the weights.
    """

    unfrozen: Literal["train", "frozen"] = "frozen"
    reestimate_cells: int = 0

    def __post_init__(self) -> None:
        if self.reestimate_cells < 0 or self.reestimate_cells == 1:  # one cell has no variance over cells
            raise ValueError(f"reestimate_cells = {self.reestimate_cells}: expected 0, or 2 and more")


@dataclass(frozen=True)
class EngineSettings:
    """Machine and speed. ``batch_size`` is part of the recipe; on one device the rest changes rounding only.

    With several devices dropout draws other numbers, and batch norms that train see the cells of one device at a time.

    Parameters
    ----------
    batch_size
        Of an optimizer step, over all devices together.
    accelerator, devices, nodes, precision
        As Lightning Fabric names them; ``precision`` is ``32-true``, ``bf16-mixed``, ``16-mixed``, ...
    threads
        Of torch on the CPU; 0 leaves torch's choice. Results are bit-equal only at the same number.
    frozen_forward
        What computes the frozen part of the network: ``torch``; ``openvino``, which on a processor is several times
        faster and differs by rounding only; or ``auto``: ``openvino`` on a CPU in ``32-true`` or ``bf16-mixed`` with at
        least 256 cells, else ``torch``. It computes in the run's precision.
    activation_cache
        Cache the activations at the freeze boundary, of pre-drawn views and of the unaugmented cells that validation
        uses after every epoch: ``auto`` if it applies and there is disk space, or ``off``.
    cache_dtype
        ``float16`` halves the cache; ``float32`` makes it exact.
    """

    batch_size: int = 32
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: str = "32-true"
    threads: int = 0
    frozen_forward: Literal["auto", "torch", "openvino"] = "auto"
    activation_cache: Literal["auto", "off"] = "auto"
    cache_dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        _check_bounds(
            self,
            batch_size=(2, LARGEST_COUNT),
            devices=(1, LARGEST_WORKERS),
            nodes=(1, LARGEST_WORKERS),
            threads=(0, LARGEST_WORKERS),
        )


@dataclass(frozen=True)
class ScoreSettings:
    """How the trained network's scores are taken.

    Parameters
    ----------
    tta
        Views averaged for a score: 1, 4 (quarter turns) or 8 (and their mirror images). Only a run with 1 is exported,
        since a bundle's rules are those of one view.
    batch_size
        Of a forward pass.
    """

    tta: Literal[1, 4, 8] = 1
    batch_size: int = 32

    def __post_init__(self) -> None:
        _check_bounds(self, batch_size=(1, LARGEST_COUNT))


@dataclass(frozen=True)
class TrainSettings:
    """A whole run: what ``configs/*.toml`` fill."""

    seed: int = 0
    network: NetworkSettings = field(default_factory=NetworkSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    head_fit: HeadFitSettings = field(default_factory=HeadFitSettings)
    stage1: StageSettings = field(default_factory=lambda: StageSettings(epochs=5, learning_rate=1e-3))
    stage2: StageSettings = field(
        default_factory=lambda: StageSettings(epochs=15, learning_rate=1e-4, unfreeze_layers=-1)
    )
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    batch_norm: BatchNormSettings = field(default_factory=BatchNormSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)

    def __post_init__(self) -> None:
        _check_bounds(self, seed=(0, LARGEST_SEED))
        if self.loss.class_weights and self.data.sampling != "shuffle":
            raise ValueError(
                f"loss.class_weights = true with data.sampling = {self.data.sampling!r} corrects the classes' shares "
                "twice: leave one of them out"
            )
        epochs = self.stage1.epochs + self.stage2.epochs
        if not epochs and not self.head_fit.asked:
            raise ValueError(
                "stage1.epochs, stage2.epochs and head_fit.penalty are all 0: nothing would be trained"
            )
        if self.head_fit.penalties and (epochs or not self.data.inner_folds):
            raise ValueError(
                "head_fit.penalties needs data.inner_folds of 2 or more, and stage1.epochs and stage2.epochs of 0"
            )
        if self.head_fit.views and (
            self.augment.views < self.head_fit.views or not self.augment.changes_anything
        ):
            raise ValueError(
                f"head_fit.views = {self.head_fit.views} with augment.views = {self.augment.views}: expected at least "
                "as many, and changes in [augment]"
            )
        if self.head_fit.asked and (self.network.head != "linear" or not self.network.standardize_features):
            raise ValueError(
                "head_fit.penalty needs network.head = 'linear' and network.standardize_features = true"
            )

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the stages that are run."""
        return tuple(name for name in STAGE_NAMES if getattr(self, name).epochs)

    @property
    def stages(self) -> tuple[StageSettings, ...]:
        """The stages that are run."""
        return tuple(getattr(self, name) for name in self.stage_names)
