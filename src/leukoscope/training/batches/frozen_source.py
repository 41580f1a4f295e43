"""The frozen part of the network: in torch, or through an engine that is handed in.

Training does not import the inference engines. The caller that may import both (the command line) passes a
``GraphEngine``; the frozen units are then written to ONNX, normalization included, and run there. Both ways compute the
same function and differ by rounding only.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from leukoscope.core.errors import ConfigError
from leukoscope.training.batches.pixel_source import PLAIN_VIEW, Batch, BatchSource, PixelBatchSource
from leukoscope.training.export import export_part
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import EngineSettings

FEWEST_CELLS = 256
"""With fewer, writing and compiling a graph (some seconds) costs more than it saves; ``auto`` then stays with torch."""
_PRECISIONS = {"32-true": "f32", "32": "f32", "bf16-mixed": "bf16", "bf16-true": "bf16", "bf16": "bf16"}


class CompiledGraph(Protocol):
    """A graph that an engine has compiled."""

    def __call__(self, images: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return the outputs (N, ...) of images (N, ...)."""
        ...


class GraphEngine(Protocol):
    """What can run a graph on this machine's processor."""

    @property
    def name(self) -> str:
        """For the run's provenance."""
        ...

    def supports(self, precision: str) -> bool:
        """Return whether the processor computes in ``f32`` or ``bf16``."""
        ...

    def compile(self, model: bytes, *, precision: str, threads: int) -> CompiledGraph:
        """Compile an ONNX file's content."""
        ...


class FrozenUnits(nn.Module):
    """Units ``start`` to ``stop`` (exclusive) of the backbone, as one function.

    From the start the input is pixels, 0..255, and normalization is part of it; up to the end the output is the
    embedding (N, D).
    """

    def __init__(self, network: CellNetwork, start: int, stop: int) -> None:
        super().__init__()
        self.network, self.start, self.stop = network, start, stop

    def forward(self, images: Tensor) -> Tensor:
        """Return the input of unit ``stop``."""
        if self.start == 0:
            images = self.network.normalize(images)
        if self.stop == len(self.network.backbone):
            return self.network.embed(images, self.start)
        activations: Tensor = self.network.backbone(images, self.start, self.stop)
        return activations


class FrozenPart:
    """``FrozenUnits`` that do not change while this lives, so that an engine may hold a copy of them.

    Parameters
    ----------
    network
        In training or evaluation mode; frozen units always compute in evaluation mode.
    start, stop
        Units.
    fabric
        For the precision of torch.
    engine
        What computes instead of torch, and in which precision; None for torch.
    """

    def __init__(
        self,
        network: CellNetwork,
        start: int,
        stop: int,
        *,
        fabric: Fabric,
        engine: tuple[GraphEngine, str] | None,
    ) -> None:
        self.units = FrozenUnits(network, start, stop)
        self._fabric, self._engine = fabric, engine
        self._graph: CompiledGraph | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the input of unit ``stop``, float32 on the network's device."""
        if self._engine is None:
            return self.in_torch(images)
        return torch.from_numpy(self.compile(images)(images.contiguous().numpy()))

    def in_torch(self, images: Tensor) -> Tensor:
        """Compute in torch for any engine setting."""
        modes = [(module, module.training) for module in self.units.modules()]
        self.units.eval()
        try:
            with torch.no_grad(), self._fabric.autocast():
                if images.ndim == 4:
                    images = images.contiguous(memory_format=torch.channels_last)
                output: Tensor = self.units(images)
                return output.float()
        finally:
            for module, mode in modes:
                module.training = mode

    @property
    def waits_for_engine(self) -> bool:
        """Whether an engine still has to compile the graph."""
        return self._engine is not None and self._graph is None

    def compile(self, images: Tensor) -> CompiledGraph:
        """Return the engine's graph for images of this shape; it is made once."""
        if self._graph is None:
            assert self._engine is not None  # noqa: S101  (asked by the callers)
            engine, precision = self._engine
            model = export_part(self.units, tuple(images.shape[1:]))
            self._graph = engine.compile(model, precision=precision, threads=torch.get_num_threads())
        return self._graph


class FrozenBatchSource:
    """Yields the outputs of a frozen part, computed again for every batch.

    Parameters
    ----------
    source
        Gives the part's input.
    part
        Its first unit is the source's ``start``.
    """

    def __init__(self, source: BatchSource, part: FrozenPart) -> None:
        self._source, self._part = source, part
        self.start = part.units.stop
        self.count = source.count

    def view_of_epoch(self, epoch: int) -> int:
        """Return which view epoch ``epoch`` shows."""
        return self._source.view_of_epoch(epoch)

    def count_absent(self, rows: NDArray[np.int64], view: int) -> int:
        """Return 0: nothing is kept."""
        return 0

    def prepare(
        self, rows: NDArray[np.int64], view: int, progress: Callable[[int], None] | None = None
    ) -> None:
        """Let the engine compile."""
        if self._part.waits_for_engine:
            self._part.compile(self._input(rows[:1], view)[0])

    def batch(self, rows: NDArray[np.int64], view: int) -> Batch:
        """Return the batch of some cells under one view."""
        images, descriptors = self._input(rows, view)
        activations = self._part(images)
        if activations.ndim == 4:
            activations = activations.contiguous(memory_format=torch.channels_last)
        return Batch(activations, descriptors)

    def probe(self) -> Batch:
        """Return the batch of one plain cell, without starting an engine."""
        images, descriptors = self._input(np.zeros(1, np.int64), PLAIN_VIEW)
        return Batch(self._part.in_torch(images), descriptors)

    def _input(self, rows: NDArray[np.int64], view: int) -> tuple[Tensor, Tensor | None]:
        if isinstance(self._source, PixelBatchSource):
            return self._source.pixels_and_descriptors(rows, view)
        batch = self._source.batch(rows, view)
        return batch.activations, batch.descriptors


def choose_engine(
    settings: EngineSettings, device: torch.device, cells: int, engine: GraphEngine | None
) -> tuple[GraphEngine, str] | None:
    """Return what computes frozen parts, and in which precision; None for torch.

    Parameters
    ----------
    settings
        ``frozen_forward`` and ``precision``.
    device
        Where the rest is computed.
    cells
        Of the run.
    engine
        The engine that was passed in.

    Raises
    ------
    ConfigError
        ``frozen_forward`` names an engine that is unavailable on this device or in this precision.
    """
    wanted, precision = settings.frozen_forward, _PRECISIONS.get(settings.precision)
    if wanted == "torch":
        return None
    if wanted == "auto":
        apt = engine is not None and device.type == "cpu" and precision is not None and cells >= FEWEST_CELLS
        if engine is None or precision is None or not apt or not engine.supports(precision):
            return None
        return engine, precision
    if engine is None:
        raise ConfigError(
            f"engine.frozen_forward = {wanted!r}: no engine was handed in; start with 'leukoscope train', "
            "or set engine.frozen_forward=torch"
        )
    if device.type != "cpu":
        raise ConfigError(
            f"engine.frozen_forward = {wanted!r}: the engine computes on the processor, training on {device.type}; "
            "set engine.frozen_forward=torch"
        )
    if precision is None or not engine.supports(precision):
        raise ConfigError(
            f"engine.frozen_forward = {wanted!r} with engine.precision = {settings.precision!r}: this processor and "
            "engine compute in 32-true and, where the processor has it, bf16-mixed; set engine.frozen_forward=torch"
        )
    return engine, precision
